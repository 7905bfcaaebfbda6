"""What planning asks of the performance model: what takes long is asked for together, and only where it is decided."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from decision_world import RoundSizing, World, constant, make_service
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide_with
from dynamollm.core.milp import _ByMask
from dynamollm.core.partition import least_partition
from dynamollm.core.records import Ladder, Load, Plan, PolicyName
from dynamollm.core.sizing import Mixes, SizeTable

NOW_S = 1_000_000.0
RATES = {RequestClass.SS: 6.0, RequestClass.MM: 9.0, RequestClass.LL: 3.0}


@dataclass(frozen=True)
class Counted(RoundSizing):
    """Counts what it is asked."""

    asked: Counter[str] = field(default_factory=Counter)

    def table(self, mixes: Mixes, *, tensor_parallel: Sequence[int]) -> SizeTable:
        self.asked["table"] += 1
        # The table of round numbers asks for ladders itself.
        return RoundSizing(interference=self.interference).table(mixes, tensor_parallel=tensor_parallel)

    def ladder(self, *, load: Load, tensor_parallel: int) -> Ladder:
        self.asked["ladder"] += 1
        return super().ladder(load=load, tensor_parallel=tensor_parallel)


def plan(
    sizing: Counted,
    rates: Mapping[RequestClass, float],
    *,
    policy: PolicyName,
    now_s: float,
    before: Plan | None = None,
) -> Plan:
    world = World(nodes={f"n{i:02d}": 8 for i in range(24)})
    observation = replace(world.observe(constant(rates, end_s=now_s)), plan=before)
    service = make_service(policy=policy)
    return decide_with(service, sizing, observation, now_s=now_s, available_gpus=192, basis="one")


@pytest.mark.parametrize("policy", [PolicyName.JOINT, PolicyName.DYNAMO_LLM, PolicyName.SINGLE_POOL_ELASTIC])
def test_ladders_are_worked_out_for_what_is_decided_only(policy: PolicyName) -> None:
    sizing = Counted(interference=0.5)
    first = plan(sizing, RATES, policy=policy, now_s=NOW_S)
    groups = [group for pool in first.pools for group in pool.groups]
    assert all(group.ladder.steps and group.clock_mhz > 0 for group in groups)
    assert sizing.asked["ladder"] == len(groups)
    # What is kept has its ladders already, whatever else was weighed.
    again = plan(sizing, RATES, policy=policy, now_s=NOW_S + 1800, before=first)
    assert again.pools == first.pools
    assert sizing.asked["ladder"] == len(groups)


def test_the_pools_of_all_partitions_are_sized_together() -> None:
    sizing = Counted(interference=0.5)
    first = plan(sizing, {c: rate / 20 for c, rate in RATES.items()}, policy=PolicyName.JOINT, now_s=NOW_S)
    # Once for all subsets, once for the pools that they make.
    assert sizing.asked["table"] == 2
    later = plan(sizing, RATES, policy=PolicyName.JOINT, now_s=NOW_S + 1800, before=first)
    assert len(later.pools) > len(first.pools)
    # The pools in force were weighed against those.
    assert sizing.asked["table"] == 4


COSTS = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 5).map(float)), max_size=20)


@given(options=COSTS)
def test_the_cheapest_option_of_each_mask_is_the_first_of_least_cost(options: list[tuple[int, float]]) -> None:
    mask, cost = (np.array([one[place] for one in options]) for place in (0, 1))
    by_mask = _ByMask(mask.astype(np.int64), 8)
    least = by_mask.least(cost.astype(np.float64))
    there = sorted(set(mask.tolist()))
    expected = {one: min(c for m, c in options if m == one) for one in there}
    assert {one: value for one, value in enumerate(least) if np.isfinite(value)} == expected
    chosen = by_mask.cheapest(cost.astype(np.float64), there)
    assert list(chosen) == [options.index((one, expected[one])) for one in there]


def test_the_next_best_is_left_out_where_nobody_asks_for_it() -> None:
    cost = np.array([np.inf, 3.0, 4.0, 6.0])
    with_it, without = (least_partition(cost, runner_up=asked) for asked in (True, False))
    assert with_it is not None
    assert without is not None
    assert (with_it.parts, with_it.cost) == (without.parts, without.cost) == ((3,), 6.0)
    assert (with_it.runner_up, without.runner_up) == ((1, 2), ())
