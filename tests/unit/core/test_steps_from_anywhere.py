"""``steps`` from states that no plan of ours would lead to: a restart, a second writer, a node that failed, a spec reverted."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from decision_world import Pod, RoundSizing, World, constant, make_service
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamollm.core.actions import steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide_with
from dynamollm.core.moves import (
    Action,
    RemoveInstance,
    SetReplicas,
    Unroute,
)
from dynamollm.core.records import (
    Limits,
    LoadHistory,
    Plan,
    Service,
)

SIZING = RoundSizing()
CYCLE_S = 20.0
NODES = 6
POOLS = ("ss", "mm", "ll")
RATES = st.dictionaries(st.sampled_from(list(RequestClass)), st.floats(0.05, 4.0), min_size=1, max_size=9)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Deployments and pods in any state: waiting, starting, serving, draining, ending; more or fewer than asked for."""
    world = World(nodes={f"n{i}": 8 for i in range(NODES)})
    pods = st.tuples(
        st.sampled_from(POOLS),
        st.sampled_from((2, 4, 8)),
        st.sampled_from(("waiting", "starting", "serving", "draining", "ending")),
        st.floats(0.0, 900.0),
    )
    for index, (pool, tp, state, age_s) in enumerate(draw(st.lists(pods, max_size=10))):
        fitting = [name for name, free in world.free().items() if free >= tp]
        pod = Pod(f"{pool}-tp{tp}-old{index}", pool, tp, created_s=world.now_s - age_s)
        if state != "waiting" and fitting:
            pod.node = draw(st.sampled_from(fitting))
            pod.ready_s = world.now_s + (60.0 if state == "starting" else -age_s)
            pod.unrouted_s = world.now_s - draw(st.floats(0.0, 60.0)) if state == "draining" else None
            pod.ends_s = world.now_s + 15.0 if state == "ending" else None
        world.pods[pod.name] = pod
        living = pod.ends_s is None
        world.replicas[pool, tp] = world.replicas.get((pool, tp), 0) + living
    serving = sorted({pod.pool for pod in world.pods.values() if pod.ends_s is None})
    if serving and draw(st.booleans()):
        world.routing = {c: draw(st.sampled_from(serving)) for c in RequestClass}
    return world


def decided(service: Service, world: World, load: LoadHistory | None) -> Plan:
    return decide_with(
        service, SIZING, world.observe(load), now_s=world.now_s, available_gpus=8 * NODES, basis=repr(service)
    )


def taking_away(world: World, actions: tuple[Action, ...]) -> list[Action]:
    return [
        action
        for action in actions
        if isinstance(action, Unroute | RemoveInstance)
        or (
            isinstance(action, SetReplicas)
            and action.replicas < world.replicas.get((action.pool, action.tensor_parallel), 0)
        )
    ]


@settings(max_examples=60)
@given(world=worlds(), rates=RATES, known_before=st.booleans())
def test_nothing_is_taken_away_while_load_is_unknown(
    *, world: World, rates: Mapping[RequestClass, float], known_before: bool
) -> None:
    service = make_service(limits=Limits(max_gpus=40))
    if known_before:
        world.plan = decided(service, world, constant(rates, end_s=world.now_s))
    for _ in range(5):
        plan = decided(service, world, None)
        actions = steps(service, plan, world.observe(None), now_s=world.now_s)
        assert taking_away(world, actions) == []
        # And every clock is the safe one: an empty ladder has no other.
        assert all(group.ladder.steps == () for pool in plan.pools for group in pool.groups)
        world.plan = plan
        world.apply(actions)
        world.tick(CYCLE_S)


@settings(max_examples=60)
@given(world=worlds(), rates=RATES, max_gpus=st.integers(8, 48))
def test_from_any_state_the_budget_is_never_passed_and_the_plan_is_reached(
    world: World, rates: Mapping[RequestClass, float], max_gpus: int
) -> None:
    service = make_service(limits=Limits(max_gpus=max_gpus))
    quiet = 0
    for _ in range(400):
        load = constant(rates, end_s=world.now_s)
        plan = decided(service, world, load)
        before = world.gpus()
        actions = steps(service, plan, world.observe(load), now_s=world.now_s)
        world.plan = plan
        world.apply(actions)
        # What a second writer asked for beyond the limit is not ours to end at once, but nothing is added to it.
        assert world.gpus() <= max(before, max_gpus)
        quiet = 0 if actions else quiet + 1
        if quiet > 40:
            break
        world.tick(CYCLE_S)
    assert quiet > 40, "it never comes to rest"
    assert all(pod.unrouted_s is None for pod in world.pods.values() if pod.ends_s is None) or world.gpus() >= max_gpus


@settings(max_examples=40)
@given(world=worlds(), rates=RATES)
def test_a_restart_between_any_two_actions_changes_nothing(world: World, rates: Mapping[RequestClass, float]) -> None:
    """Only the first action of each cycle is carried out, as if the operator died behind it every time."""
    service = make_service(limits=Limits(max_gpus=48))
    load = constant(rates, end_s=world.now_s)
    plan = decided(service, replace(world, plan=None), load)
    for _ in range(600):
        actions = steps(service, plan, world.observe(constant(rates, end_s=world.now_s)), now_s=world.now_s)
        world.plan = plan
        world.apply(actions[:1])
        if not actions and all(pod.ends_s is None for pod in world.pods.values()):
            break
        world.tick(CYCLE_S)
    else:
        pytest.fail("it never comes to rest")
