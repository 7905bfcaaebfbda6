"""What happens to requests in an emergency, compiled: an instance goes with them inside, or its queue grows."""

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.control import cancel, submit, take_waiting
from dynamollm.simulator.dispatch import choose
from dynamollm.simulator.fleet_state import COUNTED_BIT, Fleet
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.memory import free_slot
from dynamollm.simulator.state import NONE, WAITING, Engines
from dynamollm.simulator.tally import fail


@compiled
def drop(st: Engines, fleet: Fleet, i: int, now_s: float) -> int:
    """Fail everything inside an instance that goes now; return how many requests that were."""
    advance(st, i, now_s)
    dropped = 0
    for slot in range(st.requests.size):
        request = st.requests[slot]
        if request.stage > 0 and request.instance == i:
            fail(fleet, request.request_class, request.tag & COUNTED_BIT)
            cancel(st, slot, now_s)
            dropped += 1
    return dropped


@compiled
def resteer(st: Engines, fleet: Fleet, i: int, rank: NDArray[np.int32], now_s: float) -> int:
    """Give requests that instance ``i`` has not begun to instances without a queue; return how many went.

    Args:
        st: the state.
        fleet: who serves.
        i: an instance whose queue grows.
        rank: [pool], pools to try in this order (its own, then larger ones); −1 ends it.
        now_s: the moment.
    """
    moved = 0
    while st.instances[i].n_waiting > 1:
        target = NONE
        for k in range(rank.size):
            if rank[k] == NONE or target != NONE:
                break
            candidate = choose(st, fleet, rank[k], now_s)
            if candidate not in (NONE, i) and st.instances[candidate].n_waiting == 0:
                target = candidate
        if target == NONE:
            break
        head = st.instances[i].queue
        if head == NONE or st.requests[head].made > 0:
            break  # what was preempted has tokens already: it stays
        slot = take_waiting(st, i, now_s)
        request = st.requests[slot]
        tag, request_class, arrival_s, order = request.tag, request.request_class, request.arrival_s, request.rank
        inputs, outputs = request.input_tokens, request.output_tokens
        free_slot(st, slot)
        submit(st, target, tag, request_class, inputs, outputs, arrival_s, order, now_s)
        fleet.totals[0].chosen += 1
        fleet.last_chosen[target] = fleet.totals[0].chosen
        moved += 1
    fleet.totals[0].resteered += moved
    return moved


@compiled
def squash(st: Engines, fleet: Fleet, i: int, now_s: float) -> int:
    """Fail the requests of instance ``i`` that have not begun and whose TTFT is past its SLO; return how many."""
    squashed = 0
    for slot in range(st.requests.size):
        request = st.requests[slot]
        if request.stage == WAITING and request.instance == i:
            late_ms = (now_s - request.arrival_s) * 1e3
            if request.made == 0 and late_ms > fleet.ttft_slo_ms[request.request_class]:
                fail(fleet, request.request_class, request.tag & COUNTED_BIT)
                cancel(st, slot, now_s)
                squashed += 1
    fleet.totals[0].squashed += squashed
    return squashed
