"""``make bench-core``: how long decisions take, for one service and for a thousand. ``BENCH_OUT=FILE`` for JSON.

A plan here is all of `decide` at the cluster level, policy Joint: load of now, forecast with its band over three days of
minutes and two weeks of five minutes, lengths over two weeks of half hours, what all subsets of the nine classes carry and draw,
the cheapest pools, instances and clocks, ladders, the guards against the plan in force. Prometheus and Kubernetes are not in
it. Loads follow a day's wave over the class shares of the Azure conversations of 2023, with Poisson noise; inventories are whole
nodes, fragmented nodes, and too few GPUs. Times are CPU time of the one thread: the machine may have other work.
"""

import math
import resource
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dynamollm.adapters.allocator import keep_freed_memory
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide
from dynamollm.core.forecast import outlook
from dynamollm.core.past_load import PastLengths, PastLoad
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.profile import Profile
from dynamollm.core.records import LoadHistory, NodeGpus, Observation, Plan, PolicyName, Service
from lab.demo.manifests import read_profile, read_service
from lab.figures import record
from lab.paths import REPOSITORY

PROFILE: Final = "h100-llama2-70b-vllm"
PLANS: Final = 200
SERVICES: Final = 1000
FITS: Final = 20
EPOCH_S: Final = 1800.0
DAY_S: Final = 86_400.0
MINUTE_S: Final = 60.0
HISTORY_DAYS: Final = 3
PAST_DAYS: Final = 14
PAST_STEP_S: Final = 300.0
LENGTHS_STEP_S: Final = 1800.0
LENGTHS_NOISE: Final = 0.05
"""σ of the mean tokens of half an hour, in logarithms."""
RATES_PER_S: Final = (0.3, 100.0)
"""Peaks of the services, requests/s, drawn evenly on the logarithm."""
START_S: Final = 1_700_000_000.0

INVENTORIES: Final = {
    "whole nodes": (8,) * 64,
    "fragmented": (8, 6, 5, 4, 4, 3, 2, 2) * 16,
    "few GPUs": (8, 8, 4, 4, 2),
}


SERVICE: Final[Service] = replace(
    read_service(REPOSITORY / "manifests/samples/inferenceservice-chat.yaml"), policy=PolicyName.JOINT
)


@dataclass(frozen=True)
class Case:
    """One service at one moment."""

    peak_per_s: float
    phase_s: float
    seed: int

    def history(self, now_s: float) -> LoadHistory:
        """Return what was measured until now."""
        draw = np.random.default_rng(self.seed)
        lengths = typical_lengths(SERVICE.boundaries)
        return LoadHistory(
            end_s=now_s,
            step_s=MINUTE_S,
            rate_per_s=self._rates(now_s, HISTORY_DAYS * DAY_S, MINUTE_S, draw),
            input_tokens={c: part.input_tokens for c, part in lengths.items()},
            output_tokens={c: part.output_tokens for c, part in lengths.items()},
            past=PastLoad(
                end_s=now_s,
                step_s=PAST_STEP_S,
                rate_per_s=self._rates(now_s, PAST_DAYS * DAY_S, PAST_STEP_S, draw),
            ),
            lengths=PastLengths(
                end_s=now_s,
                step_s=LENGTHS_STEP_S,
                input_tokens={c: self._lengths(part.input_tokens, draw) for c, part in lengths.items()},
                output_tokens={c: self._lengths(part.output_tokens, draw) for c, part in lengths.items()},
            ),
        )

    def _lengths(self, tokens: float, draw: np.random.Generator) -> "array[float]":
        noise = draw.normal(0.0, LENGTHS_NOISE, round(PAST_DAYS * DAY_S / LENGTHS_STEP_S))
        return array("d", (tokens * np.exp(noise)).tolist())

    def _rates(
        self, now_s: float, span_s: float, step_s: float, draw: np.random.Generator
    ) -> dict[RequestClass, tuple[float | None, ...]]:
        moments = now_s - np.arange(round(span_s / step_s))[::-1] * step_s + self.phase_s
        wave = 0.55 + 0.45 * np.sin(2 * math.pi * moments / DAY_S)
        return {
            c: tuple(draw.poisson(self.peak_per_s * share * wave * step_s) / step_s) for c, share in PRIOR_SHARE.items()
        }


def cases(seed: int) -> Iterator[Case]:
    """Return services of all sizes and hours."""
    draw = np.random.default_rng(seed)
    low, high = (math.log(rate) for rate in RATES_PER_S)
    while True:
        yield Case(math.exp(draw.uniform(low, high)), float(draw.uniform(0, DAY_S)), int(draw.integers(2**31)))


def look(load: LoadHistory, nodes: tuple[int, ...], plan: Plan | None) -> Observation:
    """Return an observation in which the plan in force is not there yet: all GPUs are free."""
    return Observation(
        load=load,
        groups=(),
        instances=(),
        nodes=tuple(NodeGpus(f"node-{i}", allocatable=8, free=free) for i, free in enumerate(nodes)),
        routing={},
        plan=plan,
    )


def replanned_s(case: Case, profile: Profile, nodes: tuple[int, ...], *, service: Service) -> float:
    """Return the CPU seconds of a decision at an epoch's end, with the plan of the epoch before in force."""
    available = sum(nodes)
    first = look(case.history(START_S), nodes, None)
    plan = decide(service, profile, first, now_s=START_S, available_gpus=available)
    later = look(case.history(START_S + EPOCH_S), nodes, plan)
    began = time.process_time()
    decide(service, profile, later, now_s=START_S + EPOCH_S, available_gpus=available)
    return time.process_time() - began


def measure(profile: Profile, console: Console) -> dict[str, float]:
    """Return the figures."""
    service = replace(SERVICE, limits=replace(SERVICE.limits, max_gpus=512))
    inventories = list(INVENTORIES.values())
    plans = [
        replanned_s(case, profile, inventories[index % len(inventories)], service=service)
        for index, case in enumerate(
            track(islice(cases(1), PLANS), total=PLANS, description="plans", console=console, transient=True)
        )
    ]
    thousand = [
        replanned_s(case, profile, INVENTORIES["whole nodes"], service=service)
        for case in track(
            islice(cases(2), SERVICES), total=SERVICES, description="services", console=console, transient=True
        )
    ]
    fits = []
    for case in islice(cases(3), FITS):
        history = case.history(START_S)
        began = time.process_time()
        found = outlook(
            history,
            settings=service.forecast,
            intervals=service.intervals,
            boundaries=service.boundaries,
            now_s=START_S,
        )
        found.peak(tuple(RequestClass), horizon_s=EPOCH_S)
        fits.append(time.process_time() - began)
    return {
        "plan_ms_p50": float(np.percentile(plans, 50)) * 1e3,
        "plan_ms_p99": float(np.percentile(plans, 99)) * 1e3,
        "thousand_services_s": float(np.sum(thousand)) * 1000 / SERVICES,
        "forecast_fit_ms": float(np.median(fits)) * 1e3,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure and print."""
    console = Console()
    keep_freed_memory()  # as the operator does
    profile = read_profile(REPOSITORY / f"manifests/profiles/{PROFILE}.yaml")
    figures = measure(profile, console)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}")
    console.print(table)
    record(figures)


if __name__ == "__main__":
    main()
