"""The paper's baseline: the fewest instances at the largest TP and the highest clock with which a trace keeps its SLO.

By simulation, first come first served, at the trace's peak: in its busiest five minutes the rule must hold, not only
over the whole, where quiet hours would make up for them. A baseline that is larger than it need be flatters
everything else.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Service
from dynamollm.core.sizing import rate_per_s
from dynamollm.simulator.engine_room import EngineRoom
from dynamollm.simulator.survey import WINDOW_S, Survey
from dynamollm.simulator.verdict import Verdict, judge
from dynamollm.simulator.virtual_cluster import Pod
from dynamollm.simulator.workload import Workload

MAX_INSTANCES: Final = 512
"""Where the search ends: an SLO that this many instances miss is missed by requests that are alone."""

_TAIL_S: Final = 900.0
_POOL: Final = "ll"


def single_pool_instances(workload: Workload, seen: Survey, service: Service, profile: Profile) -> int:
    """Return how many instances SinglePool has; as many as the search allows where none keep the SLO."""
    start_s = max(0.0, seen.peak_s - WINDOW_S)
    arrivals = workload.part(start_s=start_s, end_s=seen.peak_s + WINDOW_S)
    # The window before the peak fills the instances and is not judged.
    arrivals["counted"] = arrivals["arrival_s"] >= seen.peak_s - start_s

    def enough(instances: int) -> bool:
        return fixed_pool(arrivals, service, profile, instances=instances).meets_slo

    high = max(1, _guess(seen, service, profile))
    low = 0
    while not enough(high):
        if high >= MAX_INSTANCES:
            return high
        low, high = high, min(2 * high, MAX_INSTANCES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def fixed_pool(arrivals: NDArray[Any], service: Service, profile: Profile, *, instances: int) -> Verdict:
    """Serve arrivals on this many instances from the first to the last."""
    room = EngineRoom(
        profile=profile,
        slo=service.slo,
        order=Order.FIRST_COME_FIRST_SERVED,
        places=instances,
        clock_s=0.0,
    )
    pods = [
        Pod(f"{_POOL}-{k:04d}", (_POOL, max(service.tensor_parallel)), 0.0, reshards=False, ready_s=0.0, is_ready=True)
        for k in range(instances)
    ]
    for pod in pods:
        room.started(pod, now_s=0.0)
    room.route(pods, {})
    last_s = float(arrivals["arrival_s"][-1]) + 1.0 if arrivals.size else 0.0
    index = room.serve(arrivals, 0, until_s=last_s)
    end_s = last_s + _TAIL_S
    while room.inside and last_s < end_s:
        last_s += _TAIL_S / 10
        index = room.serve(arrivals, index, until_s=last_s)
    room.give_up(now_s=last_s)
    return judge(room.fleet, room.engines.gaps, service.slo)


def _guess(seen: Survey, service: Service, profile: Profile) -> int:
    tensor_parallel = max(service.tensor_parallel)
    needed = 1
    busiest = np.argsort((seen.input_tokens + seen.output_tokens).sum(axis=1))[-3:]
    for window in busiest:
        load = seen.load(int(window))
        capacity = capacity_per_s(
            profile,
            load=load,
            slo=service.slo,
            tensor_parallel=tensor_parallel,
            clock_mhz=profile.max_clock_mhz,
        )
        if capacity > 0:
            needed = max(needed, math.ceil(rate_per_s(load) / capacity))
    return needed
