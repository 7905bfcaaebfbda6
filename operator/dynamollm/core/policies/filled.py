"""A pool with its instances, as the policies weigh it against others, before anybody has worked out its ladders."""

import math
from dataclasses import dataclass, replace
from typing import Final

from dynamollm.core.behavior import relative_change
from dynamollm.core.mix import Mix, PoolSize
from dynamollm.core.policies.base import HOLDING, Situation
from dynamollm.core.records import GroupPlan, Ladder, PoolPlan
from dynamollm.core.sizing import tokens_per_s

_NO_LADDER: Final = Ladder(steps=(), safe_mhz=0)


@dataclass(frozen=True, slots=True)
class Filled:
    """One pool with its instances."""

    pool: PoolPlan
    """Without ladders, if it is not as planned before: they take long, and are worked out for what is decided only."""
    costs: tuple[float, float, float]
    """Equivalent watts (``core.objective``), with the energy of starting what is not there yet, at a load lower by the
    tolerance, as planned, and higher by it."""
    recommended_gpus: int
    """GPUs it would have without damping."""
    throughput_per_s: float = math.inf
    """Requests/s that it serves, in time or not; known where it is short only."""
    short: bool = False
    """The load does not fit into what may be had."""
    degraded: bool = False
    """It fits only because other instances or fewer pools were taken than would have been cheapest."""
    fragile: bool = False
    """It takes something away that a failing instance would make missed: there was no room for more."""
    unattainable: bool = False
    """No TP degree keeps the SLO for this mix."""
    runner_up: str = ""
    binding: str = ""
    """The limits that the cheapest mixes of all pools would break; empty: none."""
    size: PoolSize | None = None
    """What the ladders follow from; None: the pool has them."""

    def with_ladders(self) -> PoolPlan:
        """Return the pool, complete."""
        if self.size is None:
            return self.pool
        return replace(self.pool, groups=self.size.group_plans(mix_of(self.pool)))


def without_ladders(mix: Mix) -> tuple[GroupPlan, ...]:
    """Return the groups of a mix that nothing but its instances is known of yet."""
    return tuple(GroupPlan(tp, count, _NO_LADDER, 0) for tp, count in sorted(mix.items()) if count > 0)


def mix_of(pool: PoolPlan) -> Mix:
    """Return a pool's planned instances by TP."""
    return {group.tensor_parallel: group.instances for group in pool.groups if group.instances > 0}


def cut_short(s: Situation, size: PoolSize, mix: Mix) -> PoolSize:
    """Return what instances carry in a pool of so few: bursts spread less than over as many as the load needs."""
    few = max(1, sum(mix.values()))
    carried = {
        tp: min(each, s.sizing.in_pool_per_s(load=size.load, tensor_parallel=tp, instances=few))
        for tp, each in size.capacity_by_tp.items()
    }
    return replace(size, capacity_by_tp=carried)


def alike(s: Situation, old: PoolPlan, new: PoolPlan) -> bool:
    """Return whether a pool is still as planned: the same instances, and load and what they carry within the tolerance of the plan's."""
    tolerance = s.service.behavior.tolerance
    return (
        s.current is not None
        and s.current.reason not in HOLDING
        and old.classes == new.classes
        and mix_of(old) == mix_of(new)
        and relative_change(new.rate_per_s, old.rate_per_s) <= tolerance
        and relative_change(tokens_per_s(new.load), tokens_per_s(old.load)) <= tolerance
        and relative_change(new.capacity_per_s, old.capacity_per_s) <= tolerance
    )
