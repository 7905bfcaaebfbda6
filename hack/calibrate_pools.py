"""Fit what instances gain in a pool (``core/pooling.py``): simulates random mixes on pools of several sizes, prints the table.

``PYTHONPATH=hack .venv/bin/python hack/calibrate_pools.py [MIXES]``: half an hour of one core for a hundred.
"""

import math
import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.optimize import least_squares

from dynamollm.core.capacity import capacity_per_s, single_mix
from dynamollm.core.pooling import SAFETY, Capacities, Fit, left_by
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
FIRST: Final = (1.5, 0.6, 2.0)
BOUNDS: Final = ((-3.0, 0.0, 0.1), (6.0, 2.0, 8.0))
"""ln a, b and h: where the fit begins and stays."""
OUTLIER: Final = 0.05
"""Larger errors of the logarithm count by size, not by square."""


@dataclass(frozen=True)
class Row:
    """One mix on pools of all sizes."""

    chunked: bool
    order: Order
    rule: SloRule
    batch: float
    """Mean, of an instance alone at its capacity."""
    full: float
    """What it carries beyond that with its batch always full, as a share of it."""
    times: tuple[float, ...]
    """By size of the pool: what each instance carries over what one alone does."""
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
                full = float(stream.at_batch(stream.full).per_ms[0]) * 1e3 / rates[0] - 1
                times = tuple(rate / rates[0] for rate in rates[1:])
                found.append(Row(profile.interleaves_prefill, order, rule, batch, full, times, tuple(left)))
    return found


def error(fit: Fit, some: list[Row], *, safety: float = 0.0) -> Floats:
    """Return how much too large capacities in pools are by a fit, in logarithms, [mix, size]."""
    batch, full = (np.array([[getattr(row, name)] for row in some]) for name in ("batch", "full"))
    gained = math.exp(-safety) * fit.gain(batch, full)
    times = Capacities(np.ones_like(gained), gained, fit.half_at).times_alone(np.array(POOLS, np.float64))
    wrong: Floats = np.log(times) - np.log([row.times for row in some])
    return wrong


def fitted(some: list[Row]) -> Fit:
    """Return the fit of least error."""
    solved = least_squares(
        lambda fit: error(Fit(*fit), some).ravel(), FIRST, bounds=BOUNDS, loss="soft_l1", f_scale=OUTLIER
    )
    return Fit(*solved.x)


def show(found: list[Row]) -> None:
    """Print the coefficients, and what they leave."""
    console = Console(width=140)
    for chunked, order, rule in dict.fromkeys((row.chunked, row.order, row.rule) for row in found):
        some = [row for row in found if (row.chunked, row.order, row.rule) == (chunked, order, rule)]
        fit = fitted(some)
        left = error(fit, some, safety=SAFETY)
        console.print(
            f"{'chunks' if chunked else 'whole prompts'}, {order}, {rule}: ln a {fit.logarithm:.2f}, b {fit.power:.2f}, "
            f"h {fit.half_at:.1f} ({len(some)} mixes; less the safety, error of the capacity: median "
            f"{np.median(np.abs(left)):.1%}, 95th percentile {np.quantile(left, 0.95):+.1%})"
        )


def show_routers(found: list[Row]) -> None:
    """Print what several routers leave of the gain."""
    console = Console(width=140)
    seen: Floats = np.array([row.left for row in found if row.times[MIDDLE] >= 1 + SEEN_GAIN])
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
