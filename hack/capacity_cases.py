"""Simulated capacities of random cases: what the closed form of ``core/capacity.py`` is fitted to and judged by.

A case is a mix of classes on one instance (profile, TP degree, clock); its answer the largest rate by order of service and
rule of the SLO, to within 1.5 %, found by iteration-level simulation. Cases of one seed are the same on every machine.
Answers are kept in the cache, by a digest of what they depend on: ``PYTHONPATH=hack python hack/capacity_cases.py SEED COUNT``
makes those that are missing, some 10 s of one core each.
"""

import csv
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.progress import track

from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.classes import RequestClass
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load, Order, SloRule
from dynamollm.simulator.steps import StepTable
from lab.demo.manifests import read_profile
from lab.paths import REPOSITORY, cache_dir
from random_mixes import CLASSES, LEAST_RATE, LEAST_SHARE, Ints, Pool, Requests, draw, largest, slo_by

REQUESTS: Final = 64_000
PROFILES: Final = ("h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023")
CLOCKS_MHZ: Final = (1005, 1200, 1395, 1695, 1980)
TRACE: Final = REPOSITORY / "../shared/data/traces/AzureLLMInferenceTrace_conv.csv"
ENGINE: Final = (
    *("accounts", "control", "fleet", "fleet_state", "kernel", "memory", "queues", "state", "steps", "tally"),
)
"""The modules of the simulator that a case runs."""
GRID: Final = 0.01
"""Of logarithms of rates: rules share simulations."""
FIRST_OF_TRACE: Final = 1_000_000
"""Cases from this number on have the lengths of a real trace."""


@dataclass(frozen=True)
class Case:
    """A mix on an instance, and what it carries."""

    number: int
    profile: str
    tensor_parallel: int
    clock_mhz: int
    load: Load
    """At 1 request/s in all."""
    rate_per_s: dict[tuple[Order, SloRule], float]
    """0.0: not even little load keeps the SLO."""


@cache
def profile_of(name: str) -> Profile:
    """Return a shipped profile."""
    return read_profile(REPOSITORY / f"manifests/profiles/{name}.yaml")


def cases(seed: int, numbers: range) -> Iterator[Case]:
    """Yield cases, simulating those whose answers are not kept."""
    folder = cache_dir() / "capacity" / digest()
    for number in numbers:
        path = folder / f"{seed}-{number}.json"
        kept = kept_in(path, partial(_simulated, seed, number))
        yield Case(
            number,
            kept["profile"],
            kept["tensor_parallel"],
            kept["clock_mhz"],
            {RequestClass(name): ClassLoad(*values) for name, values in kept["load"].items()},
            {(Order(order), SloRule(rule)): rate for order, rule, rate in kept["rates"]},
        )


def kept_in(path: Path, simulate: Callable[[], dict[str, object]]) -> dict[str, Any]:
    """Return the answer in a file, simulated first where there is none; whole or not at all, whoever else is at it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(orjson.dumps(simulate()))
        part.replace(path)
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def digest() -> str:
    """Return what answers depend on: this code, the engine model's, the profiles."""
    sources = [Path(__file__), Path(__file__).parent / "random_mixes.py"]
    sources += [REPOSITORY / f"operator/dynamollm/simulator/{name}.py" for name in ENGINE]
    sources += [REPOSITORY / f"manifests/profiles/{name}.yaml" for name in PROFILES]
    whole = hashlib.sha256()
    for source in sources:
        whole.update(source.read_bytes())
    return whole.hexdigest()[:16]


def _simulated(seed: int, number: int) -> dict[str, object]:
    generator = np.random.default_rng((seed, number))
    name = PROFILES[number % len(PROFILES)]
    profile = profile_of(name)
    requests = of_trace(generator) if number >= FIRST_OF_TRACE else draw(generator, REQUESTS)
    degree, clock_mhz = int(generator.choice([2, 4, 8])), int(generator.choice(CLOCKS_MHZ))
    pool, load = Pool(profile, StepTable(profile), requests, degree=degree, clock_mhz=clock_mhz), requests.load()
    rates = []
    for order in Order:

        @cache
        def missed(place: int, o: Order = order) -> dict[SloRule, float]:
            return dict(pool.missed(instances=1, order=o, each_per_s=math.exp(GRID * place)))

        for rule in SloRule:

            def by(rate: float, r: SloRule = rule, m: object = missed) -> float:
                return m(round(math.log(rate) / GRID))[r]  # type: ignore[operator]  # bound as a default

            guess = capacity_per_s(
                profile,
                load=load,
                slo=slo_by(rule),
                tensor_parallel=degree,
                clock_mhz=clock_mhz,
                order=order,
            )
            rates.append((order.value, rule.value, largest(by, max(guess, LEAST_RATE))))
    return {
        "profile": name,
        "tensor_parallel": degree,
        "clock_mhz": clock_mhz,
        "load": {
            c.value: (part.rate_per_s, part.input_tokens, part.output_tokens, part.brief_share)
            for c, part in load.items()
        },
        "rates": rates,
    }


@cache
def _lengths() -> tuple[Ints, Ints, Ints]:
    """Return inputs, outputs and classes of the trace's requests."""
    with TRACE.open(newline="") as file:
        rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    lengths = np.array([row for row in rows if row[0] >= 1 and row[1] >= 1])
    inputs, outputs = np.minimum(lengths[:, 0], 8192), lengths[:, 1]
    classes = 3 * np.searchsorted([256, 1024], inputs, side="right") + np.searchsorted(
        [100, 350], outputs, side="right"
    )
    return inputs, outputs, classes


def of_trace(generator: np.random.Generator) -> Requests:
    """Draw a random mix of classes whose lengths are a trace's."""
    inputs, outputs, classes = _lengths()
    some = generator.choice(9, generator.integers(1, 10), replace=False)
    shares = LEAST_SHARE + (1 - LEAST_SHARE * some.size) * generator.dirichlet(np.ones(some.size))
    wanted = generator.choice(some, REQUESTS, p=shares)
    rows = np.zeros(REQUESTS, np.int64)
    for one in some:
        members = wanted == one
        rows[members] = generator.choice(np.flatnonzero(classes == one), int(members.sum()))
    return Requests(np.cumsum(generator.exponential(1.0, REQUESTS)), inputs[rows], outputs[rows], wanted)


def main() -> None:
    """Simulate what is missing."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0  # noqa: PLR2004 - the third argument
    for _ in track(cases(seed, range(first, first + count)), total=count, description="cases"):
        pass


assert [c.value for c in CLASSES] == [a + b for a in "SML" for b in "SML"]  # noqa: S101 - what _lengths counts on

if __name__ == "__main__":
    main()
