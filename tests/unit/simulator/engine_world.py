"""What the tests of the compiled engine share: shipped profiles, random requests, and `core.batching` as the reference."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from hypothesis import strategies as st

from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.batching import Batch
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order
from dynamollm.simulator.fleet import Served, serve
from dynamollm.simulator.state import InstanceSettings
from dynamollm.simulator.steps import StepTable

PROFILES = Path(__file__).parents[3] / "manifests" / "profiles"
MODERN, PAPER = "h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023"
FCFS, EDF = Order.FIRST_COME_FIRST_SERVED, Order.EARLIEST_DEADLINE_FIRST


@cache
def profile(name: str, *, max_sequences: int = 0, max_batched_tokens: int = 0, memory_percent: int = 90) -> Profile:
    """Return a shipped profile; with a smaller batch, budget or memory where given."""
    spec = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())["spec"]
    engine = spec["engine"]
    engine["maxSequences"] = max_sequences or engine["maxSequences"]
    engine["maxBatchedTokens"] = max_batched_tokens or engine["maxBatchedTokens"]
    engine["gpuMemoryUtilizationPercent"] = memory_percent
    return Profile.from_spec(PerformanceProfileSpec.model_validate(spec), name=name)


@cache
def table(of: Profile) -> StepTable:
    return StepTable(of)


@dataclass(frozen=True)
class Request:
    gap_s: float
    input_tokens: int
    output_tokens: int
    request_class: int
    ttft_slo_s: float


def requests(*, most: int = 40, longest: int = 2000) -> st.SearchStrategy[list[Request]]:
    """Requests that come alone, in bursts and at once."""
    gap = st.one_of(st.just(0.0), st.floats(0.0, 0.1), st.floats(0.0, 5.0))
    one = st.builds(
        Request,
        gap_s=gap,
        input_tokens=st.integers(1, longest),
        output_tokens=st.integers(1, 200),
        request_class=st.integers(0, 8),
        ttft_slo_s=st.sampled_from([0.25, 0.4, 2.0]),
    )
    return st.lists(one, min_size=1, max_size=most)


def arrivals(of: list[Request]) -> np.ndarray:
    return np.cumsum([one.gap_s for one in of])


def served(
    of: list[Request],
    by: Profile,
    *,
    tensor_parallel: int = 4,
    clock_mhz: int = 1410,
    order: Order = FCFS,
    instances: int = 1,
) -> Served:
    return serve(
        by,
        tensor_parallel=tensor_parallel,
        clock_mhz=clock_mhz,
        arrival_s=arrivals(of),
        input_tokens=np.array([one.input_tokens for one in of]),
        output_tokens=np.array([one.output_tokens for one in of]),
        request_class=np.array([one.request_class for one in of]),
        ttft_slo_s=np.array([one.ttft_slo_s for one in of]),
        order=order,
        instances=instances,
        table=table(by),
    )


@dataclass(frozen=True)
class Reference:
    first_s: np.ndarray
    end_s: np.ndarray
    energy_j: float


def reference(
    of: list[Request], by: Profile, *, tensor_parallel: int = 4, clock_mhz: int = 1410, order: Order = FCFS
) -> Reference:
    """Return what `core.batching` makes of the requests, one step after the other."""
    batch = Batch(by, tensor_parallel=tensor_parallel, clock_mhz=clock_mhz, by_priority=order is EDF)
    arrival_s = arrivals(of)
    first_s, end_s = np.full(len(of), np.nan), np.full(len(of), np.nan)
    now_s, energy_j, index = 0.0, 0.0, 0
    while True:
        while index < len(of) and arrival_s[index] <= now_s:
            one = of[index]
            batch.submit(
                index,
                input_tokens=one.input_tokens,
                output_tokens=one.output_tokens,
                priority=arrival_s[index] + one.ttft_slo_s,
                arrival_s=arrival_s[index],
            )
            index += 1
        step = batch.next_step()
        if step is None:
            if index == len(of):
                return Reference(first_s, end_s, energy_j * tensor_parallel)
            energy_j += by.loaded_idle_w * (arrival_s[index] - now_s)
            now_s = arrival_s[index]
            continue
        now_s += step.duration_s
        energy_j += step.power_w * step.duration_s
        first_s[list(step.first_tokens)] = now_s
        end_s[list(step.completions)] = now_s


def kv_capacity(by: Profile, tensor_parallel: int = 4) -> int:
    return InstanceSettings.of(by, tensor_parallel=tensor_parallel).kv_capacity_tokens
