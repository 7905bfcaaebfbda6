"""A fixed fleet under a stream of requests: identical instances, one clock, each request to the one with the fewest inside.

Several routers know of each other's requests nothing: each sends to the instance with the fewest of its own.

With one instance it is what the closed forms of `core.capacity` are checked against; with several, the baseline that
savings are measured from. Clusters that change go beyond it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order
from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.control import NO_ROOM, start, submit
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.state import Engines, InstanceSettings, grown, new_engines
from dynamollm.simulator.steps import StepTable

_SLOTS: Final = 4096
"""Requests inside the fleet to begin with; an overloaded one gets more."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of the requests, [request] in the order given; simulated seconds, joules of all GPUs."""

    first_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    tbt_s: NDArray[np.float64]
    """Mean time between a request's tokens; 0 for a single token."""
    preemptions: NDArray[np.int32]
    curve_j: NDArray[np.float64]
    """[step] until the end of each ``step_s``; a step of an engine counts once it has ended."""
    step_s: float
    busy_s: float
    """Of all instances."""
    gaps: NDArray[np.int64]
    """[class, bin]: see `state.gap_quantile_ms`."""
    class_j: NDArray[np.float64]
    """[class + 1]: energy by class; last, at rest."""

    @property
    def energy_j(self) -> float:
        """Energy until the end of the step in which the last request ended."""
        return float(self.curve_j[-1])

    @property
    def until_s(self) -> float:
        """When that is."""
        return self.step_s * self.curve_j.size


def serve(
    profile: Profile,
    *,
    tensor_parallel: int,
    clock_mhz: int,
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    request_class: NDArray[np.int64],
    instances: int = 1,
    router: NDArray[np.int64] | None = None,
    order: Order = Order.FIRST_COME_FIRST_SERVED,
    ttft_slo_s: NDArray[np.float64] | None = None,
    step_s: float = 10.0,
    settings: InstanceSettings | None = None,
    table: StepTable | None = None,
) -> Served:
    """Serve requests until all have ended.

    Args:
        profile: step costs, and the engine's settings.
        tensor_parallel: GPUs of each instance.
        clock_mhz: SM clock.
        arrival_s: [request], ascending, 0 or more.
        input_tokens: [request].
        output_tokens: [request].
        request_class: [request], index of the class, 0 to 8.
        instances: of the fleet.
        router: [request], index of the router that it comes to, 0 or more; None: there is one.
        order: of service.
        ttft_slo_s: [request]; a deadline is arrival + this. Needed for earliest deadline first.
        step_s: between two readings of the energy.
        settings: others than the profile's.
        table: of the profile, where the caller has one already.

    Raises:
        InvalidInputError: no requests, lengths that differ, arrivals out of order, or a request that fits into no KV
            cache.
    """
    rank = _ranks(arrival_s, order, ttft_slo_s)
    router = np.zeros(arrival_s.size, np.int64) if router is None else router
    arrays = (arrival_s, input_tokens, output_tokens, request_class, rank, router)
    if arrival_s.size == 0 or len({one.shape for one in arrays}) > 1 or np.any(np.diff(arrival_s) < 0):
        raise InvalidInputError("requests must be arrays of one length, 1 or more, in order of arrival")
    table = table or StepTable(profile)
    settings = settings or InstanceSettings.of(profile, tensor_parallel=tensor_parallel)
    _refuse_too_long(input_tokens + output_tokens, settings.kv_capacity_tokens)
    engines = new_engines(table, instances=instances, batch=settings.max_sequences, slots=_SLOTS)
    row = table.row(tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
    for place in range(instances):
        start(engines, place, settings, tensor_parallel, row, 0.0, 0.0)
    first_s, end_s = np.full(arrival_s.size, np.nan), np.full(arrival_s.size, np.nan)
    preemptions = np.zeros(arrival_s.size, np.int32)
    sent = np.zeros((int(router.max()) + 1, instances, 2), np.int64)
    curve: list[float] = []
    index = ended = 0
    while ended < arrival_s.size:
        index, status = _until(engines, index, step_s * (len(curve) + 1), sent, *arrays)
        collected = int(engines.totals["n_done"][0])
        done = engines.done[:collected]
        first_s[done["tag"]], end_s[done["tag"]] = done["first_s"], done["end_s"]
        preemptions[done["tag"]] = done["preemptions"]
        engines.totals["n_done"] = 0
        ended += collected
        if status != NO_ROOM:
            curve.append(float(engines.instances["energy_j"].sum()))
        elif collected < engines.requests.size // 2:
            engines = grown(engines, slots=engines.requests.size)
    return Served(
        first_s=first_s,
        end_s=end_s,
        ttft_s=first_s - arrival_s,
        tbt_s=(end_s - first_s) / np.maximum(output_tokens - 1, 1),
        preemptions=preemptions,
        curve_j=np.array(curve),
        step_s=step_s,
        busy_s=float(engines.instances["busy_s"].sum()),
        gaps=engines.gaps,
        class_j=engines.class_j,
    )


def _ranks(arrival_s: NDArray[np.float64], order: Order, ttft_slo_s: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if order is Order.FIRST_COME_FIRST_SERVED:
        return arrival_s
    if ttft_slo_s is None:
        raise InvalidInputError("earliest deadline first needs the TTFT SLO of each request")
    return arrival_s + ttft_slo_s


def _refuse_too_long(tokens: NDArray[np.int64], kv_capacity_tokens: int) -> None:
    longest = int(tokens.argmax())
    if tokens[longest] > kv_capacity_tokens:
        raise InvalidInputError(
            f"request {longest}: its {tokens[longest]} tokens do not fit into a KV cache of {kv_capacity_tokens}: use a "
            "higher tensor parallelism or a shorter request"
        )


@compiled
def _until(
    st: Engines,
    index: int,
    until_s: float,
    sent: NDArray[np.int64],
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    request_class: NDArray[np.int64],
    rank: NDArray[np.float64],
    router: NDArray[np.int64],
) -> tuple[int, int]:
    """Hand out the requests that arrive before ``until_s``, and go on until then.

    ``sent`` is [router, instance]: the router's requests inside it, and when it was chosen last (one more than a
    request's index), since equals take turns as in `core.selection.choose`. The others are [request].

    Returns:
        The index of the next request, and 0; or `NO_ROOM`, and then nothing has gone beyond that request's arrival.
    """
    known = 0
    status = 0
    while status == 0 and index < arrival_s.size and arrival_s[index] < until_s:
        now_s = arrival_s[index]
        for i in range(st.instances.size):
            if st.instances[i].wake_s <= now_s:
                advance(st, i, now_s)
        known = _ended(st, known, sent, router)
        own = sent[router[index]]
        least = 0
        for i in range(1, st.instances.size):
            if own[i, 0] < own[least, 0] or (own[i, 0] == own[least, 0] and own[i, 1] < own[least, 1]):
                least = i
        inputs, outputs = input_tokens[index], output_tokens[index]
        status = submit(st, least, index, request_class[index], inputs, outputs, now_s, rank[index], now_s)
        if status >= 0:
            status = 0
            own[least, 0] += 1
            own[least, 1] = index + 1
            index += 1
    if status == 0:
        for i in range(st.instances.size):
            advance(st, i, until_s)
    _ended(st, known, sent, router)
    return index, status


@compiled
def _ended(st: Engines, known: int, sent: NDArray[np.int64], router: NDArray[np.int64]) -> int:
    """Take requests that have ended, from the ``known``-th on, off those that are inside; return how many are known then."""
    n_done = st.totals[0].n_done
    for place in range(known, n_done):
        sent[router[st.done[place].tag], st.done[place].instance, 0] -= 1
    return int(n_done)
