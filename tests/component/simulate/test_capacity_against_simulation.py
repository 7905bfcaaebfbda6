"""What plans count on beside what the engine model serves: `make bench-capacity` in small, on cases that fitted nothing."""

import statistics

import numpy as np
import pytest

from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.records import Order, SloRule
from dynamollm.simulator.shipped import open_profile
from dynamollm.simulator.steps import StepTable
from random_mixes import Pool, draw, largest, slo_by

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)

REQUESTS = 16_000
"""So few leave a tenth to chance."""
CASES = ((4, 1395), (8, 1980), (2, 1695), (4, 1980))


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("engine", ["modern", "paper"])
def test_a_planned_capacity_is_near_the_simulated_one(engine: str, order: Order) -> None:
    profile = open_profile(engine)
    ratios = []
    for number, (degree, clock_mhz) in enumerate(CASES):
        requests = draw(np.random.default_rng((511, number)), REQUESTS)
        pool = Pool(profile, StepTable(profile), requests, degree=degree, clock_mhz=clock_mhz)
        planned = capacity_per_s(
            profile,
            load=requests.load(),
            slo=slo_by(SloRule.PER_REQUEST),
            tensor_parallel=degree,
            clock_mhz=clock_mhz,
            order=order,
        )
        simulated = largest(
            lambda rate, of=pool: of.missed(instances=1, order=order, each_per_s=rate)[SloRule.PER_REQUEST], planned
        )
        ratios.append(planned / simulated)
    assert all(0.6 < ratio < 1.25 for ratio in ratios), ratios
    assert 0.85 < statistics.median(ratios) < 1.1, ratios
