"""What ``steps`` does in single situations, and what it keeps on every way from one plan to another."""

from collections.abc import Mapping

from decision_world import RoundSizing, World, constant, length, make_service
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamollm.core import plan_codec
from dynamollm.core.actions import steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide_with
from dynamollm.core.records import (
    InstanceState,
    Limits,
    Plan,
    Service,
)

SIZING = RoundSizing()
CYCLE_S = 20.0


def plan_for(service: Service, rates: Mapping[RequestClass, float], world: World) -> Plan:
    """A plan from nothing for a load that has always been so."""
    observation = world.observe(constant(rates, end_s=world.now_s))
    fresh = make_world_empty(world).observe(observation.load)
    return decide_with(
        service, SIZING, fresh, now_s=world.now_s, available_gpus=sum(world.nodes.values()), basis="test"
    )


def make_world_empty(world: World) -> World:
    return World(nodes=dict(world.nodes), now_s=world.now_s)


def tokens(rates: Mapping[RequestClass, float]) -> float:
    """Load in tokens/s."""
    return sum(rate * sum(length(c)) for c, rate in rates.items())


def pool_load(world: World, rates: Mapping[RequestClass, float]) -> dict[str, float]:
    """The load that is routed to each pool, tokens/s."""
    return {
        pool: tokens({c: rates.get(c, 0.0) for c, target in world.routing.items() if target == pool})
        for pool in set(world.routing.values())
    }


def capacity(world: World) -> dict[str, float]:
    """What the serving instances of each pool carry, tokens/s."""
    return {
        pool: sum(
            SIZING.capacity[pod.tensor_parallel] * 1000
            for pod in world.pods.values()
            if pod.pool == pool and pod.state(world.now_s) is InstanceState.READY and pod.unrouted_s is None
        )
        for pool in set(world.routing.values())
    }


def run(world: World, service: Service, plan: Plan, rates: Mapping[RequestClass, float], *, cycles: int = 150) -> int:
    """Follow a plan to the end, checking at every step; returns the cycles with actions."""
    busy = 0
    quiet = 0
    for _ in range(cycles):
        before_load, before = pool_load(world, rates), capacity(world)
        observation = world.observe(constant(rates, end_s=world.now_s))
        actions = steps(service, plan, observation, now_s=world.now_s)
        world.plan = plan_codec.decode(plan_codec.encode(plan))
        world.apply(actions)
        after_load, after = pool_load(world, rates), capacity(world)
        for pool, load in after_load.items():
            assert after[pool] >= load - 1e-9 or (
                after[pool] >= before.get(pool, 0.0) - 1e-9 and load <= before_load.get(pool, load) + 1e-9
            ), f"{actions} leave pool {pool} with {after[pool]} for {load}"
        assert world.gpus() <= service.limits.max_gpus
        assert all(free >= 0 for free in world.free().values())
        busy += bool(actions)
        quiet = 0 if actions else quiet + 1
        if quiet > 30:
            break
        world.tick(CYCLE_S)
    return busy


def shape(world: World) -> dict[tuple[str, int], int]:
    return {
        key: n
        for key in world.replicas
        if (
            n := sum(
                pod.state(world.now_s) is InstanceState.READY and pod.unrouted_s is None
                for pod in world.pods.values()
                if (pod.pool, pod.tensor_parallel) == key
            )
        )
    }


def planned(plan: Plan) -> dict[tuple[str, int], int]:
    return {(pool.name, group.tensor_parallel): group.instances for pool in plan.pools for group in pool.groups}


RATES = st.dictionaries(
    st.sampled_from(list(RequestClass)), st.floats(min_value=0.05, max_value=6.0), min_size=1, max_size=9
)


@settings(max_examples=25)
@given(first=RATES, second=RATES)
def test_with_room_every_plan_is_reached_from_every_other(
    first: dict[RequestClass, float], second: dict[RequestClass, float]
) -> None:
    service = make_service(limits=Limits(max_gpus=400))
    world = World(nodes={f"n{i:02d}": 8 for i in range(50)})
    for rates in (first, second):
        load = {c: min(first.get(c, 0.0), second.get(c, 0.0)) for c in RequestClass} if rates is second else rates
        plan = plan_for(service, rates, world)
        run(world, service, plan, load)
        assert shape(world) == planned(plan)
        assert world.routing == dict(plan.routing)
        # Applied twice, a plan changes nothing.
        assert steps(service, plan, world.observe(constant(load, end_s=world.now_s)), now_s=world.now_s) == ()


@settings(max_examples=40)
@given(
    targets=st.lists(RATES, min_size=2, max_size=4),
    nodes=st.lists(st.integers(min_value=2, max_value=8), min_size=2, max_size=6),
    max_gpus=st.integers(min_value=4, max_value=40),
    cycles=st.integers(min_value=1, max_value=12),
)
def test_in_a_tight_cluster_plans_that_change_half_way_break_nothing_and_come_to_rest(
    targets: list[dict[RequestClass, float]], nodes: list[int], max_gpus: int, cycles: int
) -> None:
    service = make_service(limits=Limits(max_gpus=max_gpus))
    world = World(nodes={f"n{i}": gpus for i, gpus in enumerate(nodes)})
    rates: dict[RequestClass, float] = {}
    plan = None
    for rates in targets:
        plan = plan_for(service, rates, world)
        run(world, service, plan, {c: rate / 2 for c, rate in rates.items()}, cycles=cycles)
    assert plan is not None
    load = {c: rate / 2 for c, rate in rates.items()}
    assert run(world, service, plan, load, cycles=400) < 200
    assert steps(service, plan, world.observe(constant(load, end_s=world.now_s)), now_s=world.now_s) == ()
