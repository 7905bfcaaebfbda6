"""What a change has to save: pools that are dearer by less stay."""

from dataclasses import replace
from typing import cast

import pytest
from decision_world import RoundSizing, World, constant, make_service

from dynamollm.core.actions import steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import POLICIES, decide_with, least_saving
from dynamollm.core.policies.base import Policy, Situation
from dynamollm.core.policies.dynamo_llm import DYNAMO_LLM
from dynamollm.core.records import Behavior, Pins, Plan, PolicyName, Service

RATES = {RequestClass.SS: 6.0, RequestClass.MM: 9.0, RequestClass.LL: 3.0}
SIZING = RoundSizing(interference=0.5)


def settled(world: World, service: Service, *, minutes: int, times: float = 1.0) -> Plan:
    """Let the operator's cycle go on under constant load; return its plan."""
    rates = {c: times * rate for c, rate in RATES.items()}
    for _ in range(minutes):
        observation = world.observe(constant(rates, end_s=world.now_s // 60 * 60))
        plan = decide_with(service, SIZING, observation, now_s=world.now_s, available_gpus=192, basis="one")
        world.apply(steps(service, plan, observation, now_s=world.now_s))
        world.plan = plan
        world.tick(60.0)
    assert world.plan is not None
    return world.plan


@pytest.mark.parametrize(("saving", "pools"), [(0.02, 2), (0.1, 1)])
def test_pools_that_save_more_than_the_least_replace_those_in_force(saving: float, pools: int) -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(24)}, startup_s=SIZING.startup_s)
    service = make_service(policy=PolicyName.JOINT, behavior=Behavior(min_saving=saving))
    before = settled(world, replace(service, pins=Pins(pools=1)), minutes=20)
    assert len(before.pools) == 1
    after = settled(world, service, minutes=40)
    assert len(after.pools) == pools
    assert (after.power_w < before.power_w) is (pools == 2)


@pytest.mark.parametrize(("saving", "degrees"), [(0.02, [2, 8]), (0.1, [2])])
def test_so_do_instances(saving: float, degrees: list[int]) -> None:
    world = World(nodes={f"n{i:02d}": 8 for i in range(24)}, startup_s=SIZING.startup_s)
    one_pool = make_service(policy=PolicyName.JOINT, behavior=Behavior(min_saving=saving), pins=Pins(pools=1))
    before = settled(world, replace(one_pool, pins=Pins(pools=1, tensor_parallel=2)), minutes=20, times=2.2)
    assert [group.tensor_parallel for pool in before.pools for group in pool.groups] == [2]
    after = settled(world, one_pool, minutes=40, times=2.2)
    assert [group.tensor_parallel for pool in after.pools for group in pool.groups] == degrees


@pytest.mark.parametrize("policy", [one for one in PolicyName if one is not PolicyName.JOINT])
def test_a_policy_that_decides_seldom_changes_for_no_saving_below_the_tolerance(policy: PolicyName) -> None:
    eager = Behavior(tolerance=0.1, min_saving=0.02)
    assert least_saving(make_service(policy=policy, behavior=eager)) == 0.1
    assert least_saving(make_service(policy=policy, behavior=replace(eager, min_saving=0.3))) == 0.3


def test_that_is_what_its_policy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    class Listening:
        at_once = False

        def plan(self, situation: Situation) -> Plan:
            told.append(situation.service.behavior.min_saving)
            return DYNAMO_LLM.plan(situation)

    monkeypatch.setitem(cast("dict[PolicyName, Policy]", POLICIES), PolicyName.DYNAMO_LLM, Listening())
    world = World(nodes={"n": 8}, startup_s=SIZING.startup_s)
    settled(world, make_service(policy=PolicyName.DYNAMO_LLM, behavior=Behavior(tolerance=0.2)), minutes=1)
    assert set(told) == {0.2}


def test_one_that_decides_all_at_once_changes_for_the_least() -> None:
    assert (
        least_saving(make_service(policy=PolicyName.JOINT, behavior=Behavior(tolerance=0.1, min_saving=0.02))) == 0.02
    )
