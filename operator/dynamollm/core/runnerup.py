"""The plan that came second, whole again: what it would be, what more it would use, and why it was not taken.

Policies note it in a line (``core.policies.noted``), since it has to be kept with every plan; its clocks, and the instances of
pools that were not taken, are worked out here, for whoever asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from dynamollm.core.decide import measured, sizing_of
from dynamollm.core.feedback import correction_at
from dynamollm.core.margins import reserve
from dynamollm.core.mix import Bounds, Mix, PoolSize, gpus, least_cost, size_pools
from dynamollm.core.objective import weights
from dynamollm.core.options import UNLIMITED
from dynamollm.core.policies.base import Reason
from dynamollm.core.policies.filled import mix_of
from dynamollm.core.policies.noted import OtherMix, OtherPools, noted
from dynamollm.core.profile import Profile
from dynamollm.core.records import Load, Plan, PoolPlan, Service

SAME: Final = 1e-3
"""Share of the plan's cost that is told from none: notes are in whole watts."""


class Lost(Enum):
    """Why the runner-up was not taken."""

    DEARER = auto()
    """It would use more."""
    CARRIES_LESS = auto()
    """Of a load that does not fit, in time."""
    SERVES_LESS = auto()
    """Of a load that does not fit, in time or not."""
    MORE_GPUS = auto()
    """Where GPUs are short the fewest are taken, or it is just as cheap otherwise."""
    MORE_POOLS = auto()
    """It would save less than a pool more has to."""
    IN_FORCE = auto()
    """It would save too little, or too soon, for a change of what is there."""
    EQUAL = auto()
    """It is just as good."""


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """The next best plan."""

    pools: tuple[PoolPlan, ...]
    """Those that are not as in the plan; with the clocks expected at the planned load."""
    parted: bool
    """Whether classes are parted otherwise, so that ``pools`` are all that have load."""
    more_w: float
    """Equivalent watts (``core.objective``) beyond the plan's; below 0: fewer."""
    share: float
    """The same as a share of the plan's; 0.0 where the plan costs nothing."""
    capacity_per_s: float
    gpus: int
    lost: Lost


def runner_up(service: Service, profile: Profile, plan: Plan, *, changes: bool) -> RunnerUp | None:
    """Return the plan that came second, the cheapest of those that ``plan`` notes; None: it notes none.

    Args:
        service: with its prices.
        profile: of its model on its GPUs.
        plan: as ``decide`` gave it.
        changes: whether there was a plan in force.
    """
    service = measured(service, profile)
    costs = weights(service)
    whole = float(costs.cost(plan.power_w, plan.gpus))
    pools = {pool.name: pool for pool in plan.pools}
    nearest: tuple[float, OtherPools | OtherMix] | None = None
    for note in noted(plan.runner_up):
        if isinstance(note, OtherPools):
            more_w = note.more_w
        elif note.pool in pools and pools[note.pool].load:
            old = pools[note.pool]
            more_w = float(costs.cost(note.power_w - old.power_w, gpus(note.mix) - gpus(mix_of(old))))
        else:
            continue
        if nearest is None or more_w < nearest[0]:
            nearest = more_w, note
    if nearest is None:
        return None
    more_w, note = nearest
    changed = _other_pools(service, profile, plan, note) if isinstance(note, OtherPools) else None
    if isinstance(note, OtherMix):
        changed = (_with(pools[note.pool], note.mix, *_sized(service, profile, plan, [pools[note.pool].load])),)
    if changed is None:
        return None
    kept = () if isinstance(note, OtherPools) else [pool for pool in plan.pools if pool.name != changed[0].name]
    found = RunnerUp(
        pools=changed,
        parted=isinstance(note, OtherPools),
        more_w=more_w,
        share=more_w / whole if whole > 0 else 0.0,
        capacity_per_s=sum(pool.capacity_per_s for pool in (*kept, *changed)),
        gpus=sum(gpus(mix_of(pool)) for pool in (*kept, *changed)),
        lost=Lost.EQUAL,
    )
    return replace(found, lost=_why(plan, found, changes=changes))


def _why(plan: Plan, other: RunnerUp, *, changes: bool) -> Lost:
    short = plan.reason == Reason.CAPACITY_UNAVAILABLE
    saves, dearer = (sign * other.share >= SAME for sign in (-1, 1))
    carried = sum(pool.capacity_per_s for pool in plan.pools)
    more_gpus = other.gpus > plan.gpus
    # The first that holds.
    reasons = {
        Lost.CARRIES_LESS: short and other.capacity_per_s < carried * (1 - SAME),
        Lost.MORE_GPUS: more_gpus and (short or not (saves or dearer)),
        Lost.SERVES_LESS: short and saves,
        Lost.DEARER: dearer,
        Lost.MORE_POOLS: other.parted and len(other.pools) > sum(bool(pool.load) for pool in plan.pools),
        Lost.IN_FORCE: changes and saves,
    }
    return next((reason for reason, holds in reasons.items() if holds), Lost.EQUAL)


def _other_pools(service: Service, profile: Profile, plan: Plan, note: OtherPools) -> tuple[PoolPlan, ...] | None:
    """Return these pools with their cheapest instances; a class of the plan that is not among theirs stays where it is."""
    parts = {c: part for pool in plan.pools for c, part in pool.load.items()}
    told = {c for classes in note.pools for c in classes}
    if not told <= parts.keys():
        return None
    loads: list[Load] = [{c: parts[c] for c in classes} for classes in note.pools]
    found = []
    for classes, size in zip(note.pools, _sized(service, profile, plan, loads), strict=True):
        best = least_cost(size, Bounds(max_gpus=UNLIMITED), weights=weights(service))
        if best is None:
            return None
        blank = PoolPlan(
            name="", classes=classes, rate_per_s=size.rate_per_s, capacity_per_s=0.0, groups=(), load=size.load
        )
        found.append(_with(blank, best.mix, size))
    return (*(pool for pool in plan.pools if pool.load and not told & pool.load.keys()), *found)


def _with(pool: PoolPlan, mix: Mix, size: PoolSize) -> PoolPlan:
    return replace(
        pool,
        groups=size.group_plans(mix),
        capacity_per_s=size.capacity_per_s(mix),
        capacity_by_tp=dict(size.capacity_by_tp),
        power_w=size.power_w(mix),
    )


def _sized(service: Service, profile: Profile, plan: Plan, loads: Sequence[Load]) -> list[PoolSize]:
    """Return what instances carry and draw, as they did when the plan was made."""
    kept = reserve(chunked=profile.interleaves_prefill, order=service.order, rule=service.slo.rule).times(plan.bursts)
    return size_pools(
        sizing_of(service, profile, reserve=kept, correction=correction_at(plan, now_s=plan.shard_decided_s)),
        loads,
        tensor_parallel=service.tensor_parallel,
        scale_clocks=any(group.ladder.steps for pool in plan.pools for group in pool.groups),
    )
