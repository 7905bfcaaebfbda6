"""What is kept for load that comes in bursts: by how much its minutes differ, beyond chance."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from decision_world import NOW_S, World, history, make_service
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import MODERN, paper_mix, profile

from dynamollm.core.bursts import kept_for_bursts, variation
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide
from dynamollm.core.records import LoadHistory, PolicyName

MM = RequestClass.MM
MODERN_PROFILE = profile(MODERN)
UNEVEN = (0.25, 1.75) * 60
"""The count of a minute deviates by three quarters of its mean."""


def minutes(rates: Sequence[float | None], *, step_s: float = 60.0) -> LoadHistory:
    return history({MM: rates}, end_s=NOW_S, step_s=step_s)


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        ([5.0] * 180, "even"),
        ([0.0] * 180, "none"),
        ([None] * 180, "nothing measured"),
        (list(np.linspace(1.0, 20.0, 180)), "a trend"),
        ([1.0] * 90 + [8.0] * 90, "one step"),
        ([0.2, 9.0] * 5, "too short to tell"),
        ([0.2, 9.0] * 90 + [5.0] * 180, "over three hours ago"),
        ([5.0, None] * 90, "no two minutes in a row"),
    ],
)
def test_nothing_more_is_kept_for(rates: list[float | None], why: str) -> None:
    assert kept_for_bursts(minutes(rates)) == 1.0, why
    assert kept_for_bursts(None) == 1.0


@given(mean=st.floats(1.0, 5000.0), seed=st.integers(0, 2**31))
def test_requests_that_come_one_by_one_are_no_bursts(mean: float, seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(mean, 180)
    # A rate so low that a minute has a request or two says little: within a tenth.
    assert kept_for_bursts(minutes(list(counts / 60.0))) <= (1.0 if mean > 30 else 1.1)


@pytest.mark.parametrize("step_s", [15.0, 60.0, 300.0])
def test_the_variation_is_that_of_minutes(step_s: float) -> None:
    per_minute = max(1, round(60.0 / step_s))
    uneven = [rate for one in UNEVEN for rate in [4000.0 * one] * per_minute]
    # Alternating: successive differences are twice the deviation, their variance twice what independent values have.
    assert variation(minutes(uneven, step_s=step_s)) == pytest.approx(0.75 * 2**0.5, rel=1e-2)


@given(
    calm=st.floats(0.0, 1.0),
    rates=st.lists(st.floats(0.0, 50.0), min_size=30, max_size=180),
    gaps=st.sets(st.integers(0, 29)),
)
def test_more_uneven_load_never_has_less_kept_and_never_more_than_half(
    calm: float, rates: list[float], gaps: set[int]
) -> None:
    mean = float(np.mean(rates))
    calmer = [mean + calm * (rate - mean) for rate in rates]
    less, more = (kept_for_bursts(minutes(one)) for one in (calmer, rates))
    assert 1.0 <= less <= more <= 1.5
    with_gaps = [None if place in gaps else rate for place, rate in enumerate(rates)]
    assert 1.0 <= kept_for_bursts(minutes(with_gaps)) <= 1.5


def test_all_classes_count_together_and_those_without_a_series_as_none() -> None:
    both = history({MM: [2.0, 8.0] * 60, RequestClass.SS: [8.0, 2.0] * 60}, end_s=NOW_S)
    assert kept_for_bursts(both) == 1.0
    begun = history({MM: [2.0, 14.0] * 60, RequestClass.SS: [None] * 120}, end_s=NOW_S)
    assert kept_for_bursts(begun) == kept_for_bursts(minutes([2.0, 14.0] * 60)) > 1.0


# ------------------------------------------------------------------ in plans
def uneven(load: LoadHistory) -> LoadHistory:
    return replace(load, rate_per_s={c: [4 * one[0] * by for by in UNEVEN] for c, one in load.rate_per_s.items()})


@pytest.mark.parametrize("policy", [PolicyName.JOINT, PolicyName.DYNAMO_LLM])
def test_a_plan_for_bursts_says_so_and_is_its_own_fixed_point(policy: PolicyName) -> None:
    service = make_service(policy=policy)
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)})
    observation = world.observe(uneven(paper_mix(2.0, end_s=world.now_s)))
    plan = decide(service, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
    assert plan.bursts == 1.5
    assert plan.message.endswith(" Requests come in bursts: 50 % more is kept for them.")
    for later_s in (0.0, 10.0):
        again = replace(observation, plan=plan)
        assert decide(service, MODERN_PROFILE, again, now_s=world.now_s + later_s, available_gpus=96) is plan
    # While load is not known the plan is held, and what it keeps with it.
    blind = replace(observation, plan=plan, load=None)
    held = decide(service, MODERN_PROFILE, blind, now_s=world.now_s, available_gpus=96)
    assert (held.reason, held.bursts) == ("LoadUnknown", 1.5)


def test_instances_of_a_plan_for_bursts_carry_less() -> None:
    service = make_service(policy=PolicyName.SINGLE_POOL_ELASTIC)
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)})
    observation = world.observe(uneven(paper_mix(2.0, end_s=world.now_s)))
    plan = decide(service, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
    (pool,) = plan.pools
    even = world.observe(paper_mix(pool.rate_per_s, end_s=world.now_s))
    usual = decide(service, MODERN_PROFILE, even, now_s=world.now_s, available_gpus=96)
    assert usual.bursts == 1.0
    assert sum(part.instances for part in usual.pools[0].groups) < sum(part.instances for part in pool.groups)
