"""The paper's SinglePool on a trace: how many instances its peak takes, and what they use.

One pool for all classes, the largest TP degree, the highest clock, first come first served, and the fewest instances
with which the trace keeps the SLO (DynamoLLM, HPCA 2025, section V): what the savings are measured against. The
fewest by simulation, since a baseline that is larger than it need be flatters everything else.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.classes import RequestClass, is_brief
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load, Service
from dynamollm.simulator.fleet import Served, serve
from dynamollm.simulator.steps import StepTable
from dynamollm.simulator.traces import TraceRequest

PEAK_WINDOW_S = 300.0
"""The peak is the busiest of the windows of this length: the interval at which the paper's pools adapt."""


MAX_INSTANCES = 256
"""Where the search ends: an SLO that this many instances miss is missed by requests that are alone."""


@dataclass(frozen=True, slots=True)
class SinglePoolResult:
    """What SinglePool took for a trace."""

    instances: int
    gpus: int
    fleet: Served
    attainment: float
    """Share of the requests that met their own TTFT and mean TBT."""


def run_single_pool(requests: Sequence[TraceRequest], *, service: Service, profile: Profile) -> SinglePoolResult:
    """Serve a trace, in order of arrival, as SinglePool would."""
    tensor_parallel = max(service.tensor_parallel)
    share = service.slo.percentile / 100
    trace = _arrays(requests, service)
    table = StepTable(profile)
    tried: dict[int, SinglePoolResult] = {}

    def enough(instances: int) -> bool:
        fleet = serve(
            profile,
            tensor_parallel=tensor_parallel,
            clock_mhz=profile.max_clock_mhz,
            arrival_s=trace.arrival_s,
            input_tokens=trace.input_tokens,
            output_tokens=trace.output_tokens,
            request_class=trace.request_class,
            instances=instances,
            table=table,
        )
        met = (fleet.ttft_s * 1e3 <= trace.ttft_ms) & (fleet.tbt_s * 1e3 <= trace.tbt_ms)
        tried[instances] = SinglePoolResult(instances, instances * tensor_parallel, fleet, float(met.mean()))
        return tried[instances].attainment >= share

    high = max(service.limits.min_instances, _instances(requests, service, profile, tensor_parallel))
    low = service.limits.min_instances - 1
    while not enough(high) and high < MAX_INSTANCES:
        low, high = high, min(2 * high, MAX_INSTANCES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return tried[high]


@dataclass(frozen=True, slots=True)
class _Trace:
    """The requests as arrays, [request], and what each was promised."""

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    request_class: NDArray[np.int64]
    ttft_ms: NDArray[np.float64]
    tbt_ms: NDArray[np.float64]


def _arrays(requests: Sequence[TraceRequest], service: Service) -> _Trace:
    classes = [
        service.boundaries.classify(input_tokens=one.input_tokens, output_tokens=one.output_tokens) for one in requests
    ]
    index = {request_class: number for number, request_class in enumerate(RequestClass)}
    return _Trace(
        arrival_s=np.array([one.offset_s for one in requests]),
        input_tokens=np.array([one.input_tokens for one in requests]),
        output_tokens=np.array([one.output_tokens for one in requests]),
        request_class=np.array([index[request_class] for request_class in classes]),
        ttft_ms=np.array([service.slo.ttft_ms[request_class] for request_class in classes]),
        tbt_ms=np.array([service.slo.tbt_ms[request_class] for request_class in classes]),
    )


def _instances(requests: Sequence[TraceRequest], service: Service, profile: Profile, tensor_parallel: int) -> int:
    """Return a first guess: by the closed form, at the peak."""
    needed = 1
    for load in _windows(requests, service):
        capacity = capacity_per_s(
            profile,
            load=load,
            slo=service.slo,
            tensor_parallel=tensor_parallel,
            clock_mhz=profile.max_clock_mhz,
        )
        rate = sum(part.rate_per_s for part in load.values())
        # A mix whose SLO no instance keeps, at any rate, says nothing about how many there should be.
        needed = max(needed, math.ceil(rate / capacity) if capacity > 0 else needed)
    return needed


def _windows(requests: Sequence[TraceRequest], service: Service) -> Iterator[Load]:
    by_window: dict[int, dict[RequestClass, list[TraceRequest]]] = {}
    for request in requests:
        request_class = service.boundaries.classify(
            input_tokens=request.input_tokens, output_tokens=request.output_tokens
        )
        window = by_window.setdefault(int(request.offset_s / PEAK_WINDOW_S), {})
        window.setdefault(request_class, []).append(request)
    for window in by_window.values():
        yield {
            request_class: ClassLoad(
                rate_per_s=len(members) / PEAK_WINDOW_S,
                input_tokens=sum(one.input_tokens for one in members) / len(members),
                output_tokens=sum(one.output_tokens for one in members) / len(members),
                brief_share=sum(is_brief(one.output_tokens) for one in members) / len(members),
            )
            for request_class, members in window.items()
        }
