"""Fit what instances gain in a pool (``core/pooling.py``): simulates random mixes on pools of several sizes, prints the table.

``PYTHONPATH=hack .venv/bin/python hack/calibrate_pools.py [MIXES]``: half an hour of one core for a hundred.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from dynamollm.core.capacity import capacity_per_s, single_mix
from dynamollm.core.classes import RequestClass
from dynamollm.core.pooling import left_by
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load, Order, Slo, SloRule
from dynamollm.core.stream import Grid
from dynamollm.simulator.fleet import Served, serve
from dynamollm.simulator.steps import StepTable
from dynamollm.simulator.tally import alone_ms
from lab.demo.manifests import read_profile
from lab.paths import REPOSITORY

SEED: Final = 11
MIXES: Final = 100
REQUESTS: Final = 24_000
POOLS: Final = (3, 8, 20)
MIDDLE: Final = len(POOLS) // 2
ROUTERS: Final = (2, 4, 8)
"""In front of a pool of the middle size."""
SEEN_GAIN: Final = 0.2
"""Less of a gain is too little to see what several routers leave of it."""
RULES: Final = (SloRule.PER_REQUEST, SloRule.FIVE_TIMES_ALONE)
PROFILES: Final = ("h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023")
CLOCKS_MHZ: Final = (1005, 1200, 1395, 1695, 1980)
CLASSES: Final = tuple(RequestClass)
TTFT_MS: Final = np.array([{"S": 250.0, "M": 400.0, "L": 2000.0}[c.value[0]] for c in CLASSES])
TBT_MS: Final = 100.0
ALONE: Final = 5.0
INPUTS: Final = {"S": (40.0, 230.0), "M": (270.0, 1000.0), "L": (1050.0, 4500.0)}
OUTPUTS: Final = {"S": (5.0, 95.0), "M": (110.0, 340.0), "L": (360.0, 800.0)}
"""Where mean lengths are drawn from, tokens."""
BOUNDS: Final = (
    {"S": (1.0, 255.0), "M": (256.0, 1023.0), "L": (1024.0, 8192.0)},
    {"S": (1.0, 99.0), "M": (100.0, 349.0), "L": (350.0, 2048.0)},
)
LENGTH_CV: Final = 0.5
LEAST_SHARE: Final = 0.06
WARM_UP: Final = 0.08
ALLOWED: Final = 0.01
LEAST_RATE, MOST_RATE = 0.05, 400.0
WIDEN, CLOSE = 1.25, 1.04
LEAST_GAIN: Final = 0.02

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """A stream at 1 request/s; [request]."""

    arrival_s: Floats
    inputs: Ints
    outputs: Ints
    classes: Ints

    def load(self) -> Load:
        """Return shares and mean lengths by class."""
        members = {c: self.classes == index for index, c in enumerate(CLASSES)}
        return {
            c: ClassLoad(float(some.mean()), float(self.inputs[some].mean()), float(self.outputs[some].mean()))
            for c, some in members.items()
            if some.any()
        }


@dataclass(frozen=True)
class Row:
    """One mix on pools of all sizes."""

    chunked: bool
    order: Order
    rule: SloRule
    batch: float
    """Mean, of an instance alone at its capacity."""
    gains: tuple[float, ...]
    """By size n: (what each instance carries over what one alone does - 1) / (1 - 1/n)."""
    left: tuple[float, ...]
    """By number of routers: share of the gain that is left with that many."""


def draw(generator: np.random.Generator) -> Requests:
    """Draw a random mix of classes, and log-normal lengths around random means."""
    some = generator.choice(9, generator.integers(1, 10), replace=False)
    shares = np.zeros(9)
    shares[some] = LEAST_SHARE + (1 - LEAST_SHARE * some.size) * generator.dirichlet(np.ones(some.size))
    classes = generator.choice(9, REQUESTS, p=shares)
    lengths = []
    for place, (ranges, bounds) in enumerate(zip((INPUTS, OUTPUTS), BOUNDS, strict=True)):
        means = np.array([generator.uniform(*ranges[c.value[place]]) for c in CLASSES])[classes]
        least, most = np.array([bounds[c.value[place]] for c in CLASSES])[classes].T
        lengths.append(_log_normal(generator, means, least, most))
    arrival_s = np.cumsum(generator.exponential(1.0, REQUESTS))
    return Requests(arrival_s, lengths[0], lengths[1], classes.astype(np.int64))


def _log_normal(generator: np.random.Generator, means: Floats, least: Floats, most: Floats) -> Ints:
    sigma = math.sqrt(math.log(1 + LENGTH_CV**2))
    drawn, left = np.zeros_like(means), np.ones(means.size, bool)
    while left.any():
        drawn[left] = np.round(means[left] * np.exp(sigma * generator.standard_normal(int(left.sum())) - sigma**2 / 2))
        left = (drawn < least) | (drawn > most)
    return drawn.astype(np.int64)


class Pool:
    """Instances of one kind under one stream, at any rate."""

    def __init__(self, profile: Profile, table: StepTable, requests: Requests, *, degree: int, clock_mhz: int) -> None:
        self._profile, self._table, self._requests = profile, table, requests
        self._degree, self._clock_mhz = degree, clock_mhz
        row = table.rows[table.row(tensor_parallel=max(profile.tensor_parallel), clock_mhz=profile.max_clock_mhz)]
        chunk = profile.max_batched_tokens if profile.interleaves_prefill else 0
        both = zip(requests.inputs, requests.outputs, strict=True)
        self._alone_ms = np.array([alone_ms(row, chunk, int(inputs), int(outputs)) for inputs, outputs in both])

    def missed(self, *, instances: int, order: Order, each_per_s: float, routers: int = 1) -> Mapping[SloRule, float]:
        """Return the share of requests that miss the SLO, by rule; each request comes to one of the routers by chance."""
        some = self._requests
        arrival_s = some.arrival_s / (each_per_s * instances)
        served: Served = serve(
            self._profile,
            tensor_parallel=self._degree,
            clock_mhz=self._clock_mhz,
            arrival_s=arrival_s,
            input_tokens=some.inputs,
            output_tokens=some.outputs,
            request_class=some.classes,
            instances=instances,
            router=np.random.default_rng(SEED).integers(0, routers, arrival_s.size),
            order=order,
            ttft_slo_s=TTFT_MS[some.classes] / 1e3,
            table=self._table,
        )
        counted = slice(int(WARM_UP * arrival_s.size), None)
        missed = (served.ttft_s * 1e3 > TTFT_MS[some.classes]) | (served.tbt_s * 1e3 > TBT_MS)
        beyond = (served.end_s - arrival_s) * 1e3 > ALONE * self._alone_ms
        return {RULES[0]: float(missed[counted].mean()), RULES[1]: float(beyond[counted].mean())}


def largest(missed: Callable[[float], float], guess: float) -> float:
    """Return the largest rate whose misses are allowed, requests/s; 0.0: none that is worth the name."""
    low, high, rate = 0.0, math.inf, max(guess, LEAST_RATE)
    while low == 0 or high == math.inf:
        if not LEAST_RATE / 2 < rate < MOST_RATE:
            return 0.0
        if missed(rate) <= ALLOWED:
            low, rate = rate, rate * WIDEN
        else:
            high, rate = rate, rate / WIDEN
    while high / low > CLOSE:
        rate = math.sqrt(low * high)
        low, high = (rate, high) if missed(rate) <= ALLOWED else (low, rate)
    return math.sqrt(low * high)


def rows(number: int) -> list[Row]:
    """Draw one mix and simulate it on all sizes of pools."""
    generator = np.random.default_rng((SEED, number))
    profile = read_profile(REPOSITORY / f"manifests/profiles/{PROFILES[number % len(PROFILES)]}.yaml")
    table, requests = StepTable(profile), draw(generator)
    degree, clock_mhz = int(generator.choice([2, 4, 8])), int(generator.choice(CLOCKS_MHZ))
    pool, load = Pool(profile, table, requests, degree=degree, clock_mhz=clock_mhz), requests.load()
    mixes = single_mix(load)
    if mixes is None:
        return []
    stream = Grid(profile, mixes, tensor_parallel=(degree,), clocks_mhz=(clock_mhz,)).stream()
    found = []
    for order in Order if profile.interleaves_prefill else (Order.FIRST_COME_FIRST_SERVED,):
        for rule in RULES:
            slo = Slo(
                ttft_ms=dict(zip(CLASSES, TTFT_MS.tolist(), strict=True)),
                tbt_ms=dict.fromkeys(CLASSES, TBT_MS),
                percentile=100 * (1 - ALLOWED),
                rule=rule,
            )
            guess = capacity_per_s(
                profile, load=load, slo=slo, tensor_parallel=degree, clock_mhz=clock_mhz, order=order
            )
            rates = []
            for instances in (1, *POOLS):

                def missed(rate: float, n: int = instances, o: Order = order, r: SloRule = rule) -> float:
                    return pool.missed(instances=n, order=o, each_per_s=rate)[r]

                guess = largest(missed, guess) or guess
                rates.append(guess)
            left = []
            for routers in ROUTERS:

                def missed_apart(rate: float, k: int = routers, o: Order = order, r: SloRule = rule) -> float:
                    return pool.missed(instances=POOLS[MIDDLE], routers=k, order=o, each_per_s=rate)[r]

                rate = largest(missed_apart, rates[1 + MIDDLE])
                left.append((rate - rates[0]) / max(rates[1 + MIDDLE] - rates[0], 1e-9))
            if min(rates) >= LEAST_RATE:
                batch = float(stream.at_rate(np.array([rates[0] / 1e3])).batch[0])
                gains = tuple((rate / rates[0] - 1) / (1 - 1 / n) for rate, n in zip(rates[1:], POOLS, strict=True))
                found.append(Row(profile.interleaves_prefill, order, rule, batch, gains, tuple(left)))
    return found


def show(found: list[Row]) -> None:
    """Print the coefficients, and what they leave."""
    console = Console(width=140)
    shares = 1 - 1 / np.array(POOLS)
    for chunked, order, rule in dict.fromkeys((row.chunked, row.order, row.rule) for row in found):
        some = [row for row in found if (row.chunked, row.order, row.rule) == (chunked, order, rule)]
        gains: Floats = np.array([row.gains for row in some])
        batches: Floats = np.log1p([row.batch for row in some])
        terms = np.stack([np.ones_like(batches), batches], axis=1)
        wanted = np.log(np.maximum(gains.min(axis=1), LEAST_GAIN))
        (logarithm, power), *_ = np.linalg.lstsq(terms, wanted, rcond=None)
        fitted = np.exp(logarithm + power * batches)
        error = (1 + fitted[:, None] * shares) / (1 + gains * shares) - 1
        console.print(
            f"{'chunks' if chunked else 'whole prompts'}, {order}, {rule}: ln a {logarithm:.2f}, b {-power:.2f} ({len(some)} mixes; "
            f"error of the capacity: median {np.median(np.abs(error)):.1%}, 95th percentile {np.quantile(error, 0.95):+.1%})"
        )


def show_routers(found: list[Row]) -> None:
    """Print what several routers leave of the gain."""
    console = Console(width=140)
    seen: Floats = np.array([row.left for row in found if row.gains[MIDDLE] >= SEEN_GAIN])
    for routers, left in zip(ROUTERS, seen.T, strict=True):
        lowest, middle = np.quantile(left, (0.1, 0.5))
        console.print(
            f"{routers} routers leave of the gain: median {middle:.2f}, 10th percentile {lowest:.2f} ({left.size} mixes); "
            f"planned {left_by(routers):.2f}"
        )


def main() -> None:
    """Simulate, fit, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MIXES
    found = [row for number in track(range(count), description="mixes") for row in rows(number)]
    show(found)
    show_routers(found)


if __name__ == "__main__":
    main()
