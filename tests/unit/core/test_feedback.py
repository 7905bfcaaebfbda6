"""What plans learn from requests that missed their SLO, and what they do not."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from decision_world import NOW_S, SLO, World, constant, decided, look, make_service
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import MODERN, mix, paper_mix, profile

import dynamollm.core.decide as decide_module
from dynamollm.core.actions import steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide, levels_due, sizing_of
from dynamollm.core.feedback import (
    CALM_PACE_S,
    CALM_STEP,
    HALF_LIFE_S,
    STEP,
    WINDOW_S,
    Learned,
    correction_at,
    feedback,
)
from dynamollm.core.margins import Reserve
from dynamollm.core.policies.outcome import WHOLE
from dynamollm.core.records import (
    Attainment,
    Behavior,
    Instance,
    InstanceState,
    Observation,
    Plan,
    PolicyName,
    Service,
    SloRule,
)

STARTUP_S = 120.0
SERVICE = make_service()
MODERN_PROFILE = profile(MODERN)
LOAD = constant({RequestClass.MM: 3.0}, end_s=NOW_S)
PLAN = replace(decided(SERVICE, look(LOAD)), corrected_s=0.0)
SERVING = tuple(
    Instance(
        name=f"{pool.name}-{group.tensor_parallel}-{number}",
        pool=pool.name,
        tensor_parallel=group.tensor_parallel,
        state=InstanceState.READY,
        created_s=0.0,
        unrouted_s=None,
        in_flight=3,
    )
    for pool in PLAN.pools
    for group in pool.groups
    for number in range(group.instances)
)
BAD = {RequestClass.SS: Attainment(900.0, 900.0), RequestClass.MM: Attainment(100.0, 78.0)}
GOOD = {RequestClass.SS: Attainment(900.0, 895.0), RequestClass.MM: Attainment(100.0, 97.0)}


def seen(attainment: Mapping[RequestClass, Attainment] | None, *, plan: Plan | None = PLAN) -> Observation:
    return replace(look(LOAD, plan=plan, instances=SERVING), attainment=attainment)


def learned(observation: Observation, *, service: Service = SERVICE, now_s: float = NOW_S) -> Learned:
    return feedback(service, observation, startup_s=STARTUP_S, now_s=now_s)


# ------------------------------------------------------------------ when
def test_misses_twice_as_fast_as_the_slo_allows_are_learned_from() -> None:
    found = learned(seen(BAD))
    assert (found.correction, found.corrected_s, found.factor) == (STEP, NOW_S, STEP)
    assert found.why == "2.2 % of the requests of the last 2 min missed their SLO"


REASONS_NOT_TO = {
    "slower than that": seen(GOOD),
    "few enough to be chance": seen({RequestClass.LL: Attainment(20.0, 11.0)}),
    "nobody was served": seen({}),
    "not known": seen(None),
    "an instance is lacking": replace(seen(BAD), instances=SERVING[1:]),
    "an instance starts": replace(
        seen(BAD), instances=(replace(SERVING[0], state=InstanceState.STARTING), *SERVING[1:])
    ),
    "not enough GPUs": seen(BAD, plan=replace(PLAN, reason="CapacityUnavailable")),
    "nothing keeps the SLO": seen(BAD, plan=replace(PLAN, reason="SLOUnattainable")),
    "what was done does not show yet": seen(BAD, plan=replace(PLAN, corrected_s=NOW_S - STARTUP_S - WINDOW_S + 1)),
}


@pytest.mark.parametrize("observation", REASONS_NOT_TO.values(), ids=REASONS_NOT_TO.keys())
def test_other_misses_are_not(observation: Observation) -> None:
    assert learned(observation).factor == 1.0
    assert not learned(observation).why


def test_requests_that_waited_for_the_first_instances_are_no_reason() -> None:
    first = learned(seen(BAD, plan=None))
    assert (first.factor, first.why) == (1.0, "")
    plan = replace(PLAN, corrected_s=first.corrected_s)
    served_s = NOW_S + STARTUP_S
    assert not learned(seen(BAD, plan=plan), now_s=NOW_S).why
    assert not learned(seen(BAD, plan=plan), now_s=served_s + 2 * WINDOW_S - 1).why
    assert learned(seen(BAD, plan=plan), now_s=served_s + 2 * WINDOW_S).why


def test_by_class_the_one_that_misses_most_counts_and_what_routers_do_not_measure_does_not() -> None:
    one_in_ten = {RequestClass.SS: Attainment(9900.0, 9900.0), RequestClass.LL: Attainment(100.0, 90.0)}
    by_class = make_service(slo=replace(SLO, rule=SloRule.PER_CLASS_PERCENTILE))
    assert not learned(seen(one_in_ten)).why
    assert learned(seen(one_in_ten), service=by_class).why.startswith("10.0 % of the LL requests")
    assert not learned(seen(BAD), service=make_service(slo=replace(SLO, rule=SloRule.FIVE_TIMES_ALONE))).why


# ------------------------------------------------------------------ how much
def test_it_is_bounded_by_what_the_user_allows() -> None:
    plan = replace(PLAN, correction=1.5, corrected_s=NOW_S - 1000.0)
    near = learned(seen(BAD, plan=plan))
    assert near.factor == 1.5
    none = make_service(behavior=Behavior(max_correction=0.0))
    assert (learned(seen(BAD, plan=plan), service=none).factor, learned(seen(BAD), service=none).why) == (1.0, "")


def test_half_of_it_is_left_after_two_hours() -> None:
    plan = replace(PLAN, correction=1.4, corrected_s=NOW_S)
    assert correction_at(plan, now_s=NOW_S) == 1.4
    assert correction_at(plan, now_s=NOW_S + HALF_LIFE_S) == pytest.approx(1.2)
    assert correction_at(plan, now_s=NOW_S + 1e9) == 1.0
    # Another clock: from the future.
    assert correction_at(plan, now_s=NOW_S - 1e9) == 1.4


FEW = {RequestClass.SS: Attainment(9000.0, 8990.0), RequestClass.MM: Attainment(1000.0, 999.0)}


def calm(
    attainment: Mapping[RequestClass, Attainment] | None, *, correction: float = 1.3, age_s: float = CALM_PACE_S
) -> Observation:
    plan = replace(PLAN, correction=correction, corrected_s=NOW_S - age_s)
    return replace(seen(GOOD, plan=plan), settled_attainment=attainment)


def test_it_is_forgotten_sooner_where_hardly_any_request_misses_its_slo() -> None:
    observation = calm(FEW)
    assert observation.plan is not None
    found = learned(observation)
    assert found.factor == correction_at(observation.plan, now_s=NOW_S) / CALM_STEP
    assert (found.correction, found.corrected_s, found.why) == (found.factor, NOW_S, "")
    # Never to less than nothing, and where there is nothing to forget nothing is done.
    assert learned(calm(FEW, correction=1.01)).factor == 1.0
    assert learned(calm(FEW, correction=1.0)).corrected_s == NOW_S - CALM_PACE_S


NOT_CALM = {
    "half of what is allowed": calm({RequestClass.MM: Attainment(10_000.0, 9950.0)}),
    "one of three hundred may have been four": calm({RequestClass.MM: Attainment(300.0, 299.0)}),
    "none of three hundred says little": calm({RequestClass.MM: Attainment(300.0, 300.0)}),
    "nobody was served": calm({}),
    "not known": calm(None),
    "too early": calm(FEW, age_s=CALM_PACE_S - 1),
    "an instance is lacking": replace(calm(FEW), instances=SERVING[1:]),
}


@pytest.mark.parametrize("observation", NOT_CALM.values(), ids=NOT_CALM.keys())
def test_it_is_not_otherwise(observation: Observation) -> None:
    assert observation.plan is not None
    assert learned(observation).factor == correction_at(observation.plan, now_s=NOW_S)


def test_where_it_is_calm_by_class_every_class_is() -> None:
    one = calm({RequestClass.SS: Attainment(9000.0, 9000.0), RequestClass.LL: Attainment(1000.0, 994.0)})
    assert one.plan is not None
    left = correction_at(one.plan, now_s=NOW_S)
    by_class = make_service(slo=replace(SLO, rule=SloRule.PER_CLASS_PERCENTILE))
    assert learned(one).factor < left
    assert learned(one, service=by_class).factor == left
    assert learned(one, service=make_service(slo=replace(SLO, rule=SloRule.FIVE_TIMES_ALONE))).factor == left


COUNTS = st.dictionaries(
    st.sampled_from(list(RequestClass)),
    st.tuples(st.floats(0, 1e6), st.floats(0, 1)).map(lambda pair: Attainment(pair[0], pair[0] * pair[1])),
)


@given(
    attainment=st.none() | COUNTS,
    before=st.none() | COUNTS,
    correction=st.floats(1.0, 3.0),
    age_s=st.floats(-1e5, 1e6),
    most=st.floats(0.0, 2.0),
    rule=st.sampled_from(SloRule),
)
def test_it_never_leaves_its_bounds_and_is_learned_once(
    *,
    attainment: Mapping[RequestClass, Attainment] | None,
    before: Mapping[RequestClass, Attainment] | None,
    correction: float,
    age_s: float,
    most: float,
    rule: SloRule,
) -> None:
    service = make_service(slo=replace(SLO, rule=rule), behavior=Behavior(max_correction=most))
    plan = replace(PLAN, correction=correction, corrected_s=NOW_S - age_s)
    observation = replace(seen(attainment, plan=plan), settled_attainment=before)
    found = learned(observation, service=service)
    assert 1.0 <= found.factor <= 1 + most
    kept = min(1 + most, correction_at(plan, now_s=NOW_S))
    assert found.factor >= kept / CALM_STEP
    if not before:
        assert found.factor >= kept
    if not attainment:
        assert found.factor <= kept
    again = replace(plan, correction=found.correction, corrected_s=found.corrected_s)
    assert learned(replace(observation, plan=again), service=service).factor == found.factor


# ------------------------------------------------------------------ what comes of it
def served(world: World, service: Service, *, hours: float, met: float | None) -> list[tuple[float, Plan]]:
    """Let the operator's cycle go on under constant load; return its plans by time."""
    counts = None if met is None else {RequestClass.MM: Attainment(1000.0, 1000.0 * met)}
    plans: list[tuple[float, Plan]] = []
    end_s = world.now_s + hours * 3600
    while world.now_s < end_s:
        load = paper_mix(50.0, end_s=world.now_s // 60 * 60)
        observation = replace(world.observe(load), attainment=counts)
        plan = decide(service, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
        if plan is not world.plan:
            plans.append((world.now_s, plan))
        world.apply(steps(service, plan, observation, now_s=world.now_s))
        world.plan = plan
        world.tick(60.0)
    return plans


def best_gpus(plan: Plan) -> int:
    """What the latest decision would have had, whatever is held back."""
    return plan.downscale[WHOLE][-1][1]


@pytest.mark.parametrize("policy", [PolicyName.JOINT, PolicyName.DYNAMO_LLM])
def test_plans_grow_at_once_while_requests_miss_their_slo(policy: PolicyName) -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)}, startup_s=MODERN_PROFILE.startup_s)
    service = replace(SERVICE, policy=policy)
    served(world, service, hours=0.5, met=0.999)
    assert world.plan is not None
    before, first_s = world.plan, world.now_s
    assert before.correction == 1.0

    missing = served(world, service, hours=0.5, met=0.9)
    raised = [(time_s, plan) for time_s, plan in missing if plan.reason == "SLOMissed"]
    assert raised[0][0] == first_s
    # Higher clocks at the same load, or more instances.
    assert raised[0][1].power_w > 1.05 * before.power_w
    assert raised[0][1].message.startswith(
        "10.0 % of the requests of the last 2 min missed their SLO: capacities count for 87 % of the profile's"
    )
    for (earlier_s, one), (later_s, other) in pairwise(raised):
        assert later_s - earlier_s >= MODERN_PROFILE.startup_s + WINDOW_S
        assert other.correction <= one.correction * STEP + 1e-9
    assert world.plan.gpus >= 1.1 * before.gpus
    assert world.plan.power_w >= 1.25 * before.power_w
    # While it is not known how requests fare it does not grow.
    assert all(plan.reason != "SLOMissed" for _, plan in served(world, service, hours=0.5, met=None))


def test_what_was_learned_is_forgotten_over_hours() -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)}, startup_s=MODERN_PROFILE.startup_s)
    served(world, SERVICE, hours=0.5, met=0.999)
    assert world.plan is not None
    before = best_gpus(world.plan)
    served(world, SERVICE, hours=0.5, met=0.9)
    most = best_gpus(world.plan)
    world.now_s += 12 * 3600.0
    served(world, SERVICE, hours=0.5, met=0.999)
    # What would do again: N-1 may keep more than that where load is constant.
    assert before <= best_gpus(world.plan) < most
    assert 1.0 < correction_at(world.plan, now_s=world.now_s) < 1.02


def test_a_plan_that_has_learned_is_its_own_fixed_point() -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)}, startup_s=MODERN_PROFILE.startup_s)
    served(world, SERVICE, hours=0.5, met=0.999)
    observation = replace(world.observe(paper_mix(50.0, end_s=world.now_s)), attainment=BAD)
    plan = decide(SERVICE, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
    assert plan.reason == "SLOMissed"
    again = replace(observation, plan=plan)
    assert decide(SERVICE, MODERN_PROFILE, again, now_s=world.now_s, available_gpus=96) == plan


def test_what_is_forgotten_changes_nothing_else_of_a_plan_before_its_next_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)}, startup_s=MODERN_PROFILE.startup_s)
    served(world, SERVICE, hours=0.5, met=0.999)
    assert world.plan is not None
    told = "Requests come in bursts: 20 % more is kept for them."
    plan = replace(
        world.plan,
        correction=1.3,
        corrected_s=world.now_s - CALM_PACE_S,
        scale_decided_s=world.now_s,
        shard_decided_s=world.now_s,
        bursts=1.2,
        message=f"{world.plan.message} {told}",
    )
    world.plan = plan
    observation = replace(world.observe(paper_mix(50.0, end_s=world.now_s // 60 * 60)), settled_attainment=FEW)
    monkeypatch.setattr(decide_module, "kept_for_bursts", lambda _load: 1.1)
    after = decide(SERVICE, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
    assert after.correction < 1.3
    assert replace(after, correction=1.3, corrected_s=plan.corrected_s) == plan
    again = replace(observation, plan=after)
    assert decide(SERVICE, MODERN_PROFILE, again, now_s=world.now_s, available_gpus=96) is after


def test_misses_between_two_decisions_are_not_waited_out() -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)}, startup_s=MODERN_PROFILE.startup_s)
    served(world, SERVICE, hours=0.5, met=0.999)
    before = world.plan
    assert before is not None
    # A minute after the pool level has decided, nothing is due for four more.
    world.now_s = before.shard_decided_s + 60.0
    assert not levels_due(before, SERVICE, startup_s=MODERN_PROFILE.startup_s, now_s=world.now_s)
    observation = replace(world.observe(paper_mix(50.0, end_s=world.now_s // 60 * 60)), attainment=BAD)
    plan = decide(SERVICE, MODERN_PROFILE, observation, now_s=world.now_s, available_gpus=96)
    assert plan.reason == "SLOMissed"
    assert plan.shard_decided_s == world.now_s
    assert plan.pools != before.pools


def test_an_instance_alone_is_asked_for_no_more_by_a_reserve_below_one() -> None:
    load = mix(*RequestClass)
    known = {r: sizing_of(SERVICE, MODERN_PROFILE, reserve=Reserve(r, r)) for r in (0.8, 1.0)}
    alone = [one.capacity_per_s(load=load, tensor_parallel=8) for one in known.values()]
    pooled = [one.in_pool_per_s(load=load, tensor_parallel=8, instances=10) for one in known.values()]
    assert known[0.8].reserve == 1.0
    assert alone[0] == alone[1]
    assert pooled[0] > pooled[1]
