"""The instances of one pool: which TP degrees, how many of each, at what cost — by exact enumeration.

A mix has at most two TP degrees, one of them with at most ``PARTNER_MAX`` instances, unless the pool has more now:
minimising Σ N·E under Σ tp·N ≤ GPUs and Σ N·L ≥ L is a linear programme with two constraints, so its optimum has at
most two degrees, and what the integers add is the small remainder that the second degree fills.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.objective import ENERGY, Budget, Weights
from dynamollm.core.records import GroupPlan, Ladder, Load
from dynamollm.core.sizing import UTILISATION_STEPS, Sizing, ladder_clock, rate_per_s, staircase, tokens_per_s
from dynamollm.core.stream import mixes_of

_EPSILON: Final = 1e-9

Mix = Mapping[int, int]
"""Instances by TP degree; a degree that is absent has none."""

PARTNER_MAX: Final = 8
"""Instances of the second degree: eight of TP2 make two of TP8, so that more of them is another first degree's mix."""
SPREAD: Final = 3
"""No more than so many times the instances that the load needs: below a third of their capacity clocks are at their
floor, and an instance more only adds idle watts."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """One pool's load, and what an instance of each TP carries and draws under its mix."""

    load: Load
    """Planned load by class; empty: none."""
    rate_per_s: float
    capacity_by_tp: Mapping[int, float]
    """Requests/s; 0.0 where a TP cannot keep the SLO at all."""
    power_by_tp_w: Mapping[int, tuple[float, ...]]
    """Watts of an instance at 0, 1/20, …, 20/20 of its capacity, at the ladder's clock there."""
    ladder: Callable[[int], Ladder]
    """By TP; worked out only for what is chosen."""
    full_in_flight: Callable[[int], float]
    """By TP, as ``GroupPlan`` has it; likewise."""
    throughput: Callable[[int], float]
    """By TP, as ``Sizing.throughput_per_s``; likewise."""
    late_w: Callable[[int, float], float]
    """Watts of an instance of a TP at the highest clock that receives the load times a factor: where none keeps the SLO."""
    idle_power_w: float
    """Watts of one idle GPU with an engine loaded."""

    def capacity_per_s(self, mix: Mix) -> float:
        """Requests/s that a mix carries."""
        return sum(self.capacity_by_tp.get(tp, 0.0) * count for tp, count in mix.items())

    def throughput_per_s(self, mix: Mix) -> float:
        """Requests/s that a mix serves, in time or not."""
        return sum(self.throughput(tp) * count for tp, count in mix.items())

    def power_w(self, mix: Mix, *, factor: float = 1.0) -> float:
        """Watts of a mix at the planned load × ``factor``, shared out by capacity; where no TP has any, by GPUs."""
        if self.load and not any(self.capacity_by_tp.values()):
            each = factor / max(gpus(mix), 1)
            return sum(self.late_w(tp, each * tp) * count for tp, count in mix.items())
        utilisation = self.rate_per_s * factor / max(self.capacity_per_s(mix), _EPSILON)
        step = min(math.ceil(utilisation * UTILISATION_STEPS - _EPSILON), UTILISATION_STEPS)
        return sum(self.power_by_tp_w[tp][max(step, 0)] * count for tp, count in mix.items())

    def planned_power_w(self, mix: Mix) -> float:
        """Watts of a mix at the planned load. Of more than it carries they are those of the highest clock."""
        capacity = self.capacity_per_s(mix)
        if self.rate_per_s <= capacity + _EPSILON or capacity <= 0:
            return self.power_w(mix)
        shares = {tp: self.capacity_by_tp[tp] / capacity for tp in mix}
        return sum(self._overloaded_w(tp, shares[tp]) * count for tp, count in mix.items())

    def most_w(self, tp: int) -> float:
        """Watts of an instance of a TP at the highest clock that serves as much as it can."""
        return self._overloaded_w(tp, math.inf)

    def _overloaded_w(self, tp: int, share: float) -> float:
        if self.capacity_by_tp[tp] <= 0 or self.rate_per_s <= 0:
            return self.power_w({tp: 1})
        return self.late_w(tp, min(share, self.throughput(tp) / self.rate_per_s))

    def group_plans(self, mix: Mix) -> tuple[GroupPlan, ...]:
        """Return the groups of a mix with the clocks that their ladders give at the planned load."""
        utilisation = self.rate_per_s / max(self.capacity_per_s(mix), _EPSILON)
        plans = []
        for tp, count in sorted(mix.items()):
            if count > 0:
                # Of a load that does not fit each gets more than it carries: the safe clock.
                share = utilisation * self.capacity_by_tp[tp] / max(self.rate_per_s, _EPSILON)
                ladder = self.ladder(tp)
                clock = ladder_clock(ladder, tokens_per_s_of_instance=tokens_per_s(self.load) * share)
                full = self.full_in_flight(tp)
                plans.append(GroupPlan(tp, count, ladder=ladder, clock_mhz=clock, full_in_flight=full))
        return tuple(plans)


def size_pools(
    sizing: Sizing, mixes: Sequence[Load], *, tensor_parallel: tuple[int, ...], scale_clocks: bool = True
) -> list[PoolSize]:
    """Return what instances of each TP carry and draw, for each of these mixes, none of which may be empty.

    All of them are worked out together, so a class must have the same lengths in all. Without ``scale_clocks``
    instances run at the highest clock at any load.
    """
    parts = {c: part for mix in mixes for c, part in mix.items()}
    parts = {c: parts[c] for c in RequestClass if c in parts}
    rates = np.array([[mix[c].rate_per_s if c in mix else 0.0 for c in parts] for mix in mixes])
    table = sizing.table(mixes_of(parts, rates), tensor_parallel=tensor_parallel)
    return [
        _sized(
            sizing,
            mix,
            capacity={tp: float(carried) for tp, carried in zip(tensor_parallel, capacity, strict=True)},
            power={tp: tuple(map(float, watts)) for tp, watts in zip(tensor_parallel, power, strict=True)},
            scale_clocks=scale_clocks,
        )
        for mix, capacity, power in zip(mixes, table.capacity_per_s, table.power_w, strict=True)
    ]


def _sized(
    sizing: Sizing,
    mix: Load,
    *,
    capacity: Mapping[int, float],
    power: Mapping[int, tuple[float, ...]],
    scale_clocks: bool,
) -> PoolSize:
    highest = Ladder(steps=(), safe_mhz=sizing.max_clock_mhz)

    @cache
    def late_w(tp: int, scale: float) -> float:
        return sizing.power_w(load=mix, tensor_parallel=tp, clock_mhz=sizing.max_clock_mhz, scale=scale)

    def ladder(tp: int) -> Ladder:
        return sizing.ladder(load=mix, tensor_parallel=tp) if scale_clocks and capacity[tp] > 0 else highest

    if not scale_clocks:
        power = {tp: staircase(sizing, load=mix, tensor_parallel=tp, ladder=highest) for tp in capacity}
    return PoolSize(
        load=mix,
        rate_per_s=rate_per_s(mix),
        capacity_by_tp=capacity,
        power_by_tp_w=power,
        ladder=ladder,
        full_in_flight=lambda tp: sizing.full_in_flight(load=mix, tensor_parallel=tp),
        throughput=cache(lambda tp: sizing.throughput_per_s(load=mix, tensor_parallel=tp)),
        late_w=late_w,
        idle_power_w=sizing.idle_power_w,
    )


def idle(size: PoolSize) -> PoolSize:
    """Return the same pool without any load: its mix is only what it is sized for."""
    return replace(size, load={}, rate_per_s=0.0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a mix must keep."""

    max_gpus: int
    min_gpus: int = 0
    min_instances: int = 1
    max_instances: int | None = None
    at_least: Mix | None = None
    """No degree may have fewer instances than here."""
    budget: Budget = field(default_factory=Budget)
    fits: Callable[[Mix], bool] = lambda _mix: True
    """Whether the nodes have room for it."""


@dataclass(frozen=True, slots=True)
class Switching:
    """What changing from the current mix costs, and over how long a saving may pay for it."""

    current: Mix
    startup_s: float
    payback_s: float
    tolerance: float
    """A mix that carries less than the current one must carry the load × (1 + tolerance)."""
    surviving_per_s: float = 0.0
    """N−1: what a mix that carries less than the current one must still carry when it loses its largest instance,
    requests/s. A mix of one instance cannot, and is exempt: ``limits.minInstances`` says where one is too few."""
    regroups: bool = False
    """Whether every mix is judged as one that carries less: the pool serves other classes than now."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A mix, its watts at the planned load, and what it costs."""

    mix: Mix
    power_w: float
    cost: float
    """Equivalent watts (``core.objective``)."""
    start_w: float = 0.0
    """Energy of starting what is not there yet, spread over the payback time."""
    runner_up: "tuple[Mix, float] | None" = None
    """The next best mix and its watts."""

    @property
    def gpus(self) -> int:
        """GPUs of the mix."""
        return gpus(self.mix)


def gpus(mix: Mix) -> int:
    """Return the GPUs of a mix."""
    return sum(tp * count for tp, count in mix.items())


def least_cost(
    size: PoolSize,
    bounds: Bounds,
    *,
    weights: Weights = ENERGY,
    switching: Switching | None = None,
    fewest_gpus: bool = False,
) -> Choice | None:
    """Return the mix of least cost (or fewest GPUs) that carries the load within the bounds; None: there is none.

    With ``switching`` the energy of starting instances counts, spread over the payback time.
    """
    options = _Options(size, bounds=bounds, weights=weights, switching=switching)
    allowed = options.capacity >= options.needed(size.rate_per_s)
    cost = options.gpus.astype(np.float64) if fewest_gpus else options.cost + options.start_w
    return options.first(np.lexsort((options.groups, options.gpus, np.round(cost, 3))), allowed)


def start_cost_per_gpu(idle_power_w: float, switching: Switching, weights: Weights) -> float:
    """Return the energy of starting a GPU's worth of an instance, spread over the payback time, equivalent watts."""
    return weights.watt * idle_power_w * switching.startup_s / max(switching.payback_s, 1.0)


def start_cost(size: PoolSize, mix: Mix, switching: Switching, weights: Weights) -> float:
    """Return the same for what a mix has and the current one has not."""
    started = sum(tp * max(0, count - switching.current.get(tp, 0)) for tp, count in mix.items())
    return started * start_cost_per_gpu(size.idle_power_w, switching, weights)


def most_throughput(size: PoolSize, bounds: Bounds, *, weights: Weights = ENERGY) -> Choice | None:
    """Return the mix that serves most within the bounds, for when not all can be served in time; None: nothing fits.

    Not the one that serves most in time: of a load beyond its throughput requests are lost, and where the strictest class leaves an
    instance a third of its throughput, what is served in time by all of them says little of how late the others are.
    """
    options = _Options(size, bounds=bounds, weights=weights, switching=None, overloaded=True)
    order = np.lexsort((options.gpus, -np.round(options.capacity, 9), -np.round(options.throughput(), 9)))
    return options.first(order, np.full(options.gpus.size, fill_value=True))


class _Options:
    """All mixes within the bounds with their capacity, watts and cost, as columns."""

    def __init__(
        self,
        size: PoolSize,
        *,
        bounds: Bounds,
        weights: Weights,
        switching: Switching | None,
        overloaded: bool = False,
    ) -> None:
        """Take all of them; where some may be chosen that do not carry the load (``overloaded``), budgets count the most that those draw."""
        self._bounds, self._size, self._switching = bounds, size, switching
        self._overloaded = overloaded
        self._degrees = tuple(sorted(size.capacity_by_tp))
        counts = _counts(size, degrees=self._degrees, bounds=bounds, current=switching.current if switching else None)
        degrees = np.array(self._degrees)
        self.gpus = counts @ degrees
        instances = counts.sum(axis=1)
        most = instances.max(initial=0) if bounds.max_instances is None else bounds.max_instances
        capacity = counts @ np.array([size.capacity_by_tp[tp] for tp in self._degrees])
        step = np.ceil(size.rate_per_s / np.maximum(capacity, _EPSILON) * UTILISATION_STEPS - _EPSILON)
        step = np.clip(step, 0, UTILISATION_STEPS).astype(np.int64)
        per_instance = np.array([size.power_by_tp_w[tp] for tp in self._degrees])
        power_w = (counts * per_instance[:, step].T).sum(axis=1)
        if overloaded and bounds.budget.bounded:
            most_w = counts @ np.array([size.most_w(tp) for tp in self._degrees])
            power_w = np.where(size.rate_per_s <= capacity + _EPSILON, power_w, most_w)
        keep = (
            (self.gpus <= bounds.max_gpus)
            & (self.gpus >= bounds.min_gpus)
            & (instances >= max(1, bounds.min_instances))
            & (instances <= most)
            & bounds.budget.allows(watts=power_w, gpus=self.gpus)
        )
        for index, tp in enumerate(self._degrees):
            keep &= counts[:, index] >= (bounds.at_least or {}).get(tp, 0)
        self._counts = counts[keep]
        self.gpus, self.capacity, self.power_w = self.gpus[keep], capacity[keep], power_w[keep]
        self.groups = (self._counts > 0).sum(axis=1)
        self.cost: NDArray[np.float64] = weights.cost(self.power_w, self.gpus)
        self.start_w = np.zeros(self.gpus.size)
        if switching is not None:
            now = np.array([switching.current.get(tp, 0) for tp in self._degrees])
            started = np.maximum(self._counts - now, 0) @ degrees
            self.start_w = started * start_cost_per_gpu(size.idle_power_w, switching, weights)

    def throughput(self) -> NDArray[np.float64]:
        """Return what each option serves, requests/s."""
        served: NDArray[np.float64] = self._counts @ np.array([self._size.throughput(tp) for tp in self._degrees])
        return served

    def needed(self, rate_per_s: float) -> NDArray[np.float64]:
        """Return what each option must carry: the load, more where it takes something away; infinite: not allowed."""
        needed = np.full(self.gpus.size, rate_per_s)
        s = self._switching
        if s is None:
            return needed
        reduces = self.capacity < self._size.capacity_per_s(s.current) - _EPSILON
        largest = ((self._counts > 0) * np.array([self._size.capacity_by_tp[tp] for tp in self._degrees])).max(
            axis=1, initial=0.0
        )
        alone = self._counts.sum(axis=1) == 1
        survives = alone | (self.capacity - largest >= s.surviving_per_s)
        needed = np.where(reduces, needed * (1 + s.tolerance), needed)
        return np.where((reduces | s.regroups) & ~survives, np.inf, needed)

    def first(self, order: NDArray[np.int64], allowed: NDArray[np.bool_]) -> Choice | None:
        """Return the first option in this order that is allowed and fits, and the one after it."""
        found: list[Choice] = []
        for index in order[allowed[order]]:
            mix = {tp: int(n) for tp, n in zip(self._degrees, self._counts[index], strict=True) if n > 0}
            if self._bounds.fits(mix):
                power_w, cost = float(self.power_w[index]), float(self.cost[index])
                if self._overloaded and not found:
                    power_w = self._size.planned_power_w(mix)
                found.append(Choice(mix, power_w=power_w, cost=cost, start_w=float(self.start_w[index])))
                if len(found) == 2:  # noqa: PLR2004 - the best and the runner-up
                    break
        if not found:
            return None
        runner_up = (found[1].mix, found[1].power_w) if len(found) > 1 else None
        return replace(found[0], runner_up=runner_up)


def _counts(size: PoolSize, *, degrees: tuple[int, ...], bounds: Bounds, current: Mix | None) -> NDArray[np.int64]:
    """Return the mixes to look at, one a row, a column per degree; the bounds are not applied yet."""
    floor = max(1, bounds.min_instances)
    most: dict[int, int] = {}
    for tp in degrees:
        capacity = size.capacity_by_tp[tp]
        useful = int(SPREAD * size.rate_per_s / capacity) + 1 if capacity > 0 else 0
        most[tp] = min(bounds.max_gpus // tp, max(useful, floor, -(-bounds.min_gpus // tp)) if capacity > 0 else 0)
    blocks = [_block(degrees, {tp: most[tp]}) for tp in degrees]
    blocks += [
        _block(degrees, {first: most[first], second: min(PARTNER_MAX, most[second])})
        for first, second in permutations(degrees, 2)
    ]
    if bounds.max_instances is not None:
        # A fixed number of instances: every way to part them between two degrees.
        blocks += [
            _shared_out(degrees, (first, second), bounds.max_instances) for first, second in permutations(degrees, 2)
        ]
    for base in (current, bounds.at_least):
        if base:
            # From what is there, more of one degree.
            start = np.array([base.get(tp, 0) for tp in degrees])
            blocks += [start + _block(degrees, {tp: most[tp]}) for tp in degrees]
    rows = np.concatenate(blocks)
    # One number a row is many times faster to sort than rows are.
    radix = int(rows.max(initial=0)) + 1
    _, first = np.unique(rows @ radix ** np.arange(len(degrees)), return_index=True)
    return rows[first]


def _shared_out(degrees: tuple[int, ...], pair: tuple[int, int], instances: int) -> NDArray[np.int64]:
    rows = np.zeros((instances + 1, len(degrees)), dtype=np.int64)
    rows[:, degrees.index(pair[0])] = np.arange(instances + 1)
    rows[:, degrees.index(pair[1])] = instances - np.arange(instances + 1)
    return rows


def _block(degrees: tuple[int, ...], limits: Mapping[int, int]) -> NDArray[np.int64]:
    return _grid(tuple(limits.get(tp, 0) for tp in degrees))


@lru_cache(maxsize=512)
def _grid(most: tuple[int, ...]) -> NDArray[np.int64]:
    axes = [np.arange(limit + 1) for limit in most]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
