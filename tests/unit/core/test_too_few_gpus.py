"""What ``decide`` plans where GPUs are too few for the load, and what it says is short."""

from dataclasses import replace

import pytest
from decision_world import CAPACITY, MIX, NOW_S, RoundSizing, carried, constant, decided, look, make_service, nodes

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Behavior, Instance, InstanceState, Limits, Plan, PolicyName, Prices


def test_what_does_not_fit_is_degraded_and_said() -> None:
    service = make_service(limits=Limits(max_gpus=16))
    plan = decided(service, look(constant({c: 40 * r for c, r in MIX.items()}, end_s=NOW_S)))
    assert (plan.reason, plan.gpus) == ("CapacityUnavailable", 16)
    assert "maxGPUs (268 of 16)" in plan.message


def test_fragmented_nodes_take_no_instance_larger_than_their_free_gpus() -> None:
    plan = decided(
        make_service(policy=PolicyName.DYNAMO_LLM),
        look(constant({RequestClass.MM: 9.0}, end_s=NOW_S), gpus=nodes(6, gpus=4)),
        available_gpus=24,
    )
    assert all(g.tensor_parallel <= 4 for p in plan.pools for g in p.groups)
    assert carried(plan)


@pytest.mark.parametrize("policy", [PolicyName.DYNAMO_LLM, PolicyName.JOINT, PolicyName.SINGLE_POOL])
@pytest.mark.parametrize("free", [{"a": 1, "b": 1, "c": 1}, {"a": 0}], ids=["one each", "none"])
def test_what_fits_nowhere_is_not_planned_and_what_fits_at_last_is_at_once(
    policy: PolicyName, free: dict[str, int]
) -> None:
    service = make_service(policy=policy)
    load = constant({RequestClass.MM: 9.0}, end_s=NOW_S)
    plan = decided(service, look(load, gpus=free), available_gpus=sum(free.values()))
    smallest = 8 if policy is PolicyName.SINGLE_POOL else 2
    assert (plan.gpus, plan.reason, plan.binding) == (
        0,
        "CapacityUnavailable",
        f"GPUs on nodes for TP{smallest} ({smallest} of 0)",
    )
    assert plan.binding in plan.message
    assert decided(service, look(load, gpus=free, plan=plan), available_gpus=sum(free.values())) == plan
    now_s = NOW_S + 1
    at_last = look(constant({RequestClass.MM: 9.0}, end_s=now_s), gpus=nodes(1), plan=plan)
    assert decided(service, at_last, available_gpus=8, now_s=now_s).gpus == 8
    # Unknown load holds a plan, but not one of nothing.
    blind = look(None, gpus=nodes(1), plan=plan)
    begun = decided(service, blind, available_gpus=8, now_s=now_s)
    assert (begun.reason, begun.basis) == ("LoadUnknown", plan.basis)
    assert begun.gpus > 0
    assert decided(service, replace(blind, plan=begun), available_gpus=8, now_s=now_s + 5) == begun
    # Where the plan's instance runs already, it has its place.
    own = Instance("a", "ll", smallest, InstanceState.READY, created_s=NOW_S)
    assert decided(service, look(load, gpus=free, instances=(own,)), available_gpus=smallest).gpus == smallest


@pytest.mark.parametrize(
    ("max_gpus", "available", "node_gpus", "name"),
    [(8, 96, 8, "maxGPUs"), (96, 8, 8, "GPUs that the cluster's budget leaves"), (96, 48, 4, "GPUs on nodes")],
)
@pytest.mark.parametrize("policy", PolicyName)
def test_the_limit_that_is_short_is_the_one_that_is_named(
    policy: PolicyName, max_gpus: int, available: int, node_gpus: int, name: str
) -> None:
    service = make_service(policy=policy, limits=Limits(max_gpus=max_gpus), tensor_parallel=(2, 4))
    load = constant({RequestClass.MM: 300.0}, end_s=NOW_S)
    plan = decided(service, look(load, gpus=nodes(12, gpus=node_gpus)), available_gpus=available)
    assert plan.binding.startswith(f"{name} (")
    assert plan.binding.partition(" of ")[2].startswith(f"{min(max_gpus, available)})")
    assert plan.binding in plan.message


@pytest.mark.parametrize("policy", PolicyName)
@pytest.mark.parametrize(
    ("limits", "name"), [(Limits(max_watts=4000.0), "maxWatts"), (Limits(max_usd_per_hour=12.0), "maxCost")]
)
def test_the_budget_that_is_short_is_named(policy: PolicyName, limits: Limits, name: str) -> None:
    prices = Prices(electricity_usd_per_kwh=0.1, gpu_usd_per_hour=1.0)
    service = make_service(policy=policy, limits=limits, prices=prices)
    plan = decided(service, look(constant({RequestClass.SS: 60.0, RequestClass.LL: 6.0}, end_s=NOW_S)))
    assert (plan.reason, plan.binding.partition(" (")[0]) == ("CapacityUnavailable", name)
    assert plan.binding in plan.message


@pytest.mark.parametrize("policy", PolicyName)
def test_no_limit_is_named_where_there_is_room_for_all(policy: PolicyName) -> None:
    plan = decided(make_service(policy=policy), look(constant(MIX, end_s=NOW_S)))
    assert (plan.binding, carried(plan)) == ("", True)


def test_growth_that_finds_no_room_names_what_is_short() -> None:
    service = make_service(policy=PolicyName.SCALE_INST, limits=Limits(max_gpus=16))
    plan = decided(service, look(constant({RequestClass.MM: 3.0}, end_s=NOW_S)))
    burst = look(constant({RequestClass.MM: 30.0}, end_s=NOW_S + 60), plan=plan)
    grown = decided(service, burst, now_s=NOW_S + 60)
    assert (grown.reason, grown.gpus, grown.scale_decided_s) == ("CapacityUnavailable", 16, NOW_S)
    assert grown.binding.startswith("maxGPUs (")


@pytest.mark.parametrize(("max_gpus", "free", "changes"), [(96, 8, True), (8, 8, False), (96, 1, False)])
def test_the_only_instance_is_not_replaced_where_nothing_can_stand_beside_it(
    max_gpus: int, free: int, *, changes: bool
) -> None:
    service = make_service(limits=Limits(max_gpus=max_gpus), behavior=Behavior(scale_down_stabilization_s=0.0))
    alone = Instance("a", "ll", 8, InstanceState.READY, created_s=NOW_S)
    plan = decided(service, look(constant({RequestClass.MM: 14.0}, end_s=NOW_S), gpus={"n": free}, instances=(alone,)))
    assert [g.tensor_parallel for p in plan.pools for g in p.groups] == [8]
    now_s = NOW_S + 1800
    low = look(constant({RequestClass.MM: 0.5}, end_s=now_s), plan=plan, gpus={"n": free}, instances=(alone,))
    assert (decided(service, low, now_s=now_s).gpus < 8) is changes


def test_pods_that_wait_too_long_are_given_back_and_not_asked_for_again_at_once() -> None:
    service = make_service()
    plan = decided(service, look(constant({RequestClass.MM: 40.0}, end_s=NOW_S)))
    (pool,) = plan.pools
    tp = pool.groups[0].tensor_parallel
    ready = Instance("a", pool.name, tp, InstanceState.READY, created_s=NOW_S)
    stuck = [
        Instance(f"p{i}", pool.name, tp, InstanceState.PENDING, created_s=NOW_S) for i in range(pool.instances - 1)
    ]
    now_s = NOW_S + 301
    load = constant({RequestClass.MM: 40.0}, end_s=now_s)
    other = decided(service, look(load, plan=plan, instances=(ready, *stuck)), now_s=now_s)
    assert (other.reason, other.gpus) == ("CapacityUnavailable", tp)
    again = decided(service, look(load, plan=other, instances=(ready,)), now_s=now_s + 5)
    assert again == other
    later_s = now_s + 1800
    later = decided(
        service, look(constant({RequestClass.MM: 40.0}, end_s=later_s), plan=other, instances=(ready,)), now_s=later_s
    )
    assert carried(later)


# ------------------------------------------------------------------ not all can be served in time
def mixes(plan: Plan) -> list[tuple[str, list[tuple[int, int]]]]:
    return [(p.name, [(g.tensor_parallel, g.instances) for g in p.groups]) for p in plan.pools]


@pytest.mark.parametrize("policy", [PolicyName.DYNAMO_LLM, PolicyName.SINGLE_POOL_ELASTIC, PolicyName.JOINT])
def test_what_cannot_all_be_served_in_time_is_planned_for_what_serves_most(policy: PolicyName) -> None:
    """One instance of eight GPUs serves more in time, two of four serve more: of the load beyond that requests are lost."""
    service = make_service(policy=policy, limits=Limits(max_gpus=8))
    sizing = RoundSizing(capacity={2: 0.2, 4: 1.0, 8: 3.0}, throughput={2: 1.0, 4: 8.0, 8: 12.0})
    plan = decided(service, look(constant({RequestClass.MM: 12.0}, end_s=NOW_S)), sizing=sizing)
    assert (plan.reason, mixes(plan)) == ("CapacityUnavailable", [("ll", [(4, 2)])])


def test_instances_stay_where_they_serve_all_though_late_and_another_mix_serves_more() -> None:
    service = make_service(policy=PolicyName.SINGLE_POOL_ELASTIC, limits=Limits(max_gpus=16))
    sizing = RoundSizing(capacity=CAPACITY, throughput={2: 4.0, 4: 15.0, 8: 24.0})

    def later(plan: Plan, rate: float, seconds: float) -> Plan:
        load = constant({RequestClass.MM: rate}, end_s=NOW_S + seconds)
        return decided(service, look(load, plan=plan), now_s=NOW_S + seconds, sizing=sizing)

    plan = decided(service, look(constant({RequestClass.MM: 24.0}, end_s=NOW_S)), sizing=sizing)
    assert mixes(plan) == [("ll", [(8, 2)])]
    late = later(plan, 32.0, 1800)
    assert (late.reason, mixes(late)) == ("CapacityUnavailable", mixes(plan))
    lost = later(late, 64.0, 3600)
    assert (lost.reason, mixes(lost)) == ("CapacityUnavailable", [("ll", [(4, 4)])])


def test_pools_of_a_load_that_did_not_fit_are_parted_again_when_it_has_fitted_for_a_while() -> None:
    """On full nodes other pools take instances from those in force first: not for a dip between two bursts."""
    service = make_service(
        policy=PolicyName.JOINT,
        limits=Limits(max_gpus=24),
        behavior=Behavior(scale_down_stabilization_s=300.0),
    )
    sizing = RoundSizing(interference=0.3)
    plan, pools = None, {}
    for seconds, times in ((0, 1), (120, 4), (240, 1), (360, 1), (480, 1)):
        rates = {RequestClass.SS: 25.0 * times, RequestClass.LL: 5.0 * times}
        load = constant(rates, end_s=NOW_S + seconds)
        plan = decided(service, look(load, plan=plan), now_s=NOW_S + seconds, sizing=sizing)
        pools[seconds] = [pool.name for pool in plan.pools]
    assert pools == {0: ["ss", "ll"], 120: ["ll"], 240: ["ll"], 360: ["ll"], 480: ["ss", "ll"]}
