"""Filling pools with instances: least cost, within bounds, damped — what the levels of a policy have in common."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dynamollm.core.behavior import Recommendations, stabilised_gpus
from dynamollm.core.classes import RequestClass
from dynamollm.core.coupling import ON_NODES
from dynamollm.core.inventory import room_beside
from dynamollm.core.mix import (
    SPREAD,
    Bounds,
    Choice,
    Mix,
    PoolSize,
    Switching,
    gpus,
    idle,
    least_cost,
    most_throughput,
    size_pools,
    start_cost,
)
from dynamollm.core.objective import Weights, weights
from dynamollm.core.policies.base import Situation, pool_name
from dynamollm.core.policies.filled import Filled, alike, cut_short, mix_of, without_ladders
from dynamollm.core.policies.noted import note_mix
from dynamollm.core.priors import nominal_load
from dynamollm.core.records import Load, PoolPlan
from dynamollm.core.rollout import ROUNDING
from dynamollm.core.sizing import tokens_per_s

Classes = tuple[RequestClass, ...]
Partition = Sequence[Classes]
"""The classes of each pool, from the smallest pool to the largest."""
Loads = Callable[[Classes], Load]
"""The planned load of a pool of these classes."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a policy may turn; what it may not is as SinglePool has it."""

    degrees: bool = True
    """TP degrees; else the largest."""
    instances: bool = True
    """Instances; else as many as the highest peak ever planned for takes at the largest TP degree."""
    clocks: bool = True
    """Clocks; else the highest."""


def _key(classes: Classes, load: Load) -> tuple[object, ...]:
    return (classes, *((c, p.rate_per_s, p.input_tokens, p.output_tokens) for c, p in sorted(load.items())))


class Filler:
    """Fills the pools of one situation; a pool is sized once per set of classes and load."""

    def __init__(self, situation: Situation, knobs: Knobs = Knobs()) -> None:
        self._situation, self._knobs = situation, knobs
        self._weights: Weights = weights(situation.service)
        self._sizes: dict[tuple[object, ...], PoolSize] = {}
        current = situation.current
        self.current: dict[str, PoolPlan] = {pool.name: pool for pool in current.pools} if current else {}
        self._past: Mapping[str, Recommendations] = current.downscale if current else {}

    def size(self, classes: Classes, load: Load) -> PoolSize:
        """Return what instances carry and draw for this pool."""
        key = _key(classes, load)
        if key not in self._sizes:
            nominal = nominal_load(classes, boundaries=self._situation.service.boundaries)
            (size,) = self._sized([load or nominal])
            self._sizes[key] = size if load else idle(size)
        return self._sizes[key]

    def prepare(self, pools: Sequence[Classes], loads: Loads) -> None:
        """Work out together what instances of all these pools carry and draw: many times faster than one by one."""
        asked = [(classes, loads(classes)) for classes in dict.fromkeys(pools)]
        new = [(classes, load) for classes, load in asked if load and _key(classes, load) not in self._sizes]
        if new:
            for (classes, load), size in zip(new, self._sized([load for _, load in new]), strict=True):
                self._sizes[_key(classes, load)] = size

    def _sized(self, mixes: Sequence[Load]) -> list[PoolSize]:
        degrees = self._situation.service.tensor_parallel
        return size_pools(
            self._situation.sizing,
            mixes,
            tensor_parallel=degrees if self._knobs.degrees else (max(degrees),),
            scale_clocks=self._knobs.clocks,
        )

    def fill(
        self,
        partition: Partition,
        loads: Loads,
        *,
        within_budget: bool = False,
        tight: bool = False,
        wishes: Mapping[Classes, Mix] | None = None,
    ) -> tuple[Filled, ...] | None:
        """Fill all pools, the largest first; None: there is not even room for one instance each.

        ``within_budget`` stays in what the cluster level granted while that suffices; ``tight`` takes the fewest
        GPUs instead of the least cost; ``wishes`` are mixes that somebody has chosen with all pools in view.
        """
        service = self._situation.service
        floor = max(1, service.limits.min_instances - len(partition) + 1)
        pinned = service.pins.instances
        if pinned is not None:
            floor = max(1, pinned - len(partition) + 1) if len(partition) == 1 else 1
        filled = self._fill_all(partition, loads, floor, within_budget=within_budget, tight=tight, wishes=wishes or {})
        if filled is None or pinned is None:
            return filled
        # The largest pool takes what the pin leaves over, or gives what it asks too much.
        wanted = pinned - sum(one.pool.instances for one in filled[:-1])
        if wanted < 1 or wanted == filled[-1].pool.instances:
            return filled if wanted >= 1 else None
        return self._fill_all(
            partition, loads, wanted, within_budget=within_budget, tight=tight, wishes={}, exactly=True
        )

    def _fill_all(
        self,
        partition: Partition,
        loads: Loads,
        floor: int,
        *,
        within_budget: bool,
        tight: bool,
        wishes: Mapping[Classes, Mix],
        exactly: bool = False,
    ) -> tuple[Filled, ...] | None:
        s = self._situation
        taken: Counter[int] = Counter()
        filled: list[Filled] = []
        budget = s.budget
        smallest = min(s.service.tensor_parallel)
        for index, classes in enumerate(reversed(partition)):
            waiting = (len(partition) - 1 - index) * smallest
            room = Bounds(
                max_gpus=s.max_gpus - gpus(taken) - waiting,
                min_instances=floor if index == 0 else 1,
                max_instances=floor if index == 0 and exactly else None,
                fits=room_beside(s.bins, taken),
                budget=budget.less(watts=waiting * s.sizing.idle_power_w, gpus=waiting),
            )
            old = self.current.get(pool_name(classes))
            granted = old.gpu_budget if old and within_budget else None
            one = self._fill_one(
                classes, loads(classes), room=room, granted=granted, tight=tight, wish=wishes.get(classes)
            )
            if one is None:
                return None
            filled.append(one)
            taken.update(mix_of(one.pool))
            budget = budget.less(watts=one.pool.power_w, gpus=gpus(mix_of(one.pool)))
        return tuple(reversed(filled))

    def grow(self, pool: PoolPlan, load: Load) -> Filled | None:
        """Return the pool with at least what it has and enough for this load, all others as they are."""
        s = self._situation
        others: Counter[int] = Counter()
        budget = s.budget
        for other in self.current.values():
            if other.name != pool.name:
                others.update(mix_of(other))
                budget = budget.less(watts=other.power_w, gpus=gpus(mix_of(other)))
        pinned = s.service.pins.instances
        room = Bounds(
            max_gpus=s.max_gpus - gpus(others),
            # Instances whose number is fixed grow in TP instead.
            at_least=mix_of(pool) if self._knobs.instances and pinned is None else None,
            max_instances=None if pinned is None else max(1, pinned - sum(others.values())),
            min_gpus=gpus(mix_of(pool)),
            fits=room_beside(s.bins, others),
            budget=budget,
        )
        return self._fill_one(pool.classes, load, room=room, granted=None, tight=False, wish=None)

    def cheapest(self, classes: Classes, load: Load) -> Choice:
        """Return the mix that a pool would have if nothing limited it."""
        size = self.size(classes, load)
        old = self.current.get(pool_name(classes))
        have: Mix = mix_of(old) if old else {}
        able = {tp: capacity for tp, capacity in size.capacity_by_tp.items() if capacity > 0}
        if not able:
            return self._choice(size, have or {max(size.capacity_by_tp): 1})
        fewest = min(tp * max(1, math.ceil(size.rate_per_s / capacity)) for tp, capacity in able.items())
        room = Bounds(max_gpus=SPREAD * fewest + max(able))
        if not self._knobs.instances:
            room = self._fixed(size, have=have, room=room)
            room = replace(room, max_gpus=room.min_instances * max(able))
        return least_cost(size, room, weights=self._weights) or self._choice(size, have)

    def minimal(self, classes: Classes, load: Load) -> Filled:
        """Return what to wait for where there is room for nothing: an instance of the smallest TP that some node could take.

        Where none could, no instance: what fits nowhere is nothing to wait for.
        """
        size = self.size(classes, load)
        usable = sorted([tp for tp, capacity in size.capacity_by_tp.items() if capacity > 0] or size.capacity_by_tp)
        placed = [tp for tp in usable if room_beside(self._situation.bins, {})({tp: 1})]
        choice = self._choice(size, {placed[0]: 1} if placed else {})
        one = self._filled(classes, size, choice, recommended=choice.gpus, short=True)
        return one if placed else replace(one, binding=f"{ON_NODES} for TP{usable[0]} ({usable[0]} of 0)")

    def _choice(self, size: PoolSize, mix: Mix) -> Choice:
        power_w = size.planned_power_w(mix)
        return Choice(mix=mix, power_w=power_w, cost=self._weights.cost(power_w, gpus(mix)))

    def _fill_one(
        self, classes: Classes, load: Load, *, room: Bounds, granted: int | None, tight: bool, wish: Mix | None
    ) -> Filled | None:
        s = self._situation
        size = self.size(classes, load)
        old = self.current.get(pool_name(classes))
        have: Mix = mix_of(old) if old else {}
        if not any(size.capacity_by_tp.values()):
            return self._best_effort(classes, size, have=have, room=room)
        if not self._knobs.instances:
            room = self._fixed(size, have=have, room=room)
        switching = Switching(
            current=have,
            startup_s=s.sizing.startup_s if s.current else 0.0,
            payback_s=s.service.intervals.scale_s,
            tolerance=s.service.behavior.tolerance,
            surviving_per_s=self._surviving_per_s(size, classes),
            regroups=s.current is not None and (old is None or old.classes != classes),
        )
        best = self._wished(size, wish, room=room, switching=switching) if wish else None
        limits = dict.fromkeys((room.max_gpus if granted is None else min(granted, room.max_gpus), room.max_gpus))
        fragile = False
        # What must shrink, because there is no room for it, cannot wait until that is safe.
        for change in (switching, replace(switching, tolerance=0.0, surviving_per_s=0.0)):
            for limit in limits:
                if best is None:
                    fragile = change is not switching
                    best = least_cost(
                        size,
                        replace(room, max_gpus=limit),
                        weights=self._weights,
                        switching=change,
                        fewest_gpus=tight,
                    )
        if best is None:
            most = self._most(size, have=have, room=room)
            return None if most is None else self._filled(classes, size, most, recommended=most.gpus, short=True)
        chosen = best
        if old is not None and gpus(have) <= room.max_gpus and not tight:
            chosen = self._damped(size, best, old=old, room=room, switching=switching)
        return replace(self._filled(classes, size, chosen, recommended=best.gpus), fragile=fragile)

    def _most(self, size: PoolSize, *, have: Mix, room: Bounds) -> Choice | None:
        """Return what serves most where not all can be served in time.

        More beside what is there, unless that loses requests which another mix does not: on full nodes that has to go before
        another comes, and requests with it.
        """
        most = most_throughput(size, room, weights=self._weights) or most_throughput(
            size, replace(room, at_least=None, min_gpus=0, min_instances=1), weights=self._weights
        )
        beside = most_throughput(size, replace(room, at_least=have), weights=self._weights) if have else None
        if most is None or beside is None:
            return most
        margin = 1 + self._situation.service.behavior.tolerance
        wanted = min(size.rate_per_s * margin, size.throughput_per_s(most.mix) / margin)
        return beside if size.throughput_per_s(beside.mix) >= wanted else most

    def _fixed(self, size: PoolSize, *, have: Mix, room: Bounds) -> Bounds:
        """Return the bounds where the number of instances is that of the highest peak ever planned for."""
        largest = size.capacity_by_tp[max(size.capacity_by_tp)]
        count = max(
            room.min_instances,
            sum(have.values()),
            math.ceil(size.rate_per_s / largest - ROUNDING) if largest > 0 else 1,
        )
        if room.max_instances is not None:
            count = room.max_instances
        return replace(room, min_instances=count, max_instances=count, min_gpus=0)

    def _surviving_per_s(self, size: PoolSize, classes: Classes) -> float:
        """Return what must still be carried when an instance fails: the load of now, the reserve used up."""
        s = self._situation
        now = tokens_per_s({c: s.recent[c] for c in classes if c in s.recent})
        planned = tokens_per_s(size.load)
        return now / planned * size.rate_per_s / s.sizing.reserve if planned > 0 else 0.0

    def _wished(self, size: PoolSize, wish: Mix, *, room: Bounds, switching: Switching) -> Choice | None:
        choice = replace(self._choice(size, wish), start_w=start_cost(size, wish, switching, self._weights))
        carries = size.capacity_per_s(wish) >= size.rate_per_s and choice.gpus <= room.max_gpus
        affordable = bool(room.budget.allows(watts=choice.power_w, gpus=choice.gpus))
        return choice if carries and affordable and room.fits(wish) else None

    def _damped(self, size: PoolSize, wish: Choice, *, old: PoolPlan, room: Bounds, switching: Switching) -> Choice:
        """Hold back reductions, and changes that gain too little."""
        s = self._situation
        have = mix_of(old)
        other = wish.runner_up if wish.mix == have else (wish.mix, wish.power_w)
        stay = replace(self._choice(size, have), runner_up=other)
        carries = (
            size.capacity_per_s(have) >= size.rate_per_s
            and room.min_instances <= sum(have.values()) <= (room.max_instances or math.inf)
            and bool(room.budget.allows(watts=stay.power_w, gpus=stay.gpus))
        )
        if not s.may_reduce:
            if carries:
                return stay
            more = least_cost(size, replace(room, at_least=have), weights=self._weights, switching=switching)
            return more or wish
        best = wish
        floor = stabilised_gpus(
            self._past.get(old.name, ()),
            recommended=wish.gpus,
            now_s=s.now_s,
            window_s=s.service.behavior.scale_down_stabilization_s,
        )
        floor = min(floor, gpus(have))
        if wish.gpus < floor:
            held = replace(room, min_gpus=floor)
            best = least_cost(size, held, weights=self._weights, switching=switching) or (stay if carries else wish)
        if carries and not (self._pays(size, stay, best) and self._reachable(have, best.mix)):
            return stay
        return best

    def _reachable(self, have: Mix, wanted: Mix) -> bool:
        """Whether the way to another mix can begin: room for one new instance, or an old one that may give way first."""
        started = [tp for tp, count in wanted.items() if count > have.get(tp, 0)]
        if not started or sum(have.values()) > 1:
            return True
        held = sum(gpus(mix_of(pool)) for pool in self.current.values())
        s = self._situation
        return any(held + tp <= s.max_gpus and any(free >= tp for free in s.free) for tp in started)

    def _pays(self, size: PoolSize, stay: Choice, best: Choice) -> bool:
        """Whether a change saves enough beyond its own cost, wherever in the tolerance the load is.

        Costs jump where a ladder steps up; load that wavers about such a step must not move instances.
        """
        kept = 1 - self._situation.service.behavior.min_saving
        return all(new < old * kept for new, old in zip(self._costs(size, best), self._costs(size, stay), strict=True))

    def _costs(self, size: PoolSize, choice: Choice) -> tuple[float, float, float]:
        margin = 1 + self._situation.service.behavior.tolerance
        low, planned, high = (
            float(self._weights.cost(size.power_w(choice.mix, factor=factor), choice.gpus)) + choice.start_w
            for factor in (1 / margin, 1.0, margin)
        )
        return low, planned, high

    def _best_effort(self, classes: Classes, size: PoolSize, *, have: Mix, room: Bounds) -> Filled | None:
        """No TP keeps the SLO: keep what there is, or else the fewest instances of the largest TP that has room."""
        options = [have] if have else []
        options += [
            {tp: count}
            for tp in sorted(size.capacity_by_tp, reverse=True)
            for count in dict.fromkeys((room.max_instances or room.min_instances, 1))
        ]
        for mix in options:
            choice = self._choice(size, mix)
            affordable = bool(room.budget.allows(watts=choice.power_w, gpus=choice.gpus))
            if gpus(mix) <= room.max_gpus and room.fits(mix) and affordable:
                return replace(self._filled(classes, size, choice, recommended=gpus(mix)), unattainable=True)
        return None

    def _filled(
        self, classes: Classes, size: PoolSize, choice: Choice, *, recommended: int, short: bool = False
    ) -> Filled:
        name = pool_name(classes)
        old = self.current.get(name)
        if short and size.load:
            size = cut_short(self._situation, size, choice.mix)
        pool = PoolPlan(
            name=name,
            classes=classes,
            rate_per_s=size.rate_per_s,
            capacity_per_s=size.capacity_per_s(choice.mix),
            groups=without_ladders(choice.mix),
            load=size.load,
            capacity_by_tp=dict(size.capacity_by_tp),
            gpu_budget=max(choice.gpus, recommended),
            power_w=choice.power_w,
        )
        of: PoolSize | None = size
        if old is not None and alike(self._situation, old, pool):
            pool, of = old, None
        return Filled(
            pool=pool,
            size=of,
            costs=self._costs(size, choice),
            recommended_gpus=recommended,
            throughput_per_s=size.throughput_per_s(choice.mix) if short else math.inf,
            short=short,
            runner_up=note_mix(name, choice.runner_up),
        )
