"""From what is to what should be, one safe step at a time.

``steps`` is level-based: it looks at one observation and gives only actions that may be taken now; the next cycle
observes again and goes on. So a restart, a half-applied batch or another plan half-way needs nothing special.

What every step keeps:
- capacity floor: instances that serve a pool carry its planned load; where no GPU is free for what must come first, at
  least the load of now;
- no GPUs beyond the limit, pods that wait, drain or end included; new instances only where a node has room for them;
- a class moves only to a pool that carries it, or away from one that does not to one that is less full; an instance goes only when it has no request or its drain timeout is over;
- nothing is taken away while load is unknown.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast import recent_load
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
from dynamollm.core.policies.base import HOLDING
from dynamollm.core.records import (
    Instance,
    InstanceState,
    Ladder,
    Load,
    Observation,
    Plan,
    PoolPlan,
    Service,
)
from dynamollm.core.rollout import FreeGpus, Key, Rollout

DRAIN_SETTLE_S: Final = 30.0
"""An instance counts as empty only so long after it was unrouted: the router must have heard of it, and the number of
requests in it must have been counted after that (a scrape of at most 15 s, and a cycle)."""


def steps(service: Service, plan: Plan, observation: Observation, *, now_s: float) -> tuple[Action, ...]:
    """Return the actions that may be taken now, in this order; () when there is nothing to do, or only to wait."""
    rollout = Rollout(
        service=service, plan=plan, observation=observation, load_now=_load_now(service, plan, observation, now_s=now_s)
    )
    free = FreeGpus(rollout)
    returning = _returning(rollout)
    # First what adds: clocks, instances that were to go, new instances.
    actions: list[Action] = [*_clocks(plan, observation)]
    actions += [Reroute(instance=instance.name) for instances in returning.values() for instance in instances]
    actions += _growth(rollout, free, returning)
    # Then who serves what.
    routing = _routing(rollout, short=free.short)
    if routing and routing != observation.routing:
        actions.append(SetRouting(routing=routing))
    # Last what takes away.
    if rollout.load_now is not None:
        actions += _unrouting(rollout, routing, short=free.short)
        actions += _removal(rollout, returning, now_s=now_s)
    actions += _empty_groups(rollout)
    return tuple(actions)


def clock_ladders(plan: Plan, observation: Observation) -> dict[Key, Ladder]:
    """Return the ladder of every shard group that is planned or there, for the agents' clock plan.

    A group that the plan leaves runs at the safe clock until it is gone: its ladder was made for another load.
    """
    planned = {(pool.name, group.tensor_parallel): group.ladder for pool in plan.pools for group in pool.groups}
    safe = Ladder(steps=(), safe_mhz=max((ladder.safe_mhz for ladder in planned.values()), default=0))
    leaving = sorted({(i.pool, i.tensor_parallel) for i in observation.instances} - set(planned))
    return {**planned, **(dict.fromkeys(leaving, safe) if planned else {})}


def _load_now(service: Service, plan: Plan, observation: Observation, *, now_s: float) -> Load | None:
    if plan.reason in HOLDING:
        return None
    try:
        return recent_load(observation.load, now_s=now_s, boundaries=service.boundaries)
    except UnknownDataError:
        return None


# ------------------------------------------------------------------ what adds
def _clocks(plan: Plan, observation: Observation) -> Iterator[Action]:
    before = clock_ladders(observation.plan, observation) if observation.plan else {}
    ladders = clock_ladders(plan, observation)
    if ladders != before:
        yield SetClocks(ladders=ladders)


def _returning(rollout: Rollout) -> Mapping[Key, list[Instance]]:
    """Instances that are being drained and that the plan wants again."""
    return {
        key: rollout.draining(key)[: max(0, wanted - len(rollout.in_use(key)))]
        for key, wanted in rollout.wanted.items()
    }


def _growth(rollout: Rollout, free: FreeGpus, returning: Mapping[Key, list[Instance]]) -> Iterator[Action]:
    for key, wanted in rollout.wanted.items():
        replicas = rollout.replicas.get(key, 0)
        missing = wanted - len(rollout.in_use(key)) - len(returning[key]) - rollout.unborn(key)
        added = 0
        while added < missing and free.take(key[1]):
            added += 1
        # A Deployment that still loses pods that it was told to lose would lose the new ones in their place.
        if added and not rollout.ending(key):
            yield SetReplicas(pool=key[0], tensor_parallel=key[1], replicas=replicas + added)


# ------------------------------------------------------------------ who serves what
def _routing(rollout: Rollout, *, short: bool) -> dict[RequestClass, str]:
    """Return the class → pool map that is right for the instances that serve now; empty while none does."""
    ready = _ready_pools(rollout, short=short)
    targets: dict[RequestClass, str] = {}
    for request_class, planned in rollout.plan.routing.items():
        now = rollout.observation.routing.get(request_class)
        if rollout.serving(planned) and (now == planned or planned in ready):
            targets[request_class] = planned
        elif now is not None and rollout.serving(now):
            targets[request_class] = now
        else:
            refuge = _refuge(rollout, request_class) or now
            if refuge is None:
                return {}
            targets[request_class] = refuge
    return targets


def _ready_pools(rollout: Rollout, *, short: bool) -> set[str]:
    """Return the planned pools that carry all their classes, and those of others that cannot leave them yet.

    As planned; or at least the load of now, where a pool cannot grow before it takes over; or more easily than those that
    serve its classes now, and cannot: a plan that always wants one instance more must not keep requests where they are late.
    """
    ready = {pool.name for pool in rollout.plan.pools if rollout.serving(pool.name)}
    while True:
        failing = {name for name in ready if not _takes_over(rollout, name, leaving_to=ready, short=short)}
        if not failing:
            return ready
        ready -= failing


def _takes_over(rollout: Rollout, name: str, *, leaving_to: set[str], short: bool) -> bool:
    pool, serving = rollout.pools[name], rollout.serving(name)
    guests = [
        request_class
        for request_class in rollout.routed(name)
        if request_class not in pool.classes and rollout.plan.routing[request_class] not in leaving_to
    ]
    if rollout.carries_plan(pool, serving, guests=guests):
        return True
    taken = {*pool.classes, *rollout.routed(name)}
    return (short and rollout.carries_now(serving, taken)) or _relieves(rollout, pool, taken)


def _relieves(rollout: Rollout, pool: PoolPlan, taken: Collection[RequestClass]) -> bool:
    """Whether one of the pools that serve its classes now has more than it carries, and this one would be less full."""
    now = {rollout.observation.routing.get(request_class) for request_class in pool.classes} - {pool.name, None}
    before = max((rollout.filled_now(name, rollout.routed(name)) for name in now if name is not None), default=0.0)
    return before > 1 and rollout.filled_now(pool.name, taken) < before


def _refuge(rollout: Rollout, request_class: RequestClass) -> str | None:
    """Return a pool for a class that nobody serves: its own, the next larger, or else any that serves."""
    order = list(RequestClass)
    mine = order.index(request_class)
    larger = [pool.name for pool in rollout.plan.pools if order.index(RequestClass(pool.name.upper())) >= mine]
    others = sorted({instance.pool for instance in rollout.observation.instances})
    candidates = [rollout.plan.routing[request_class], *larger, *others]
    return next((name for name in candidates if rollout.serving(name)), None)


# ------------------------------------------------------------------ what takes away
def _unrouting(rollout: Rollout, routing: Mapping[RequestClass, str], *, short: bool) -> Iterator[Action]:
    unrouted = False
    surplus = {pool: _surplus(rollout, pool) for pool in dict.fromkeys(key[0] for key in rollout.keys)}
    for name, instances in surplus.items():
        remaining = rollout.serving(name)
        for instance in instances:
            after = [other for other in remaining if other.name != instance.name]
            if _can_spare(rollout, name, after, routing=routing):
                remaining, unrouted = after, True
                yield Unroute(instance=instance.name)
    if unrouted or not short or rollout.releasing:
        return
    # No GPU is free for what must come: give one instance up first, if the load of now allows it.
    for name, instances in surplus.items():
        for instance in instances:
            after = [other for other in rollout.serving(name) if other.name != instance.name]
            if rollout.carries_now(after, _served(rollout, name, routing)):
                yield Unroute(instance=instance.name)
                return


def _surplus(rollout: Rollout, pool: str) -> list[Instance]:
    """Ready instances of a pool beyond the plan, those with the fewest requests first."""
    instances: list[Instance] = []
    for key in rollout.keys:
        if key[0] == pool:
            in_use = rollout.in_use(key)
            ready = [instance for instance in in_use if instance.state is InstanceState.READY]
            # Those that do not serve yet go first (``_removal``).
            excess = min(len(in_use) - rollout.wanted.get(key, 0), len(ready))
            emptiest = sorted(ready, key=lambda i: (i.in_flight if i.in_flight is not None else float("inf"), i.name))
            waiting = len(in_use) - len(ready)
            instances += emptiest[: max(0, excess - waiting)]
    return instances


def _can_spare(rollout: Rollout, pool: str, after: list[Instance], *, routing: Mapping[RequestClass, str]) -> bool:
    """Whether a pool can do with only these instances."""
    served = _served(rollout, pool, routing)
    if not served:
        return True
    plan = rollout.pools.get(pool)
    # While classes that go elsewhere are still here, their load is part of no floor: routing first.
    return plan is not None and served <= set(plan.classes) and rollout.carries_plan(plan, after)


def _served(rollout: Rollout, pool: str, routing: Mapping[RequestClass, str]) -> set[RequestClass]:
    """Classes that a pool serves now or from this cycle on."""
    return {*rollout.routed(pool), *(c for c, target in routing.items() if target == pool)}


def _removal(rollout: Rollout, returning: Mapping[Key, list[Instance]], *, now_s: float) -> Iterator[Action]:
    for key in rollout.keys:
        replicas = rollout.replicas.get(key, 0)
        if rollout.ending(key):
            continue  # which pod goes is decided already
        wanted = rollout.wanted.get(key, 0)
        in_use = rollout.in_use(key)
        missing = max(0, wanted - len(in_use) - len(returning.get(key, ())))
        idle = rollout.unborn(key) - missing
        if idle > 0:
            replicas -= idle
            yield SetReplicas(pool=key[0], tensor_parallel=key[1], replicas=replicas)
            continue  # the Deployment settles first
        going = [i for i in in_use if i.state is not InstanceState.READY]
        # What waits for GPUs before what starts already, the youngest first.
        going.sort(key=lambda i: (i.state is not InstanceState.PENDING, -i.created_s, i.name))
        going = going[: max(0, len(in_use) - wanted)]
        back = {instance.name for instance in returning.get(key, ())}
        going += [i for i in rollout.draining(key) if i.name not in back and _drained(rollout, i, now_s=now_s)]
        for instance in going:
            replicas -= 1
            yield RemoveInstance(instance=instance.name, pool=key[0], tensor_parallel=key[1], replicas=max(0, replicas))


def _drained(rollout: Rollout, instance: Instance, *, now_s: float) -> bool:
    """Whether nothing is lost with an instance: no request in it for sure, or its drain timeout is over."""
    drained_s = now_s - (instance.unrouted_s if instance.unrouted_s is not None else now_s)
    timeout_s = rollout.service.behavior.drain_timeout_s
    if drained_s >= timeout_s or instance.state is InstanceState.PENDING:
        return True
    return instance.in_flight == 0 and drained_s >= min(DRAIN_SETTLE_S, timeout_s)


def _empty_groups(rollout: Rollout) -> Iterator[Action]:
    there = {(i.pool, i.tensor_parallel) for i in rollout.observation.instances}
    for key, replicas in sorted(rollout.replicas.items()):
        if replicas == 0 and key not in rollout.wanted and key not in there:
            yield RemoveGroup(pool=key[0], tensor_parallel=key[1])
