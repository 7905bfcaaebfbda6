"""What is, counted for the steps: who serves what, what is missing, what is surplus, and where GPUs are free."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from dynamollm.core.classes import RequestClass
from dynamollm.core.priors import nominal_load
from dynamollm.core.records import (
    Instance,
    InstanceState,
    Load,
    Observation,
    Plan,
    PoolPlan,
    Service,
)
from dynamollm.core.sizing import rate_per_s, tokens_per_s

Key: TypeAlias = tuple[str, int]
"""A shard group: pool and TP."""

ROUNDING: Final = 1e-9
"""Relative error of sums of floats: what was planned to be just enough is enough."""


@dataclass(frozen=True)
class Rollout:
    """One plan, one observation, and the load of now."""

    service: Service
    plan: Plan
    observation: Observation
    load_now: Load | None
    """None: unknown."""

    # -------------------------------------------------------------- groups
    @cached_property
    def wanted(self) -> Mapping[Key, int]:
        """Planned instances by shard group, largest pool and TP first."""
        return {
            (pool.name, group.tensor_parallel): group.instances
            for pool in reversed(self.plan.pools)
            for group in sorted(pool.groups, key=lambda group: -group.tensor_parallel)
            if group.instances > 0
        }

    @cached_property
    def replicas(self) -> Mapping[Key, int]:
        """Replicas that the Deployments ask for."""
        return {(group.pool, group.tensor_parallel): group.replicas for group in self.observation.groups}

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """All shard groups that are planned or there, the planned ones first."""
        there = sorted({*self.replicas, *((i.pool, i.tensor_parallel) for i in self.observation.instances)})
        return tuple(dict.fromkeys([*self.wanted, *there]))

    def living(self, key: Key) -> list[Instance]:
        """Instances of a group that are not ending, by name."""
        return sorted(
            (
                instance
                for instance in self.observation.instances
                if (instance.pool, instance.tensor_parallel) == key and instance.state is not InstanceState.TERMINATING
            ),
            key=lambda instance: instance.name,
        )

    def in_use(self, key: Key) -> list[Instance]:
        """Living instances that are not being drained."""
        return [instance for instance in self.living(key) if instance.unrouted_s is None]

    def draining(self, key: Key) -> list[Instance]:
        """Living instances that get no new requests, the last one unrouted first."""
        drained = [instance for instance in self.living(key) if instance.unrouted_s is not None]
        return sorted(drained, key=lambda instance: (-(instance.unrouted_s or 0.0), instance.name))

    def unborn(self, key: Key) -> int:
        """Replicas that were asked for and have no pod yet."""
        return max(0, self.replicas.get(key, 0) - len(self.living(key)))

    def ending(self, key: Key) -> int:
        """Pods that the Deployment asks for no longer and that are not seen ending yet."""
        return max(0, len(self.living(key)) - self.replicas.get(key, 0))

    # -------------------------------------------------------------- capacity
    @cached_property
    def pools(self) -> Mapping[str, PoolPlan]:
        """Planned pools by name."""
        return {pool.name: pool for pool in self.plan.pools}

    def serving(self, pool: str) -> list[Instance]:
        """Instances of a pool that take new requests now."""
        return [instance for instance in self.observation.instances if instance.pool == pool and instance.serving]

    def capacity_tokens_per_s(self, instances: Iterable[Instance]) -> float:
        """Prompt and generated tokens/s that instances carry within the SLO, each at its pool's planned mix.

        In tokens, because on the way from one plan to another pools serve mixes that were planned for none, and a
        request of one class is worth several of another.

        An instance of a pool that the plan leaves counts with the least that one of its TP is worth in the pools that
        take its classes over.
        """
        return sum(self._worth(instance) for instance in instances)

    def _worth(self, instance: Instance) -> float:
        if instance.pool in self.pools:
            heirs = {instance.pool}
        else:
            heirs = {self.plan.routing[request_class] for request_class in self.routed(instance.pool)}
        return min(
            (
                self.pools[heir].capacity_by_tp.get(instance.tensor_parallel, 0.0) * self._tokens_per_request(heir)
                for heir in heirs
            ),
            default=0.0,
        )

    def _tokens_per_request(self, pool: str) -> float:
        """Return the mean length of the mix that a pool's capacity was planned with."""
        plan = self.pools[pool]
        load = plan.load or nominal_load(plan.classes, boundaries=self.service.boundaries)
        return tokens_per_s(load) / rate_per_s(load)

    def routed(self, pool: str) -> tuple[RequestClass, ...]:
        """Classes that the router sends to a pool now."""
        return tuple(c for c, target in sorted(self.observation.routing.items()) if target == pool)

    def tokens_now_per_s(self, classes: Iterable[RequestClass]) -> float:
        """Return the load of now of these classes, tokens/s; 0 where it is unknown."""
        load = self.load_now or {}
        return tokens_per_s({c: load[c] for c in classes if c in load})

    def planned_floor_tokens_per_s(self, pool: PoolPlan) -> float:
        """Return what a pool must carry in any case: its planned load or that of now, but no more than it ever will."""
        capacity = pool.capacity_per_s * self._tokens_per_request(pool.name)
        return min(max(tokens_per_s(pool.load), self.tokens_now_per_s(pool.classes)), capacity)

    def carries_plan(self, pool: PoolPlan, instances: list[Instance], *, guests: Collection[RequestClass] = ()) -> bool:
        """Whether these instances keep what a pool must carry in any case, and guests from other pools beside it.

        Where no TP keeps the SLO, no capacity tells: then all planned instances must be there.
        """
        if guests and self.load_now is None:
            return False
        if pool.capacity_per_s <= 0:
            return len(instances) >= pool.instances
        needed = self.planned_floor_tokens_per_s(pool) + self.tokens_now_per_s(guests)
        return bool(instances) and self.capacity_tokens_per_s(instances) >= needed * (1 - ROUNDING)

    def carries_now(self, instances: list[Instance], classes: Iterable[RequestClass]) -> bool:
        """Whether these instances carry the load of now of these classes with the tolerance on top; False: unknown."""
        needed = self.tokens_now_per_s(classes) * (1 + self.service.behavior.tolerance)
        return self.load_now is not None and bool(instances) and self.capacity_tokens_per_s(instances) >= needed

    def filled_now(self, pool: str, classes: Iterable[RequestClass]) -> float:
        """Return the load of now of these classes over what a pool's serving instances carry; 0 where load is unknown."""
        needed = self.tokens_now_per_s(classes)
        carried = self.capacity_tokens_per_s(self.serving(pool))
        return needed / carried if carried > 0 else math.inf if needed > 0 else 0.0

    # -------------------------------------------------------------- GPUs
    @cached_property
    def committed_gpus(self) -> int:
        """GPUs that are held or asked for: replicas, pods beyond them, and pods that end."""
        ending = sum(i.tensor_parallel for i in self.observation.instances if i.state is InstanceState.TERMINATING)
        return ending + sum(key[1] * max(self.replicas.get(key, 0), len(self.living(key))) for key in self.keys)

    @cached_property
    def releasing(self) -> bool:
        """Whether GPUs are about to come free: something is draining or ending."""
        return any(
            instance.unrouted_s is not None or instance.state is InstanceState.TERMINATING
            for instance in self.observation.instances
        ) or any(self.ending(key) for key in self.keys)


class FreeGpus:
    """Free GPUs by node, handed out best fit; pods that wait for GPUs come first."""

    def __init__(self, rollout: Rollout) -> None:
        self._budget = rollout.service.limits.max_gpus - rollout.committed_gpus
        self._free = sorted(node.free for node in rollout.observation.nodes)
        self.short = False
        """Whether something that is asked for has no place."""
        waiting = [
            key[1]
            for key in rollout.keys
            for _ in range(rollout.unborn(key) + sum(i.state is InstanceState.PENDING for i in rollout.living(key)))
        ]
        for tensor_parallel in sorted(waiting, reverse=True):
            self._take(tensor_parallel)

    def take(self, tensor_parallel: int) -> bool:
        """Take the GPUs of one new instance, if limit and nodes allow it."""
        if tensor_parallel > self._budget:
            self.short = True
            return False
        if not self._take(tensor_parallel):
            return False
        self._budget -= tensor_parallel
        return True

    def _take(self, tensor_parallel: int) -> bool:
        index = next((i for i, free in enumerate(self._free) if free >= tensor_parallel), None)
        if index is None:
            self.short = True
            return False
        self._free[index] -= tensor_parallel
        self._free.sort()
        return True
