"""Fit what instances gain in a pool (``core/pooling.py``): simulates random mixes on pools of several sizes, prints the table.

``PYTHONPATH=hack .venv/bin/python hack/calibrate_pools.py [MIXES]``: half an hour of one core for a hundred.
"""

import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from dynamollm.core.capacity import capacity_per_s, single_mix
from dynamollm.core.pooling import left_by
from dynamollm.core.records import Order, SloRule
from dynamollm.core.stream import Grid
from dynamollm.simulator.steps import StepTable
from lab.demo.manifests import read_profile
from lab.paths import REPOSITORY
from random_mixes import LEAST_RATE, Floats, Pool, draw, largest, slo_by

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
LEAST_GAIN: Final = 0.02


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


def rows(number: int) -> list[Row]:
    """Draw one mix and simulate it on all sizes of pools."""
    generator = np.random.default_rng((SEED, number))
    profile = read_profile(REPOSITORY / f"manifests/profiles/{PROFILES[number % len(PROFILES)]}.yaml")
    table, requests = StepTable(profile), draw(generator, REQUESTS)
    degree, clock_mhz = int(generator.choice([2, 4, 8])), int(generator.choice(CLOCKS_MHZ))
    pool, load = Pool(profile, table, requests, degree=degree, clock_mhz=clock_mhz), requests.load()
    mixes = single_mix(load)
    if mixes is None:
        return []
    stream = Grid(profile, mixes, tensor_parallel=(degree,), clocks_mhz=(clock_mhz,)).stream()
    found = []
    for order in Order if profile.interleaves_prefill else (Order.FIRST_COME_FIRST_SERVED,):
        for rule in RULES:
            slo = slo_by(rule)
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
