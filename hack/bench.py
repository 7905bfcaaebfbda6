"""``make bench``: times that matter, and ratios measured side by side in one run, on the shipped profiles.

Absolute times depend on the machine; the ratios say what a choice in the code buys. ``BENCH_OUT=FILE`` gets it as JSON.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.table import Table

from dynamollm.core.batching import Batch
from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.decide import decide
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.profile import Profile
from dynamollm.core.records import ForecastSettings, Load, NodeGpus, Observation, Service
from dynamollm.simulator.single_pool import run_single_pool
from dynamollm.simulator.traces import generate_conversation_hour
from lab.demo.manifests import read_profile, read_service
from lab.figures import record
from lab.paths import REPOSITORY

PROFILES: Final = ("h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023")
RUNS: Final = 5
MINUTE_S: Final = 60.0


def seconds(work: Callable[[], object]) -> float:
    """Return the median of several runs, after one that is not counted."""
    work()
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(name: str) -> dict[str, float]:
    """Return the figures of one profile; ms, and ratios without a unit."""
    profile = read_profile(REPOSITORY / f"manifests/profiles/{name}.yaml")
    service = read_service(REPOSITORY / "manifests/samples/inferenceservice-chat.yaml")
    load = mix(service)
    closed_s = seconds(
        lambda: capacity_per_s(profile, load=load, slo=service.slo, tensor_parallel=8, clock_mhz=profile.max_clock_mhz)
    )
    minutes = [request for request in generate_conversation_hour(seed=1) if request.offset_s < 3 * MINUTE_S]
    one_by_one_s, at_once_s = (
        seconds(lambda: decode(profile, at_once=False)),
        seconds(lambda: decode(profile, at_once=True)),
    )
    return {
        "capacity_ms": closed_s * 1e3,
        "decode_run_vs_single_steps": one_by_one_s / at_once_s,
        "single_pool_of_three_minutes_ms": seconds(lambda: run_single_pool(minutes, service=service, profile=profile))
        * 1e3,
        "first_plan_ms": seconds(lambda: first_plan(service, profile)) * 1e3,
    }


def mix(service: Service) -> Load:
    """Return the conversation mix at one request/s."""
    lengths = typical_lengths(service.boundaries)
    return {c: replace(lengths[c], rate_per_s=share) for c, share in PRIOR_SHARE.items()}


def decode(profile: Profile, *, at_once: bool) -> None:
    """Decode sixteen sequences of 200 tokens, step by step or in runs."""
    batch = Batch(profile, tensor_parallel=4, clock_mhz=1200)
    for index in range(16):
        batch.submit(index, input_tokens=500, output_tokens=200, arrival_s=0.0)
    while (at_once and batch.decode_run(1e9)) or batch.next_step():
        pass


def first_plan(service: Service, profile: Profile) -> None:
    """Plan nine classes on twelve empty nodes."""
    nodes = tuple(NodeGpus(f"node-{index}", allocatable=8, free=8) for index in range(12))
    nothing = Observation(load=None, groups=(), instances=(), nodes=nodes, routing={})
    wanted = replace(service, forecast=ForecastSettings(initial_rate_per_s=20.0))
    decide(wanted, profile, nothing, now_s=0.0, available_gpus=96)


def main() -> None:
    """Measure and print."""
    console = Console()
    with console.status("measuring"):
        figures = {name: measure(name) for name in PROFILES}
    table = Table("figure", *PROFILES)
    for figure in figures[PROFILES[0]]:
        table.add_row(figure, *(f"{figures[name][figure]:,.1f}" for name in PROFILES))
    console.print(table)
    record(figures)


if __name__ == "__main__":
    main()
