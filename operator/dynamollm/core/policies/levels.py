"""The levels that every policy decides on: pools and instances, then TP degrees, then whatever outgrew its plan.

A policy says which partitions of the classes into pools it considers, and which knobs it turns; the rest is here.
The clocks are the ladders that go with each group; agents follow them every few seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeAlias

from dynamollm.core.behavior import stabilised_gpus
from dynamollm.core.mix import Choice, gpus
from dynamollm.core.policies.base import Situation
from dynamollm.core.policies.coupled import Coupled, broken_by_cheapest, broken_together
from dynamollm.core.policies.filled import Filled, mix_of
from dynamollm.core.policies.filling import Classes, Filler, Knobs, Loads, Partition
from dynamollm.core.policies.noted import note_pools
from dynamollm.core.policies.outcome import WHOLE, decided, grown
from dynamollm.core.records import Load, Plan


@dataclass(frozen=True, slots=True)
class Considered:
    """The partitions that a policy considers besides the one in force."""

    partitions: Sequence[Partition]
    runner_up: str = ""
    """The next best after the first of them, for explanation."""
    binding: str = ""
    """The limits that better ones would break."""


Partitions: TypeAlias = Callable[[Situation, Loads], Considered]
Couple: TypeAlias = Callable[[Situation, Filler, Partition, Loads], Coupled]


@dataclass(frozen=True, slots=True)
class Levels:
    """A policy, by what it considers and what it turns."""

    partitions: Partitions
    knobs: Knobs = field(default_factory=Knobs)
    weighs_current: bool = True
    """Whether the pools in force are kept unless others save enough (``behavior.min_saving``); else others replace them."""
    within_grant: bool = True
    """Whether the pool level stays within the GPUs that the cluster level granted while they suffice."""
    at_once: bool = False
    """Whether there is one level: all is decided every shard interval."""
    couple: Couple | None = None
    """Who chooses the mixes of all pools together where limits couple them; None: the largest pool chooses first."""

    def plan(self, situation: Situation) -> Plan:
        """Return the plan that should be in force; ``situation.current`` itself where nothing changes."""
        filler = Filler(situation, self.knobs)
        if situation.due.cluster or situation.current is None:
            return self._cluster_level(situation, filler)
        if situation.due.pools:
            return self._pool_level(situation, situation.current, filler)
        return self._emergency(situation, situation.current)

    def _cluster_level(self, s: Situation, filler: Filler) -> Plan:
        """Pools, instances and routing, for the peak until the next decision takes effect."""
        loads = _peaks(s, horizon_s=s.service.intervals.scale_s + s.sizing.startup_s)
        keep = tuple(pool.classes for pool in s.current.pools) if s.current else None
        considered = self.partitions(s, loads) if s.may_reduce or keep is None else Considered(())
        others = [tuple(one) for one in considered.partitions]
        candidates = [keep] if keep and (self.weighs_current or not others) else []
        candidates = list(dict.fromkeys([*candidates, *others]))
        filler.prepare([classes for partition in candidates for classes in partition], loads)
        outcomes: list[tuple[Partition, tuple[Filled, ...]]] = []
        for partition in candidates:
            filled = self._fill(s, filler, partition, loads)
            usable = filled is not None and not any(pool.short for pool in filled)
            # Others than those in force wait where a failing instance would make them miss something.
            if filled and usable and not (outcomes and any(pool.fragile for pool in filled)):
                outcomes.append((partition, filled))
        best = _best(s, outcomes, keep) if outcomes else _degraded(filler, loads, max(candidates, key=len))
        wanted = _recommended(s, best)
        if outcomes and outcomes[0][0] == keep and best is not outcomes[0][1] and _too_soon(s, best):
            best = outcomes[0][1]
        elif outcomes and outcomes[0][0] != keep and _short_lately(s):
            best = self._staying(s, loads, best)
        wish = tuple(one.pool.classes for one in best) if outcomes else max(candidates, key=len)
        plan = decided(
            s, best, recommended=wanted, binding=considered.binding or self._binding(s, filler, best, wish, loads)
        )
        next_best = considered.runner_up and _next_best(considered, outcomes, best)
        return replace(plan, runner_up="; ".join(part for part in (next_best, plan.runner_up) if part))

    def _pool_level(self, s: Situation, current: Plan, filler: Filler) -> Plan:
        """TP degrees of each pool, for the load until the next decision."""
        loads = _peaks(s, horizon_s=s.service.intervals.shard_s + s.sizing.startup_s)
        partition = tuple(pool.classes for pool in current.pools)
        filled = self._fill(s, filler, partition, loads)
        if filled is None or any(pool.short for pool in filled):
            filled = _degraded(filler, loads, partition)
        budgets = {pool.name: pool.gpu_budget for pool in current.pools}
        filled = tuple(
            replace(one, pool=replace(one.pool, gpu_budget=max(one.pool.gpu_budget, budgets.get(one.pool.name, 0))))
            for one in filled
        )
        binding = self._binding(s, filler, filled, partition, loads)
        plan = decided(s, filled, recommended=_recommended(s, filled), binding=binding)
        return replace(plan, scale_decided_s=current.scale_decided_s, shard_decided_s=s.now_s)

    def _fill(self, s: Situation, filler: Filler, partition: Partition, loads: Loads) -> tuple[Filled, ...] | None:
        filler.prepare(partition, loads)
        coupled = self.couple(s, filler, partition, loads) if self.couple else Coupled()
        # With what is held back, if that leaves room for all; else without.
        for held_back in (True, False) if coupled.wishes else ():
            filled = filler.fill(partition, loads, wishes=coupled.wishes, tight=not held_back)
            if filled is not None and not any(one.short for one in filled):
                return tuple(replace(one, binding=coupled.binding) for one in filled)
        filled = filler.fill(partition, loads, within_budget=self.within_grant and not s.due.cluster)
        return filled and tuple(replace(one, binding=coupled.binding) for one in filled)

    def _binding(self, s: Situation, filler: Filler, filled: Sequence[Filled], wish: Partition, loads: Loads) -> str:
        """Return the limits that the cheapest mixes would break, where nobody who chose mixes of all pools together has said so."""
        if self.couple is not None and not any(one.short or one.degraded for one in filled):
            return ""
        return broken_by_cheapest(s, filler, wish, loads)

    def _staying(self, s: Situation, loads: Loads, other: tuple[Filled, ...]) -> tuple[Filled, ...]:
        """Return the pools in force with all that they have, and more where there is room, unless others serve more.

        For when these cannot serve all in time: on full nodes instances have to go before others come, and what they would have
        served is lost.
        """
        current = s.current
        staying: dict[str, Filled] = {}
        for pool in reversed(current.pools if current else ()):
            one = Filler(replace(s, current=current), self.knobs).grow(pool, loads(pool.classes))
            if current is None or one is None:
                return other
            staying[pool.name] = one
            current = replace(current, pools=tuple(one.pool if p.name == pool.name else p for p in current.pools))
        stay = tuple(reversed(staying.values()))
        margin = 1 + s.service.behavior.tolerance
        return stay if stay and _share_served(s, stay) * margin >= _share_served(s, other) else other

    def _emergency(self, s: Situation, current: Plan) -> Plan:
        """Let the pools whose load outgrew them grow, at once and upward only; the epochs go on as they were."""
        loads = _peaks(s, horizon_s=s.service.intervals.shard_s + s.sizing.startup_s)
        result = current
        for pool in current.pools:
            if pool.name not in s.due.hot:
                continue
            load = _highest(loads(pool.classes), s, pool.classes)
            filler = Filler(replace(s, current=result), self.knobs)
            filled = filler.grow(pool, load)
            if filled is not None and mix_of(filled.pool) != mix_of(pool):
                others = [Choice(mix_of(p), p.power_w, 0.0) for p in result.pools if p.name != pool.name]
                binding = broken_together(s, [*others, filler.cheapest(pool.classes, load)]) if filled.short else ""
                result = grown(replace(s, current=result), filled, binding=binding)
        return result


def _best(
    s: Situation, outcomes: Sequence[tuple[Partition, tuple[Filled, ...]]], keep: Partition | None
) -> tuple[Filled, ...]:
    """Return the pools of least cost: those in force, unless others save enough anywhere near the load."""
    totals = [tuple(sum(pool.costs[at] for pool in filled) for at in range(3)) for _, filled in outcomes]
    best = min(range(len(outcomes)), key=lambda index: totals[index][1])
    if outcomes[0][0] == keep:
        saving = [old - new for old, new in zip(totals[0], totals[best], strict=True)]
        worth = [s.service.behavior.min_saving * abs(old) for old in totals[0]]
        if not all(gain > least for gain, least in zip(saving, worth, strict=True)):
            best = 0
    return outcomes[best][1]


def _recommended(s: Situation, filled: Sequence[Filled]) -> int:
    """Return the GPUs that would be best; where not even all that may be had suffice, one more than these."""
    return s.max_gpus + 1 if any(one.short for one in filled) else sum(one.recommended_gpus for one in filled)


def _short_lately(s: Situation) -> bool:
    """Return whether more GPUs than may be had now were recommended within the stabilisation window."""
    past = s.current.downscale.get(WHOLE, ()) if s.current else ()
    window_s = s.service.behavior.scale_down_stabilization_s
    return stabilised_gpus(past, recommended=0, now_s=s.now_s, window_s=window_s) > s.max_gpus


def _share_served(s: Situation, filled: Sequence[Filled]) -> float:
    """Return which share of the load is served, in time or not, 0 to 1: with the tolerance on top, if anything of it waits."""
    margin = 1 + s.service.behavior.tolerance
    served = sum(min(one.pool.rate_per_s, one.throughput_per_s / margin) for one in filled)
    asked = sum(one.pool.rate_per_s for one in filled)
    return served / asked if asked > 0 else 1.0


def _too_soon(s: Situation, filled: Sequence[Filled]) -> bool:
    """Return whether other pools would leave fewer GPUs than were recommended within the stabilisation window, beyond the tolerance.

    Each pool is stabilised by itself; one that another pool takes over would leave its past behind.
    """
    behavior = s.service.behavior
    wanted = _recommended(s, filled)
    past = s.current.downscale.get(WHOLE, ()) if s.current else ()
    floor = stabilised_gpus(past, recommended=wanted, now_s=s.now_s, window_s=behavior.scale_down_stabilization_s)
    return sum(gpus(mix_of(one.pool)) for one in filled) < floor * (1 - behavior.tolerance)


def _next_best(
    considered: Considered, outcomes: Sequence[tuple[Partition, tuple[Filled, ...]]], best: tuple[Filled, ...]
) -> str:
    """Return the pools after the best ones and what they would cost beyond them, in words; empty: there are none."""
    other = next((filled for partition, filled in outcomes if partition == tuple(considered.partitions[0])), None)
    if other is best:
        return considered.runner_up
    if other is None:
        return ""
    # Others stay in force, so that the next best is what was cheapest.
    pools = [[c for c in one.pool.classes if c in one.pool.load] for one in other if one.pool.load]
    more = sum(one.costs[1] for one in other) - sum(one.costs[1] for one in best)
    return note_pools(pools, more_w=more)


def _degraded(filler: Filler, loads: Loads, partition: Partition) -> tuple[Filled, ...]:
    """Return what is best where not everything fits: fewest GPUs, then fewer pools, then as much as there is room for."""
    while True:
        filled = filler.fill(partition, loads, tight=True)
        if filled is not None and not any(pool.short for pool in filled):
            return tuple(replace(pool, degraded=True) for pool in filled)
        if len(partition) == 1:
            return filled or (filler.minimal(partition[0], loads(partition[0])),)
        partition = ((*partition[0], *partition[1]), *partition[2:])


def _highest(forecast: Load, s: Situation, classes: Classes) -> Load:
    """Return, by class, the higher of the forecast and of the load of now with the tolerance on top."""
    margin = 1 + s.service.behavior.tolerance
    load = dict(forecast)
    for request_class in classes:
        now = s.recent.get(request_class)
        if now is not None and now.rate_per_s * margin > (
            load[request_class].rate_per_s if request_class in load else 0
        ):
            load[request_class] = replace(now, rate_per_s=now.rate_per_s * margin)
    return load


def _peaks(s: Situation, *, horizon_s: float) -> Loads:
    of_each = cache(lambda: s.outlook.peak_of_each(horizon_s=horizon_s))

    @cache
    def peaks(classes: Classes) -> Load:
        if len(classes) == 1:
            return {c: part for c, part in of_each().items() if c in classes}
        return s.outlook.peak(classes, horizon_s=horizon_s)

    return peaks
