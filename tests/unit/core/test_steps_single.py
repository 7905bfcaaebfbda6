"""The one right step in single situations."""

from dataclasses import replace

import pytest
from decision_world import constant, make_service

from dynamollm.core.actions import clock_ladders, steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.moves import (
    Action,
    RemoveGroup,
    RemoveInstance,
    Reroute,
    SetClocks,
    SetReplicas,
    SetRouting,
    Unroute,
)
from dynamollm.core.records import (
    Behavior,
    ClassLoad,
    Group,
    GroupPlan,
    Instance,
    InstanceState,
    Ladder,
    LadderStep,
    Limits,
    LoadHistory,
    NodeGpus,
    Observation,
    Plan,
    PoolPlan,
)

NOW_S = 10_000.0
CAPACITY = {2: 2.0, 4: 5.0, 8: 12.0}
LADDER = Ladder(steps=(LadderStep(1000.0, 1005),), safe_mhz=1980)
ALL = tuple(RequestClass)
SHORT, REST = ALL[:3], ALL[3:]
MM = RequestClass.MM


def pool(name: str, classes: tuple[RequestClass, ...], rate: float, **instances: int) -> PoolPlan:
    """``tp4=2``: two instances of TP4; capacities are those of classes[-1] at 1000 tokens a request."""
    mix = {int(tp[2:]): count for tp, count in instances.items()}
    return PoolPlan(
        name=name,
        classes=classes,
        rate_per_s=rate,
        capacity_per_s=sum(CAPACITY[tp] * count for tp, count in mix.items()),
        groups=tuple(GroupPlan(tp, count, LADDER, 1005) for tp, count in mix.items()),
        load={classes[-1]: ClassLoad(rate, 800.0, 200.0)},
        capacity_by_tp=CAPACITY,
    )


def plan(*pools: PoolPlan, reason: str = "Scaled") -> Plan:
    return Plan(pools=pools, scale_decided_s=0, shard_decided_s=0, power_w=0, reason=reason, message="")


def pod(name: str, pool: str, tp: int, state: InstanceState = InstanceState.READY, **more: float | None) -> Instance:
    fields = {"created_s": 0.0, "unrouted_s": None, "in_flight": 2, **more}
    return Instance(name=name, pool=pool, tensor_parallel=tp, state=state, **fields)  # type: ignore[arg-type]


def look(
    goal: Plan,
    *pods: Instance,
    free: tuple[int, ...] = (8, 8),
    routing: dict[RequestClass, str] | None = None,
    replicas: dict[tuple[str, int], int] | None = None,
    rate: float | None = 1.0,
) -> Observation:
    """By default replicas match the pods, the routing is the plan's, and clocks are published."""
    counts: dict[tuple[str, int], int] = {}
    for one in pods:
        if one.state is not InstanceState.TERMINATING:
            counts[one.pool, one.tensor_parallel] = counts.get((one.pool, one.tensor_parallel), 0) + 1
    counts.update(replicas or {})
    load: LoadHistory | None = None
    if rate is not None:
        load = replace(
            constant({RequestClass.LL: rate}, end_s=NOW_S),
            input_tokens={RequestClass.LL: 800.0},
            output_tokens={RequestClass.LL: 200.0},
        )
    return Observation(
        load=load,
        groups=tuple(Group(name, tp, count) for (name, tp), count in counts.items()),
        instances=pods,
        nodes=tuple(NodeGpus(f"n{i}", 8, gpus) for i, gpus in enumerate(free)),
        routing=dict(goal.routing) if routing is None else routing,
        plan=goal,
    )


R, S, P, T = InstanceState.READY, InstanceState.STARTING, InstanceState.PENDING, InstanceState.TERMINATING
TWO_TP4 = plan(pool("ll", ALL, 8.0, tp4=2))
FOUR_TP4 = plan(pool("ll", ALL, 18.0, tp4=4))
ONE_TP4 = plan(pool("ll", ALL, 3.0, tp4=1))
SPLIT = plan(pool("sl", SHORT, 3.0, tp4=1), pool("ll", REST, 3.0, tp4=1))
GROWING = plan(pool("sl", SHORT, 3.0, tp4=1), pool("ll", REST, 18.0, tp8=2))
FILLING = plan(pool("sl", SHORT, 3.0, tp4=1), pool("ll", REST, 4.0, tp2=2))
TO_SL = dict.fromkeys(ALL, "sl")
NOBODY: dict[RequestClass, str] = {}
TO_LL = dict.fromkeys(ALL, "ll")

CASES: dict[str, tuple[Plan, Observation, tuple[Action, ...]]] = {
    "nothing there: new group": (TWO_TP4, look(TWO_TP4, routing=NOBODY), (SetReplicas("ll", 4, 2),)),
    "only what fits the nodes": (TWO_TP4, look(TWO_TP4, routing=NOBODY, free=(4, 3)), (SetReplicas("ll", 4, 1),)),
    "pods that wait come first": (
        TWO_TP4,
        look(TWO_TP4, pod("a", "ll", 4, P), routing=NOBODY, free=(7,)),
        (),
    ),
    "replicas without pods are not asked for twice": (
        TWO_TP4,
        look(TWO_TP4, routing=NOBODY, replicas={("ll", 4): 2}),
        (),
    ),
    "first instance that serves gets all classes": (
        TWO_TP4,
        look(TWO_TP4, pod("a", "ll", 4), pod("b", "ll", 4, S), routing=NOBODY),
        (SetRouting(TO_LL),),
    ),
    "a class stays where it is until its new pool serves": (
        SPLIT,
        look(SPLIT, pod("a", "ll", 4), pod("b", "sl", 4, S), routing=TO_LL),
        (),
    ),
    "it moves when its new pool carries it": (
        SPLIT,
        look(SPLIT, pod("a", "ll", 4), pod("b", "sl", 4), routing=TO_LL),
        (SetRouting(SPLIT.routing),),
    ),
    "nor while it carries less than planned, and its old one carries what comes": (
        GROWING,
        look(GROWING, pod("a", "sl", 4), pod("b", "ll", 8), pod("c", "ll", 8, S), routing=TO_SL, rate=4.9),
        (),
    ),
    "where the old one does not, it moves to one that is less full": (
        GROWING,
        look(GROWING, pod("a", "sl", 4), pod("b", "ll", 8), pod("c", "ll", 8, S), routing=TO_SL, rate=5.5),
        (SetRouting(GROWING.routing),),
    ),
    "but to none that would be fuller": (
        FILLING,
        look(FILLING, pod("a", "sl", 4), pod("b", "ll", 2), pod("c", "ll", 2, S), routing=TO_SL, rate=5.5),
        (),
    ),
    "a pool that lost its instances sends its classes to the larger one": (
        SPLIT,
        look(SPLIT, pod("a", "ll", 4), pod("b", "sl", 4, S)),
        (SetRouting(TO_LL),),
    ),
    "surplus is unrouted, the emptiest first": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4, in_flight=9), pod("b", "ll", 4, in_flight=1)),
        (Unroute("b"),),
    ),
    "make before break: the old TP serves on until the new one carries the plan": (
        TWO_TP4,
        look(TWO_TP4, pod("old", "ll", 8), pod("a", "ll", 4), pod("b", "ll", 4, S)),
        (),
    ),
    "then it goes": (
        TWO_TP4,
        look(TWO_TP4, pod("old", "ll", 8), pod("a", "ll", 4), pod("b", "ll", 4)),
        (Unroute("old"),),
    ),
    "no room: one instance gives way while the others carry the load of now": (
        FOUR_TP4,
        look(FOUR_TP4, pod("x", "ll", 8, in_flight=5), pod("y", "ll", 8, in_flight=1), free=(0, 2)),
        (Unroute("y"),),
    ),
    "no room, and the others would not carry it: wait": (
        FOUR_TP4,
        look(FOUR_TP4, pod("x", "ll", 8), pod("y", "ll", 8), free=(0, 2), rate=11.0),
        (),
    ),
    "no room, and GPUs come free already: wait": (
        FOUR_TP4,
        look(FOUR_TP4, pod("x", "ll", 8), pod("y", "ll", 8), pod("z", "ll", 8, T), free=(0, 2)),
        (),
    ),
    "unknown load takes nothing away": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4), pod("c", "ll", 4, unrouted_s=0.0, in_flight=0), rate=None),
        (),
    ),
    "a drained instance goes": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 40, in_flight=0)),
        (RemoveInstance("b", "ll", 4, 1),),
    ),
    "not before the router can have heard of it": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 10, in_flight=0)),
        (),
    ),
    "not with requests in it": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 200, in_flight=1)),
        (),
    ),
    "not while that is unknown": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 200, in_flight=None)),
        (),
    ),
    "but when the drain timeout is over": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 300, in_flight=None)),
        (RemoveInstance("b", "ll", 4, 1),),
    ),
    "a pod that was told to go is not told twice": (
        ONE_TP4,
        look(
            ONE_TP4,
            pod("a", "ll", 4),
            pod("b", "ll", 4, unrouted_s=NOW_S - 90, in_flight=0),
            pod("c", "ll", 4, unrouted_s=NOW_S - 90, in_flight=0),
            replicas={("ll", 4): 2},
        ),
        (),
    ),
    "a draining instance that is wanted again comes back": (
        TWO_TP4,
        look(TWO_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 90, in_flight=0)),
        (Reroute("b"),),
    ),
    "pods that wait for nothing are given back at once": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, P)),
        (RemoveInstance("b", "ll", 4, 1),),
    ),
    "an empty group that has no place in the plan goes": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), replicas={("sl", 2): 0}),
        (RemoveGroup("sl", 2),),
    ),
    "not while its last pod ends": (
        ONE_TP4,
        look(ONE_TP4, pod("a", "ll", 4), pod("b", "sl", 2, T), replicas={("sl", 2): 0}),
        (),
    ),
}


@pytest.mark.parametrize(("goal", "observation", "expected"), CASES.values(), ids=CASES)
def test_the_one_right_step(goal: Plan, observation: Observation, expected: tuple[Action, ...]) -> None:
    assert steps(make_service(), goal, observation, now_s=NOW_S) == expected


def test_the_limit_counts_surge_and_pods_that_end() -> None:
    service = make_service(limits=Limits(max_gpus=12))
    observation = look(TWO_TP4, pod("old", "ll", 4, T), pod("a", "ll", 4))
    assert steps(service, TWO_TP4, observation, now_s=NOW_S) == (SetReplicas("ll", 4, 2),)
    tighter = make_service(limits=Limits(max_gpus=11))
    assert steps(tighter, TWO_TP4, observation, now_s=NOW_S) == ()


def test_drain_timeout_shorter_than_the_settling_time_is_kept() -> None:
    service = make_service(behavior=Behavior(drain_timeout_s=5.0))
    observation = look(ONE_TP4, pod("a", "ll", 4), pod("b", "ll", 4, unrouted_s=NOW_S - 6, in_flight=4))
    assert steps(service, ONE_TP4, observation, now_s=NOW_S) == (RemoveInstance("b", "ll", 4, 1),)


def test_clocks_come_first_and_groups_that_leave_run_at_the_safe_clock() -> None:
    before = plan(pool("ll", ALL, 3.0, tp8=1))
    observation = replace(look(TWO_TP4, pod("old", "ll", 8)), plan=before)
    first, second = steps(make_service(), TWO_TP4, observation, now_s=NOW_S)
    assert first == SetClocks({("ll", 4): LADDER, ("ll", 8): Ladder(steps=(), safe_mhz=1980)})
    assert second == SetReplicas("ll", 4, 2)
    assert clock_ladders(TWO_TP4, observation) == dict(first.ladders)


def test_a_held_plan_takes_nothing_away_even_if_load_is_back() -> None:
    held = replace(ONE_TP4, reason="LoadUnknown")
    assert steps(make_service(), held, look(held, pod("a", "ll", 4), pod("b", "ll", 4)), now_s=NOW_S) == ()
