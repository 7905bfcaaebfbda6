"""What holds for every policy, and what each of them leaves alone."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from decision_world import RoundSizing, World, constant, history, make_service
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynamollm.core import plan_codec
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import POLICIES, decide_with
from dynamollm.core.objective import usd_per_hour
from dynamollm.core.policies.base import describe_mix
from dynamollm.core.policies.joint import POOL_WORTH
from dynamollm.core.records import (
    Behavior,
    Ladder,
    Limits,
    Load,
    LoadHistory,
    Objective,
    Observation,
    Pins,
    Plan,
    PolicyName,
    Prices,
    Service,
)
from dynamollm.core.sizing import Sizing, tokens_per_s

NOW_S = 1_000_000.0
SIZING = RoundSizing()
APART = RoundSizing(interference=0.5)
MIX = {RequestClass.SS: 6.0, RequestClass.MM: 9.0, RequestClass.LL: 3.0}
EVERY = list(PolicyName)
PER_CLASS = (PolicyName.MULTI_POOL, PolicyName.SCALE_INST, PolicyName.SCALE_SHARD, PolicyName.SCALE_FREQ)
FIXED = (PolicyName.SINGLE_POOL, PolicyName.MULTI_POOL, PolicyName.SCALE_FREQ)
ELASTIC = (PolicyName.DYNAMO_LLM, PolicyName.SINGLE_POOL_ELASTIC, PolicyName.JOINT)
RATES = st.dictionaries(
    st.sampled_from(list(RequestClass)), st.just(0.0) | st.floats(min_value=0.01, max_value=8.0), min_size=1, max_size=9
)


def look(load: LoadHistory | None, *, plan: Plan | None = None, node_gpus: tuple[int, ...] = (8,) * 24) -> Observation:
    world = World(nodes={f"n{i:02d}": gpus for i, gpus in enumerate(node_gpus)})
    return replace(world.observe(load), plan=plan)


def decided(
    service: Service,
    rates: Mapping[RequestClass, float],
    *,
    plan: Plan | None = None,
    now_s: float = NOW_S,
    sizing: Sizing = SIZING,
    node_gpus: tuple[int, ...] = (8,) * 24,
) -> Plan:
    observation = look(constant(rates, end_s=now_s), plan=plan, node_gpus=node_gpus)
    return decide_with(service, sizing, observation, now_s=now_s, available_gpus=sum(node_gpus), basis="one")


def shape(plan: Plan) -> list[tuple[str, list[tuple[int, int]]]]:
    return [(p.name, [(g.tensor_parallel, g.instances) for g in p.groups]) for p in plan.pools]


def instances(plan: Plan) -> int:
    return sum(pool.instances for pool in plan.pools)


def test_there_is_a_policy_for_every_name() -> None:
    assert set(POLICIES) == set(PolicyName)


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=15)
@given(
    rates=RATES,
    node_gpus=st.lists(st.integers(1, 8), min_size=1, max_size=16).map(tuple),
    max_gpus=st.integers(4, 128),
    max_watts=st.none() | st.floats(2000, 30_000),
    max_usd=st.none() | st.floats(10, 200),
    sizing=st.sampled_from([SIZING, APART]),
)
def test_a_plan_serves_every_class_once_keeps_all_limits_and_is_its_own_fixed_point(  # noqa: PLR0917 - drawn by name
    policy: PolicyName,
    rates: dict[RequestClass, float],
    node_gpus: tuple[int, ...],
    max_gpus: int,
    max_watts: float | None,
    max_usd: float | None,
    sizing: RoundSizing,
) -> None:
    prices = Prices(electricity_usd_per_kwh=0.1, gpu_usd_per_hour=2.0)
    limits = Limits(max_gpus=max_gpus, max_watts=max_watts, max_usd_per_hour=max_usd)
    service = make_service(policy=policy, limits=limits, prices=prices)
    plan = decided(service, rates, node_gpus=node_gpus, sizing=sizing)
    assert sorted(c for pool in plan.pools for c in pool.classes) == sorted(RequestClass)
    assert [pool.name for pool in plan.pools] == [pool.classes[-1].value.lower() for pool in plan.pools]
    if not plan.message.endswith("free GPUs.") or instances(plan) > 1:
        assert plan.gpus <= min(max_gpus, sum(node_gpus))
        assert plan.power_w <= (max_watts or np.inf) * (1 + 1e-6)
        assert usd_per_hour(prices, watts=plan.power_w, gpus=plan.gpus) <= (max_usd or np.inf) * (1 + 1e-6)
    assert (
        all(p.capacity_per_s >= p.rate_per_s * (1 - 1e-9) for p in plan.pools) or plan.reason == "CapacityUnavailable"
    )
    again = decided(service, rates, plan=plan, node_gpus=node_gpus, sizing=sizing)
    assert again == plan
    stored = plan_codec.decode(plan_codec.encode(plan))
    assert decided(service, rates, plan=stored, node_gpus=node_gpus, sizing=sizing) == plan
    if plan.reason == "CapacityUnavailable":
        return
    # What carries everything is kept at the next epoch too.
    later = decided(service, rates, plan=plan, now_s=NOW_S + 1800, node_gpus=node_gpus, sizing=sizing)
    assert shape(later) == shape(plan)


@pytest.mark.parametrize("policy", EVERY)
@settings(max_examples=10)
@given(rates=RATES, factor=st.floats(1.0, 4.0))
def test_more_load_never_means_less_capacity(
    policy: PolicyName, rates: dict[RequestClass, float], factor: float
) -> None:
    service = make_service(policy=policy, limits=Limits(max_gpus=512))

    def tokens(plan: Plan) -> float:
        return sum(pool.capacity_per_s * tokens_per_s(pool.load) / pool.rate_per_s for pool in plan.pools if pool.load)

    less = decided(service, rates, node_gpus=(8,) * 64)
    more = decided(service, {c: rate * factor for c, rate in rates.items()}, node_gpus=(8,) * 64)
    needed = factor * sum(tokens_per_s(pool.load) for pool in less.pools)
    assert tokens(more) >= needed * (1 - 1e-6)


@pytest.mark.parametrize("policy", [PolicyName.SINGLE_POOL_ELASTIC, PolicyName.JOINT])
@settings(max_examples=30)
@given(rates=RATES, factor=st.floats(1.0, 1.2) | st.floats(1.2, 4.0), sizing=st.sampled_from([SIZING, APART]))
def test_more_load_never_means_fewer_watts_where_watts_are_least(
    policy: PolicyName, rates: dict[RequestClass, float], factor: float, sizing: RoundSizing
) -> None:
    """What carries more carries less at no more watts, so a plan of less load that drew more would not be the cheapest.

    Others do not look for the least watts: an instance more may let ScaleFreq's clocks fall, and DynamoLLM parts small pools
    only where they fill an instance.
    """
    service = make_service(policy=policy, limits=Limits(max_gpus=512))
    less = decided(service, rates, node_gpus=(8,) * 64, sizing=sizing)
    more = decided(service, {c: rate * factor for c, rate in rates.items()}, node_gpus=(8,) * 64, sizing=sizing)
    assert more.power_w >= less.power_w * (1 - POOL_WORTH)


# ------------------------------------------------------------------ what each leaves alone
@pytest.mark.parametrize("policy", PER_CLASS)
def test_every_class_that_is_asked_for_has_its_own_pool(policy: PolicyName) -> None:
    plan = decided(make_service(policy=policy), MIX)
    assert [pool.name for pool in plan.pools] == ["ss", "mm", "ll"]
    assert [pool.classes[-1] for pool in plan.pools] == list(MIX)
    # One that comes later gets one too, and one whose load has gone keeps it.
    later = decided(
        make_service(policy=policy), {RequestClass.ML: 5.0, RequestClass.SS: 6.0}, plan=plan, now_s=NOW_S + 1800
    )
    assert [pool.name for pool in later.pools] == ["ss", "mm", "ml", "ll"]


@pytest.mark.parametrize("policy", FIXED)
def test_a_policy_with_fixed_instances_never_loses_one(policy: PolicyName) -> None:
    service = make_service(policy=policy, behavior=Behavior(scale_down_stabilization_s=0.0))
    plan = decided(service, {c: 3 * rate for c, rate in MIX.items()})
    now_s = NOW_S + 1800
    later = decided(service, {c: rate / 10 for c, rate in MIX.items()}, plan=plan, now_s=now_s)
    assert shape(later) == shape(plan)
    more = decided(service, {c: 9 * rate for c, rate in MIX.items()}, plan=plan, now_s=now_s)
    assert instances(more) > instances(plan)


@pytest.mark.parametrize("policy", [PolicyName.SINGLE_POOL, PolicyName.MULTI_POOL, PolicyName.SCALE_INST])
def test_a_policy_without_degrees_and_clocks_stays_at_the_largest_and_the_highest(policy: PolicyName) -> None:
    plan = decided(make_service(policy=policy), {c: rate / 10 for c, rate in MIX.items()})
    groups = [group for pool in plan.pools for group in pool.groups]
    assert {group.tensor_parallel for group in groups} == {8}
    assert {group.clock_mhz for group in groups} == {1980}
    assert all(group.ladder.steps == () for group in groups)


def test_scale_inst_scales_instances_down_to_the_load() -> None:
    service = make_service(policy=PolicyName.SCALE_INST, behavior=Behavior(scale_down_stabilization_s=0.0))
    plan = decided(service, {c: 5 * rate for c, rate in MIX.items()})
    assert instances(decided(service, MIX, plan=plan, now_s=NOW_S + 1800)) < instances(plan)


def test_scale_freq_has_clocks_below_the_highest_at_low_load() -> None:
    plan = decided(make_service(policy=PolicyName.SCALE_FREQ), {c: rate / 3 for c, rate in MIX.items()})
    assert min(group.clock_mhz for pool in plan.pools for group in pool.groups) < 1980


def test_scale_shard_keeps_its_instances_and_makes_them_smaller() -> None:
    service = make_service(policy=PolicyName.SCALE_SHARD, behavior=Behavior(scale_down_stabilization_s=0.0))
    plan = decided(service, {c: 3 * rate for c, rate in MIX.items()})
    later = decided(service, {c: rate / 3 for c, rate in MIX.items()}, plan=plan, now_s=NOW_S + 1800)
    assert (instances(later), later.gpus) == (instances(plan), pytest.approx(plan.gpus, abs=plan.gpus - 1))
    assert later.gpus < plan.gpus
    assert {group.clock_mhz for pool in later.pools for group in pool.groups} == {1980}


def test_single_pool_elastic_is_one_pool_with_all_knobs() -> None:
    plan = decided(make_service(policy=PolicyName.SINGLE_POOL_ELASTIC), {RequestClass.SS: 1.0, RequestClass.MM: 0.5})
    (pool,) = plan.pools
    assert plan.gpus < 8
    assert any(group.clock_mhz < 1980 for group in pool.groups)


# ------------------------------------------------------------------ Joint
def test_joint_parts_the_classes_where_that_saves_and_only_there() -> None:
    large = {RequestClass.SS: 60.0, RequestClass.SM: 20.0, RequestClass.LL: 6.0}
    service = make_service(policy=PolicyName.JOINT)
    assert len(decided(service, {RequestClass.SS: 0.2, RequestClass.LL: 0.1}, sizing=APART).pools) == 1
    apart = decided(service, large, sizing=APART)
    assert [pool.name for pool in apart.pools] == ["sm", "ll"]
    assert apart.power_w < decided(make_service(policy=PolicyName.SINGLE_POOL_ELASTIC), large, sizing=APART).power_w


@settings(max_examples=25)
@given(rates=RATES, sizing=st.sampled_from([SIZING, APART]))
def test_joint_costs_no_more_than_any_other_policy_but_for_what_a_pool_more_must_save(
    rates: dict[RequestClass, float], sizing: RoundSizing
) -> None:
    limits = Limits(max_gpus=512)
    plans = {
        policy: decided(make_service(policy=policy, limits=limits), rates, sizing=sizing, node_gpus=(8,) * 64)
        for policy in (PolicyName.JOINT, PolicyName.DYNAMO_LLM, PolicyName.SINGLE_POOL_ELASTIC, PolicyName.SCALE_INST)
    }
    joint = plans[PolicyName.JOINT]
    for other in plans.values():
        worth = POOL_WORTH * max(0, len(other.pools) - len(joint.pools))
        assert joint.power_w * (1 - worth) <= other.power_w * (1 + 1e-9)


@pytest.mark.parametrize("policy", ELASTIC)
@pytest.mark.parametrize("sizing", [SIZING, APART], ids=["mixing is free", "mixing costs"])
def test_noise_near_the_knee_changes_the_plan_at_most_once_in_two_hours(
    policy: PolicyName, sizing: RoundSizing
) -> None:
    for knee in (4.9, 6.0, 9.8, 11.9):
        rng = np.random.default_rng(0)
        plan: Plan | None = None
        shapes = []
        noise = {c: rng.uniform(0.95, 1.05, 180) for c in (RequestClass.SS, RequestClass.MM, RequestClass.LL)}
        for minute in range(60, 180):
            now_s = NOW_S + 60 * minute
            rates = {c: list(knee / 1.6 * samples[: minute + 1]) for c, samples in noise.items()}
            observation = look(history(rates, end_s=now_s), plan=plan)
            plan = decide_with(
                make_service(policy=policy), sizing, observation, now_s=now_s, available_gpus=192, basis="one"
            )
            shapes.append(shape(plan))
        assert sum(a != b for a, b in pairwise(shapes)) <= 1, (knee, shapes)


# ------------------------------------------------------------------ pins and objectives
@pytest.mark.parametrize("policy", EVERY)
def test_pinned_instances_are_exactly_so_many(policy: PolicyName) -> None:
    plan = decided(make_service(policy=policy, pins=Pins(instances=7)), MIX)
    assert instances(plan) == 7


@pytest.mark.parametrize("policy", [PolicyName.JOINT, PolicyName.DYNAMO_LLM])
@pytest.mark.parametrize("pools", [1, 2, 3])
def test_pinned_pools_are_exactly_so_many(policy: PolicyName, pools: int) -> None:
    assert len(decided(make_service(policy=policy, pins=Pins(pools=pools)), MIX).pools) == pools


def test_cost_takes_fewer_gpus_than_energy_where_gpus_are_dear() -> None:
    prices = Prices(electricity_usd_per_kwh=0.1, gpu_usd_per_hour=4.0)
    plans = {
        objective: decided(make_service(policy=PolicyName.JOINT, objective=objective, prices=prices), MIX)
        for objective in Objective
    }
    assert plans[Objective.COST].gpus < plans[Objective.ENERGY].gpus
    assert plans[Objective.COST].power_w > plans[Objective.ENERGY].power_w


# ------------------------------------------------------------------ N-1
class AtOneClock(RoundSizing):
    def ladder(self, *, load: Load, tensor_parallel: int) -> Ladder:  # noqa: ARG002 - the same for all
        return Ladder(steps=(), safe_mhz=self.max_clock_mhz)


@pytest.mark.parametrize("policy", ELASTIC)
def test_a_reduction_leaves_enough_for_the_load_of_now_when_an_instance_fails(policy: PolicyName) -> None:
    service = make_service(
        policy=policy, tensor_parallel=(8,), behavior=Behavior(scale_down_stabilization_s=0.0, tolerance=0.0)
    )
    sizing = AtOneClock(reserve=1.0)
    # Tokens/s: one TP8 carries 12,000; two carry this, and one of them alone would not.
    rates = {RequestClass.MM: 22.0}
    assert instances(decided(service, rates, sizing=sizing)) == 2
    plan = decided(service, {RequestClass.MM: 58.0}, sizing=sizing)
    assert instances(plan) == 4
    later = decided(service, rates, plan=plan, now_s=NOW_S + 1800, sizing=sizing)
    assert instances(later) == 3


# ------------------------------------------------------------------ limits that pools share
@pytest.mark.parametrize(
    ("objective", "limits", "binding"),
    [
        (Objective.ENERGY, Limits(max_gpus=18), "maxGPUs"),
        (Objective.COST, Limits(max_gpus=512, max_watts=3400.0), "maxWatts"),
        (Objective.ENERGY, Limits(max_gpus=512, max_usd_per_hour=37.0), "maxCost"),
    ],
)
def test_what_binds_is_named_and_the_load_is_carried_within_it(
    objective: Objective, limits: Limits, binding: str
) -> None:
    prices = Prices(electricity_usd_per_kwh=0.1, gpu_usd_per_hour=2.0)
    rates = {RequestClass.SS: 20.0, RequestClass.MM: 6.0, RequestClass.LL: 2.0}
    service = make_service(policy=PolicyName.JOINT, prices=prices, objective=objective)
    assert decided(service, rates, sizing=APART).binding == ""
    plan = decided(replace(service, limits=limits), rates, sizing=APART)
    assert plan.binding.startswith(binding)
    assert plan.reason == "Initial"
    assert plan.binding in plan.message
    assert all(pool.capacity_per_s >= pool.rate_per_s for pool in plan.pools)


# ------------------------------------------------------------------ the next best
@pytest.mark.parametrize("policy", ELASTIC)
@settings(max_examples=15)
@given(rates=RATES, pools=st.integers(1, 4), saving=st.sampled_from([0.02, 0.9]))
@example(rates=MIX, pools=2, saving=0.9)
@example(rates=MIX, pools=3, saving=0.9)
def test_the_runner_up_is_another_plan(
    policy: PolicyName, rates: dict[RequestClass, float], pools: int, saving: float
) -> None:
    service = make_service(policy=policy, behavior=Behavior(min_saving=saving))
    before = decided(replace(service, pins=Pins(pools=pools)), rates, sizing=APART)
    after = decided(service, rates, plan=before, now_s=NOW_S + 1800, sizing=APART)
    for plan in (before, after):
        told = plan.runner_up.split("; ")
        asked = [" ".join(c for c in pool.classes if c in pool.load) for pool in plan.pools]
        parts = [set(one[len("pools ") :].rpartition(":")[0].split(" | ")) for one in told if one.startswith("pools ")]
        assert set(filter(None, asked)) not in parts
        for pool in plan.pools:
            mix = describe_mix({group.tensor_parallel: group.instances for group in pool.groups})
            assert not any(one.startswith(f"{pool.name}: {mix} at ") for one in told)
