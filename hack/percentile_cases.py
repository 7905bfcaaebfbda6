"""What cases carry by the rule PerClassPercentile, simulated with four times as many requests as `capacity_cases` has for all rules.

A hundredth of a class that is 6 % of 64,000 requests is 38 of them, and the rule asks for the worst of up to nine classes: of
classes that are late equally often one looks worse by chance. Other arrivals moved first come, first served rates by 5 % (one
deviation), and four times the requests by +2 % in the median and -4 to +19 % in nine cases of ten: here the same requests come
four times, each time in another order.

Answers are kept as there: ``PYTHONPATH=hack python hack/percentile_cases.py SEED COUNT [FIRST]`` makes those that are missing,
some 8 s of one core each, and those of `capacity_cases` that they begin from.
"""

import hashlib
import math
import sys
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track

from capacity_cases import FIRST_OF_TRACE, REQUESTS, Case, cases, digest, kept_in, of_trace, profile_of
from dynamollm.core.records import Order, SloRule
from dynamollm.simulator.steps import StepTable
from lab.paths import cache_dir
from random_mixes import ALLOWED, LEAST_RATE, Pool, Requests, draw

TIMES: Final = 4
GRID: Final = 0.05
"""Of logarithms of rates; between two of them the logarithm of the share that misses is a straight line."""
RULE: Final = SloRule.PER_CLASS_PERCENTILE
_FEWEST_MISSED: Final = 1e-4


def percentile_rates(seed: int, case: Case) -> dict[Order, float]:
    """Return the largest rates of a case by the rule, requests/s; 0.0: not even little load keeps the SLO."""
    path = cache_dir() / "capacity" / _digest() / f"{seed}-{case.number}.json"
    found = kept_in(path, lambda: {order.value: _simulated(seed, case, order) for order in Order})
    return {Order(order): rate for order, rate in found.items()}


def _digest() -> str:
    return hashlib.sha256(digest().encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def _simulated(seed: int, case: Case, order: Order) -> float:
    near = case.rate_per_s[order, RULE]
    if near <= LEAST_RATE:
        return near
    pool = _pool(seed, case)

    @cache
    def excess(place: int) -> float:
        missed = pool.missed(instances=1, order=order, each_per_s=math.exp(GRID * place))[RULE]
        return math.log(max(missed, _FEWEST_MISSED) / ALLOWED)

    place = round(math.log(near) / GRID)
    while excess(place) > 0:
        place -= 1
        if math.exp(GRID * place) < LEAST_RATE / 2:
            return 0.0
    while excess(place + 1) <= 0:
        place += 1
    low, high = excess(place), excess(place + 1)
    return math.exp(GRID * (place - low / (high - low)))


def _pool(seed: int, case: Case) -> Pool:
    generator = np.random.default_rng((seed, case.number))
    traced = case.number >= FIRST_OF_TRACE
    once = of_trace(generator) if traced else draw(generator, REQUESTS)
    others = np.random.default_rng((seed, case.number, TIMES))
    place = np.concatenate([others.permutation(REQUESTS) for _ in range(TIMES)])
    arrival_s = np.cumsum(others.exponential(1.0, place.size))
    requests = Requests(arrival_s, once.inputs[place], once.outputs[place], once.classes[place])
    profile = profile_of(case.profile)
    return Pool(profile, StepTable(profile), requests, degree=case.tensor_parallel, clock_mhz=case.clock_mhz)


def main() -> None:
    """Simulate what is missing."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0  # noqa: PLR2004 - the third argument
    for case in track(cases(seed, range(first, first + count)), total=count, description="cases"):
        percentile_rates(seed, case)


if __name__ == "__main__":
    main()
