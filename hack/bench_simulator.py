"""How fast the compiled engine is: requests/s on one core, on the generated conversation hour repeated.

``PYTHONPATH=hack .venv/bin/python hack/bench_simulator.py``; `make bench` runs it too. The first figure is the time to
compile or to load what an earlier run compiled.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order
from dynamollm.simulator.fleet import Served, serve
from dynamollm.simulator.traces import generate_conversation_hour
from lab.demo.manifests import read_profile
from lab.paths import REPOSITORY

PROFILES: Final = ("h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023")
RATE_PER_S: Final = {PROFILES[0]: 7.0, PROFILES[1]: 2.0}
"""Of one instance at TP8 and the highest clock: near what it carries within the paper's SLO, batches of 10 to 60."""

INSTANCES: Final = 40
"""The paper's cluster for a week of conversations."""

REQUESTS: Final = 200_000
WEEK_REQUESTS: Final = 44e6


@dataclass(frozen=True)
class Requests:
    """Requests of one rate; [request] each."""

    arrays: dict[str, Any]

    @classmethod
    def at(cls, rate_per_s: float, *, seed: int) -> "Requests":
        """Return conversations that come as a Poisson stream."""
        hour = generate_conversation_hour(seed=seed)
        classify = ClassBoundaries().classify
        index = {request_class: number for number, request_class in enumerate(RequestClass)}
        classes = [index[classify(input_tokens=one.input_tokens, output_tokens=one.output_tokens)] for one in hour]
        draw = np.random.default_rng(seed)
        chosen = draw.integers(0, len(hour), REQUESTS)
        slo_s = np.array([0.25, 0.4, 2.0])[np.array(classes) // 3]
        return cls(
            {
                "arrival_s": np.cumsum(draw.exponential(1 / rate_per_s, REQUESTS)),
                "input_tokens": np.array([one.input_tokens for one in hour])[chosen],
                "output_tokens": np.array([one.output_tokens for one in hour])[chosen],
                "request_class": np.array(classes)[chosen],
                "ttft_slo_s": slo_s[chosen],
            }
        )


def measure(name: str, *, instances: int, order: Order) -> dict[str, float]:
    """Return requests/s and what shows that the load was a real one."""
    profile = read_profile(REPOSITORY / f"manifests/profiles/{name}.yaml")
    requests = Requests.at(instances * RATE_PER_S[name], seed=1)
    run = partial(_run, profile, requests, instances=instances, order=order)
    run()
    began = time.perf_counter()
    found = run()
    taken_s = time.perf_counter() - began
    in_time = found.ttft_s <= requests.arrays["ttft_slo_s"]
    return {
        "requests_per_s": REQUESTS / taken_s,
        "week_minutes": WEEK_REQUESTS * taken_s / REQUESTS / 60,
        "mean_batch": float((found.end_s - found.first_s).sum() / found.until_s / instances),
        "ttft_in_time_percent": 100 * float(in_time.mean()),
    }


def _run(profile: Profile, requests: Requests, *, instances: int, order: Order) -> Served:
    clock_mhz = profile.max_clock_mhz
    return serve(profile, tensor_parallel=8, clock_mhz=clock_mhz, instances=instances, order=order, **requests.arrays)


def main() -> None:
    """Measure and print."""
    console = Console()
    began = time.perf_counter()
    profile = read_profile(REPOSITORY / f"manifests/profiles/{PROFILES[0]}.yaml")
    few = {name: array[:2] for name, array in Requests.at(1.0, seed=1).arrays.items()}
    serve(profile, tensor_parallel=8, clock_mhz=profile.max_clock_mhz, **few)
    console.print(f"compiled or loaded in {time.perf_counter() - began:.1f} s")
    table = Table("engine", "of them", "order", "requests/s", "44 M in min", "batch", "TTFT kept")
    for name in PROFILES:
        for instances in (1, INSTANCES):
            for order in Order:
                got = measure(name, instances=instances, order=order)
                table.add_row(
                    name.rpartition("-")[2],
                    str(instances),
                    "EDF" if order is Order.EARLIEST_DEADLINE_FIRST else "FCFS",
                    f"{got['requests_per_s']:,.0f}",
                    f"{got['week_minutes']:.1f}",
                    f"{got['mean_batch']:.1f}",
                    f"{got['ttft_in_time_percent']:.1f} %",
                )
    console.print(table)


if __name__ == "__main__":
    main()
