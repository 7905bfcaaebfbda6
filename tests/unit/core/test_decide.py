"""When ``decide`` changes the plan, when it holds it, and what it says about it."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from decision_world import (
    MIX,
    NOW_S,
    SIZING,
    RoundSizing,
    World,
    carried,
    constant,
    decided,
    history,
    look,
    make_service,
    nodes,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynamollm.core import plan_codec
from dynamollm.core.actions import steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide_with, epochs, levels_due
from dynamollm.core.errors import OutOfRangeError
from dynamollm.core.records import (
    Behavior,
    ForecastSettings,
    Instance,
    InstanceState,
    Intervals,
    Ladder,
    Limits,
    Load,
    LoadHistory,
    Plan,
    PolicyName,
    Service,
)


def after(plan: Plan, rates: Mapping[RequestClass, float], *, seconds: float, service: Service | None = None) -> Plan:
    """What is decided when the load has been so for a while."""
    now_s = NOW_S + seconds
    return decided(service or make_service(), look(constant(rates, end_s=now_s), plan=plan), now_s=now_s)


RATES = st.dictionaries(
    st.sampled_from(list(RequestClass)), st.floats(min_value=0.0, max_value=8.0), min_size=1, max_size=9
)


# ------------------------------------------------------------------ plans
@settings(max_examples=40)
@given(rates=RATES, node_gpus=st.lists(st.integers(0, 8), min_size=1, max_size=12), max_gpus=st.integers(2, 96))
@example(rates={RequestClass.SS: 2.2e-311}, node_gpus=[0], max_gpus=2)
@example(rates={RequestClass.LM: 3.947, RequestClass.LL: 7.358}, node_gpus=[2, 4, 4, 8], max_gpus=18)
def test_a_plan_serves_every_class_once_stays_in_its_limits_and_is_its_own_fixed_point(
    rates: dict[RequestClass, float], node_gpus: list[int], max_gpus: int
) -> None:
    service = make_service(limits=Limits(max_gpus=max_gpus))
    observation = look(constant(rates, end_s=NOW_S), gpus={f"n{i}": gpus for i, gpus in enumerate(node_gpus)})
    plan = decided(service, observation, available_gpus=sum(node_gpus))
    assert sorted(c for pool in plan.pools for c in pool.classes) == sorted(RequestClass)
    # One instance at least, if only to wait for; none where no node could ever take it.
    smallest_possible = 2 if max(node_gpus) >= 2 else 0
    assert all(pool.instances >= (1 if smallest_possible else 0) for pool in plan.pools)
    assert [pool.name for pool in plan.pools] == [pool.classes[-1].value.lower() for pool in plan.pools]
    assert plan.gpus <= max(smallest_possible, min(max_gpus, sum(node_gpus)))
    assert carried(plan) or plan.reason == "CapacityUnavailable"
    assert decided(service, replace(observation, plan=plan), available_gpus=sum(node_gpus)) == plan
    stored = plan_codec.decode(plan_codec.encode(plan))
    assert decided(service, replace(observation, plan=stored), available_gpus=sum(node_gpus)) == plan


def test_small_pools_merge_into_the_next_larger_and_large_ones_stand_alone_where_that_is_cheaper() -> None:
    apart = RoundSizing(interference=0.5)
    small, large = {RequestClass.SS: 0.2, RequestClass.LL: 0.1}, {RequestClass.SS: 60.0, RequestClass.LL: 6.0}
    plan = decided(make_service(), look(constant(small, end_s=NOW_S)), sizing=apart)
    assert [pool.name for pool in plan.pools] == ["ll"]
    plan = decided(make_service(), look(constant(large, end_s=NOW_S)), sizing=apart)
    assert [pool.name for pool in plan.pools] == ["ss", "ll"]
    assert plan.pools[0].classes == (RequestClass.SS,)
    # An engine that minds no mixing needs no second pool.
    assert [pool.name for pool in decided(make_service(), look(constant(large, end_s=NOW_S))).pools] == ["ll"]


def test_more_load_never_means_less_capacity() -> None:
    capacities = [
        sum(
            pool.capacity_per_s
            for pool in decided(make_service(), look(constant(dict.fromkeys(MIX, f), end_s=NOW_S))).pools
        )
        for f in (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
    ]
    assert capacities == sorted(capacities)


def test_true_zero_takes_the_fewest_instances_and_unknown_load_does_not() -> None:
    service = make_service(limits=Limits(min_instances=2))
    zero = decided(service, look(constant({RequestClass.MM: 0.0}, end_s=NOW_S)))
    assert (zero.reason, [pool.instances for pool in zero.pools], zero.gpus) == ("Initial", [2], 4)
    blind = decided(service, look(None))
    assert (blind.reason, blind.gpus) == ("LoadUnknown", 16)
    assert all(group.ladder.steps == () for pool in blind.pools for group in pool.groups)


@pytest.mark.parametrize("policy", [PolicyName.DYNAMO_LLM, PolicyName.JOINT])
def test_expected_rate_counts_until_load_was_observed_for_one_scale_interval(policy: PolicyName) -> None:
    service = make_service(policy=policy, forecast=ForecastSettings(initial_rate_per_s=10.0))
    for load in (None, constant(MIX, end_s=NOW_S, samples=10)):
        plan = decided(service, look(load))
        assert sum(pool.rate_per_s for pool in plan.pools) >= 10.0
    known = decided(service, look(constant(MIX, end_s=NOW_S, samples=31)))
    assert sum(pool.rate_per_s for pool in known.pools) == pytest.approx(6.0, rel=0.01)


def test_single_pool_is_fixed_at_the_peak_at_the_largest_tp_and_the_highest_clock() -> None:
    service = make_service(policy=PolicyName.SINGLE_POOL)
    plan = decided(service, look(constant({c: 4 * r for c, r in MIX.items()}, end_s=NOW_S)))
    (pool,) = plan.pools
    (group,) = pool.groups
    assert (group.tensor_parallel, group.clock_mhz, group.ladder) == (8, 1980, Ladder(steps=(), safe_mhz=1980))
    assert carried(plan)
    later = after(plan, dict.fromkeys(MIX, 0.1), seconds=4000, service=service)
    assert later.gpus == plan.gpus
    more = after(plan, {c: 12 * r for c, r in MIX.items()}, seconds=4000, service=service)
    assert more.gpus > plan.gpus


def test_ladders_move_the_clock_with_load() -> None:
    low = decided(make_service(), look(constant({RequestClass.MM: 1.0}, end_s=NOW_S)))
    assert low.pools[-1].groups[0].clock_mhz < 1980
    assert low.pools[-1].groups[0].ladder.steps != ()


# ------------------------------------------------------------------ levels
def test_levels_decide_on_their_intervals_only() -> None:
    plan = decided(make_service(), look(constant(MIX, end_s=NOW_S)))
    half = {c: r / 2 for c, r in MIX.items()}
    assert after(plan, half, seconds=299) == plan
    pools = after(plan, half, seconds=300)
    assert (pools.scale_decided_s, pools.shard_decided_s) == (NOW_S, NOW_S + 300)
    both = after(plan, half, seconds=1800)
    assert (both.scale_decided_s, both.shard_decided_s) == (NOW_S + 1800, NOW_S + 1800)


def test_joint_is_one_decision_as_soon_as_the_last_one_s_instances_serve() -> None:
    joint = make_service(policy=PolicyName.JOINT)
    plan = decided(joint, look(constant(MIX, end_s=NOW_S)))
    half = {c: r / 2 for c, r in MIX.items()}
    assert after(plan, half, seconds=119, service=joint) == plan
    both = after(plan, half, seconds=120, service=joint)
    assert (both.scale_decided_s, both.shard_decided_s) == (NOW_S + 120, NOW_S + 120)


@pytest.mark.parametrize(
    ("policy", "intervals", "startup_s", "pace_s"),
    [
        (PolicyName.DYNAMO_LLM, Intervals(), 120, (1800, 300)),
        (PolicyName.JOINT, Intervals(), 120, (120, 120)),
        (PolicyName.JOINT, Intervals(), 10, (60, 60)),
        (PolicyName.JOINT, Intervals(), 420, (300, 300)),
        (PolicyName.JOINT, Intervals(scale_s=90.0, shard_s=600.0), 120, (90, 90)),
    ],
)
def test_who_asks_how_often_a_level_decides_hears_the_policy_s_pace(
    policy: PolicyName, intervals: Intervals, startup_s: float, pace_s: tuple[float, float]
) -> None:
    service = make_service(policy=policy, intervals=intervals)
    scale_s, shard_s = pace_s
    assert epochs(service, startup_s=startup_s) == replace(intervals, scale_s=scale_s, shard_s=shard_s)
    plan = decided(service, look(constant(MIX, end_s=NOW_S)))
    due = [
        levels_due(plan, service, startup_s=startup_s, now_s=NOW_S + seconds).cluster
        for seconds in (scale_s - 1, scale_s)
    ]
    assert due == [False, True]


def test_other_settings_are_decided_at_once() -> None:
    observation = look(constant(MIX, end_s=NOW_S))
    plan = decided(make_service(), observation)
    other = decided(
        make_service(policy=PolicyName.SINGLE_POOL), replace(observation, plan=plan), now_s=NOW_S + 1, basis="two"
    )
    assert (other.reason, other.pools[0].groups[0].tensor_parallel) == ("Initial", 8)


def test_load_above_the_plan_grows_it_at_once_and_only_upward() -> None:
    plan = decided(make_service(), look(constant(MIX, end_s=NOW_S)))
    triple = {c: 3 * r for c, r in MIX.items()}
    grown = after(plan, triple, seconds=10)
    assert (grown.reason, carried(grown)) == ("LoadAboveCapacity", True)
    assert grown.scale_decided_s == plan.scale_decided_s
    before = {(p.name, g.tensor_parallel): g.instances for p in plan.pools for g in p.groups}
    now = {(p.name, g.tensor_parallel): g.instances for p in grown.pools for g in p.groups}
    assert all(now.get(key, 0) >= count for key, count in before.items())
    assert after(grown, triple, seconds=20) == grown


# ------------------------------------------------------------------ guards
UNKNOWN = {
    "no answer": None,
    "all gaps": history({RequestClass.MM: [None] * 30}, end_s=NOW_S + 4000),
    "stale": constant(MIX, end_s=NOW_S + 3000),
    "gaps at the end": history({RequestClass.MM: [9.0] * 30 + [None] * 10}, end_s=NOW_S + 4000),
}


@pytest.mark.parametrize("load", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_load_holds_the_plan_with_safe_clocks_and_known_load_ends_that(load: LoadHistory | None) -> None:
    service = make_service()
    plan = decided(service, look(constant({RequestClass.MM: 2.0}, end_s=NOW_S)))
    held = decided(service, look(load, plan=plan), now_s=NOW_S + 4000)
    assert held.reason == "LoadUnknown"
    assert [(p.name, [(g.tensor_parallel, g.instances) for g in p.groups]) for p in held.pools] == [
        (p.name, [(g.tensor_parallel, g.instances) for g in p.groups]) for p in plan.pools
    ]
    assert all(g.ladder.steps == () and g.clock_mhz == 1980 for p in held.pools for g in p.groups)
    assert decided(service, look(load, plan=held), now_s=NOW_S + 4005) == held
    back = decided(service, look(constant({RequestClass.MM: 2.0}, end_s=NOW_S + 4010), plan=held), now_s=NOW_S + 4010)
    assert back.reason != "LoadUnknown"
    assert all(g.ladder.steps for p in back.pools for g in p.groups)


def test_load_outside_the_profile_holds_the_plan() -> None:
    class Narrow(RoundSizing):
        def capacity_per_s(self, *, load: Load, tensor_parallel: int) -> float:  # noqa: ARG002 - refuses all
            raise OutOfRangeError("input tokens 99999 are beyond the profile's 8192: measure a wider profile")

    plan = decided(make_service(), look(constant(MIX, end_s=NOW_S)))
    held = decided(
        make_service(), look(constant(MIX, end_s=NOW_S + 4000), plan=plan), now_s=NOW_S + 4000, sizing=Narrow()
    )
    assert (held.reason, held.gpus) == ("LoadOutsideProfile", plan.gpus)
    assert "99999" in held.message


def test_a_reduction_waits_for_the_stabilisation_window() -> None:
    service = make_service(behavior=Behavior(scale_down_stabilization_s=600.0))
    busy = {RequestClass.MM: 12.0}
    plan = decided(service, look(constant(busy, end_s=NOW_S)))
    gpus = []
    for seconds in (300, 600, 900, 1200):
        plan = after(plan, {RequestClass.MM: 1.0}, seconds=seconds, service=service)
        gpus.append(plan.gpus)
    assert gpus[0] > gpus[-1]
    assert gpus[0] == decided(service, look(constant(busy, end_s=NOW_S))).gpus


def test_pools_that_another_takes_over_are_stabilised_too() -> None:
    """A dip of a minute must not make one small pool of two large ones: their instances would be gone when it is over."""
    service = make_service(policy=PolicyName.JOINT, behavior=Behavior(scale_down_stabilization_s=600.0))
    sizing = RoundSizing(interference=0.4)
    busy = {RequestClass.SS: 20.0, RequestClass.MM: 10.0, RequestClass.LL: 5.0}
    plan = decided(service, look(constant(busy, end_s=NOW_S)), sizing=sizing)
    assert len(plan.pools) > 1
    least = plan.gpus * (1 - service.behavior.tolerance)
    seen = []
    for seconds in range(120, 1500, 120):
        low = look(constant({c: rate / 10 for c, rate in busy.items()}, end_s=NOW_S + seconds), plan=plan)
        plan = decided(service, low, now_s=NOW_S + seconds, sizing=sizing)
        seen.append((seconds, len(plan.pools), plan.gpus))
    assert all(gpus >= least for seconds, _, gpus in seen if seconds < 600)
    assert seen[-1][1:] < (2, least / 3)


@pytest.mark.parametrize(("reserve", "reason"), [(1.05, "LoadAboveCapacity"), (1.25, "Scaled")])
def test_a_plan_grows_as_soon_as_all_of_its_reserve_is_used(reserve: float, reason: str) -> None:
    sizing = RoundSizing(reserve=reserve)
    plan = decided(make_service(), look(constant({RequestClass.MM: 6.0}, end_s=NOW_S)), sizing=sizing)
    plan = replace(plan, reason="Scaled")
    load = constant({RequestClass.MM: plan.pools[0].capacity_per_s * 1.07}, end_s=NOW_S + 60)
    assert decided(make_service(), look(load, plan=plan), now_s=NOW_S + 60, sizing=sizing).reason == reason


@pytest.mark.parametrize("state", [InstanceState.PENDING, InstanceState.STARTING])
def test_nothing_is_reduced_while_instances_wait_or_start(state: InstanceState) -> None:
    service = make_service(behavior=Behavior(scale_down_stabilization_s=0.0))
    plan = decided(service, look(constant({RequestClass.MM: 12.0}, end_s=NOW_S)))
    now_s = NOW_S + 1800
    starting = Instance(name="a", pool="ll", tensor_parallel=2, state=state, created_s=now_s - 60)
    low = look(constant({RequestClass.MM: 1.0}, end_s=now_s), plan=plan)
    assert decided(service, replace(low, instances=(starting,)), now_s=now_s).gpus == plan.gpus
    assert decided(service, low, now_s=now_s).gpus < plan.gpus


def test_noise_near_the_knee_changes_the_plan_at_most_once_in_two_hours() -> None:
    for seed, knee in [(seed, knee) for seed in range(3) for knee in (4.9, 5.0, 6.0, 9.8, 11.9)]:
        rng = np.random.default_rng(seed)
        samples = [knee / 0.8 * float(rng.uniform(0.95, 1.05)) for _ in range(180)]
        plan: Plan | None = None
        shapes = []
        for minute in range(60, 180):
            now_s = NOW_S + 60 * minute
            load = history({RequestClass.MM: samples[: minute + 1]}, end_s=now_s)
            plan = decided(make_service(), look(load, plan=plan), now_s=now_s)
            shapes.append([(p.name, [(g.tensor_parallel, g.instances) for g in p.groups]) for p in plan.pools])
        changes = sum(a != b for a, b in pairwise(shapes))
        assert changes <= 1, (seed, knee, shapes)


# ------------------------------------------------------------------ the whole loop
def test_a_day_of_load_is_followed_and_a_restart_in_between_changes_nothing() -> None:
    """Operator restarts keep only what is in the cluster and the stored plan: here, every cycle is one."""
    service = make_service(limits=Limits(max_gpus=96))
    world = World(nodes=nodes(12))
    start_s = world.now_s
    gpus = []
    for cycle in range(360):
        world.now_s = start_s + 60.0 * cycle
        world.tick(0.0)
        hours = np.arange(max(0, cycle - 120), cycle + 1) / 60.0
        rates = {c: [r * (2.0 + 1.5 * float(np.sin(hour / 6.0 * 2 * np.pi))) for hour in hours] for c, r in MIX.items()}
        observation = world.observe(history(rates, end_s=world.now_s))
        plan = decide_with(service, SIZING, observation, now_s=world.now_s, available_gpus=96, basis="one")
        world.apply(steps(service, plan, observation, now_s=world.now_s))
        world.plan = plan_codec.decode(plan_codec.encode(plan))
        assert world.gpus() <= service.limits.max_gpus
        gpus.append(world.gpus())
        if cycle > 10:
            load = sum(samples[-1] * (600 + 200) for samples in rates.values())
            serving = sum(SIZING.capacity[i.tensor_parallel] * 1000 for i in world.observe(None).instances if i.serving)
            assert serving >= load * 0.9
    assert min(gpus[200:]) < max(gpus)
