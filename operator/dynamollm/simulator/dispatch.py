"""The router's part, compiled: each arrival to an instance, or into the queue in front of full ones.

The choice is that of `core.selection`: pools in the order that ``pool_order`` gives, of a pool the instance with the
fewest requests, of what it carries, that has room, equals in turn. A test holds both to the same answers.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.control import NO_ROOM, submit
from dynamollm.simulator.fleet_state import COUNTED_BIT, MAX_IN_FLIGHT_PER_GPU, WAIT_S, Fleet
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.state import NONE, Engines
from dynamollm.simulator.tally import collect, fail

ALL_FULL: Final = -3
"""No instance has room for a request."""

_LOOK_S: Final = 0.05
"""While requests wait for a slot, how often is looked for one."""


@compiled
def choose(st: Engines, fleet: Fleet, pool: int, now_s: float) -> int:
    """Return the least loaded instance of a pool that has room, or −1, and bring its members up to now."""
    known = True
    for k in range(fleet.n_members[pool]):
        i = fleet.members[pool, k]
        if st.instances[i].wake_s <= now_s:
            advance(st, i, now_s)
        if _has_room(st, i) and fleet.full_in_flight[i] == np.inf:
            known = False
    best = NONE
    best_load = 0.0
    for k in range(fleet.n_members[pool]):
        i = fleet.members[pool, k]
        if not _has_room(st, i):
            continue
        one = st.instances[i]
        load = (one.in_flight + 1) / (fleet.full_in_flight[i] if known else one.tensor_parallel)
        if best == NONE or load < best_load or (load == best_load and fleet.last_chosen[i] < fleet.last_chosen[best]):
            best = i
            best_load = load
    return best


@compiled
def _has_room(st: Engines, i: int) -> bool:
    one = st.instances[i]
    return bool(one.in_flight < MAX_IN_FLIGHT_PER_GPU * one.tensor_parallel)


@compiled
def _is_full(st: Engines, fleet: Fleet, i: int) -> bool:
    return bool(st.instances[i].in_flight + 1 > fleet.full_in_flight[i])


@compiled
def choose_among(st: Engines, fleet: Fleet, predicted: int, now_s: float) -> int:
    """Return the instance for a request of a class, or −1; as the function of that name in `core.selection`."""
    order = fleet.order[predicted]
    for k in range(order.size):
        if order[k] == NONE:
            break
        i = choose(st, fleet, order[k], now_s)
        if i == NONE:
            continue
        if k == 0 and _is_full(st, fleet, i):
            for larger in range(1, fleet.larger[predicted]):
                j = choose(st, fleet, order[larger], now_s)
                if j != NONE and not _is_full(st, fleet, j):
                    return j
        return i
    return NONE


@compiled
def _place(st: Engines, fleet: Fleet, request: Any, now_s: float) -> int:
    """Give a request to an instance: its slot, ``TOO_LONG``, ``NO_ROOM`` (of the state), or ``ALL_FULL``."""
    i = choose_among(st, fleet, request.predicted, now_s)
    if i == NONE:
        return ALL_FULL
    rank = request.arrival_s
    if fleet.settings[0].by_deadline:
        rank += fleet.ttft_slo_ms[request.predicted] * 1e-3
    tag = request.predicted | (COUNTED_BIT if request.counted else 0)
    status: int = submit(
        st,
        i,
        tag,
        request.request_class,
        request.input_tokens,
        request.output_tokens,
        request.arrival_s,
        rank,
        now_s,
    )
    if status >= 0:
        fleet.totals[0].chosen += 1
        fleet.last_chosen[i] = fleet.totals[0].chosen
    return status


@compiled
def _arrived(fleet: Fleet, request: Any) -> None:
    predicted = fleet.by_predicted[request.predicted]
    predicted.arrivals += 1
    predicted.input_tokens += request.input_tokens
    if request.counted:
        fleet.by_class[request.request_class].requests += 1


@compiled
def serve(st: Engines, fleet: Fleet, arrivals: NDArray[Any], index: int, until_s: float) -> int:
    """Hand out the arrivals from ``index`` on that come before ``until_s`` and bring all instances up to it.

    Returns the index of the next arrival; the negative of it less one where the state has no slot left: take a larger
    one, and go on from there.
    """
    totals = fleet.totals[0]
    while True:
        next_s = until_s
        if index < arrivals.size:
            next_s = min(next_s, arrivals[index].arrival_s)
        if totals.waiting > 0 and not _serve_queue(st, fleet, next_s):
            return -index - 1
        if index >= arrivals.size or arrivals[index].arrival_s >= until_s:
            break
        if not _admit(st, fleet, arrivals[index]):
            return -index - 1
        index += 1
    for i in range(st.instances.size):
        if st.instances[i].in_use:
            advance(st, i, until_s)
    collect(st, fleet)
    return index


@compiled
def _admit(st: Engines, fleet: Fleet, request: Any) -> bool:
    """Give an arrival to an instance, or let it wait, or refuse it; False: the state has no slot left."""
    totals = fleet.totals[0]
    status = ALL_FULL
    if totals.waiting == 0:
        status = _place(st, fleet, request, request.arrival_s)
        if status == NO_ROOM and collect(st, fleet) > 0:
            status = _place(st, fleet, request, request.arrival_s)
        if status == NO_ROOM:
            return False
    _arrived(fleet, request)
    if status == ALL_FULL and totals.waiting < fleet.queue.size:
        if totals.waiting == 0:
            totals.looked_s = request.arrival_s
        fleet.queue[(totals.first + totals.waiting) % fleet.queue.size] = request
        totals.waiting += 1
    elif status < 0:
        fail(fleet, request.request_class, request.counted)
    return True


@compiled
def _serve_queue(st: Engines, fleet: Fleet, until_s: float) -> bool:
    """Look after who waits until this moment, first come first; False: the state has no slot left."""
    totals = fleet.totals[0]
    while totals.waiting > 0 and totals.looked_s < until_s:
        now_s = min(until_s, totals.looked_s + _LOOK_S)
        request = fleet.queue[totals.first]
        if now_s - request.arrival_s > WAIT_S:
            fail(fleet, request.request_class, request.counted)
        else:
            status = _place(st, fleet, request, now_s)
            if status == NO_ROOM:
                if collect(st, fleet) == 0:
                    return False
                continue
            if status == ALL_FULL:
                # Any pool may serve any class: what has no room for the first has none for the others.
                totals.looked_s = now_s
                continue
            if status < 0:
                fail(fleet, request.request_class, request.counted)
        totals.first = (totals.first + 1) % fleet.queue.size
        totals.waiting -= 1
    return True
