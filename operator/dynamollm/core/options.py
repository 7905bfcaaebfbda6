"""What every subset of the classes would cost as a pool, and with which instances: the planner's table of choices.

Watts of an instance are a staircase over its utilisation (``sizing.UTILISATION_STEPS``). On one stair, fewer instances are
always cheaper, take fewer GPUs and draw fewer watts. So for each stair, pair of TP degrees and count of the second
degree, only the fewest instances of the first matter: nothing that a plan could be better with is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.mix import PARTNER_MAX, Mix
from dynamollm.core.objective import Budget, Weights
from dynamollm.core.sizing import UTILISATION_STEPS, SizeTable

_EPSILON: Final = 1e-9

UNLIMITED: Final = 1_000_000
"""GPUs, where nothing limits them."""

_Floats: TypeAlias = NDArray[np.float64]
_Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Subsets:
    """Pools that might be, a row each: what their load is, what instances carry and draw, and what is there now."""

    rate_per_s: _Floats
    degrees: tuple[int, ...]
    table: SizeTable
    have: _Counts
    """Instances by degree of the pool of that name now, [row, degree]."""
    start_w: float
    """Equivalent watts of starting one GPU's worth of an instance, spread over the payback time."""
    weights: Weights
    max_gpus: int = UNLIMITED
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Options:
    """Mixes for pools, a row each."""

    row: _Counts
    """Of which pool."""
    counts: _Counts
    """Instances, [option, degree]."""
    gpus: _Counts
    power_w: _Floats
    cost: _Floats
    """Equivalent watts, starting included."""

    def take(self, index: NDArray[np.generic]) -> "Options":
        """Return some of the options."""
        return Options(self.row[index], self.counts[index], self.gpus[index], self.power_w[index], self.cost[index])

    def mix(self, index: int, degrees: Sequence[int]) -> Mix:
        """Return the mix of one option."""
        return {tp: int(n) for tp, n in zip(degrees, self.counts[index], strict=True) if n > 0}


def singles(subsets: Subsets) -> tuple[_Floats, Options]:
    """Return the least cost by row with mixes of one degree (infinite: none), and one such option a row, where there is one."""
    stairs = np.arange(1, UTILISATION_STEPS + 1)
    degrees = np.array(subsets.degrees)[None, :, None]
    capacity = subsets.table.capacity_per_s[:, :, None]
    rate = subsets.rate_per_s[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        fewest = np.ceil(rate * (UTILISATION_STEPS / stairs) / capacity - _EPSILON)
        counts = np.where(capacity > 0, np.clip(fewest, 1, subsets.max_gpus + 1), subsets.max_gpus + 1).astype(np.int64)
        step = np.ceil(rate * UTILISATION_STEPS / (counts * capacity) - _EPSILON)
    step = np.clip(np.nan_to_num(step), 0, UTILISATION_STEPS).astype(np.int64)
    # From the flat array: several times faster than along an axis.
    first = np.arange(0, subsets.table.power_w.size, UTILISATION_STEPS + 1).reshape(*subsets.table.power_w.shape[:2], 1)
    power_w = counts * np.ascontiguousarray(subsets.table.power_w).take(first + step)
    gpus = counts * degrees
    started = np.maximum(counts - subsets.have[:, :, None], 0) * degrees
    cost = subsets.weights.cost(power_w, gpus) + started * subsets.start_w
    able = (gpus <= subsets.max_gpus) & subsets.budget.allows(watts=power_w, gpus=gpus)
    cost = np.where(able, cost, np.inf).reshape(rate.shape[0], -1)
    # Among mixes that cost the same, the fewest GPUs.
    rounded = np.round(cost, 3)
    cheapest = rounded <= rounded.min(axis=1, keepdims=True)
    best = np.where(cheapest, gpus.reshape(cost.shape), np.iinfo(np.int64).max).argmin(axis=1)
    rows = np.arange(best.size)
    least: _Floats = cost[rows, best]
    degree = best // stairs.size
    chosen = np.zeros((best.size, len(subsets.degrees)), dtype=np.int64)
    chosen[rows, degree] = counts.reshape(cost.shape)[rows, best]
    options = Options(
        row=rows,
        counts=chosen,
        gpus=gpus.reshape(cost.shape)[rows, best],
        power_w=power_w.reshape(cost.shape)[rows, best],
        cost=least,
    )
    return least, options.take(np.isfinite(least))


def least_options(
    subsets: Subsets, *, relevant: Callable[[_Floats, _Floats], NDArray[np.bool_]] | None = None
) -> tuple[_Floats, Mapping[int, int], Options]:
    """Return the least cost by row (infinite: none), and the option with it by row.

    First mixes of one degree. A mix of two is looked at only on stairs where it might cost less than the best mix of one
    degree; and only for rows that are ``relevant``, given upper and lower bounds of their costs.
    """
    bound, alone = singles(subsets)
    least = least_pair_cost(subsets)[:, 1:]
    hopeful = least < bound[:, None] - _EPSILON
    if relevant is not None:
        hopeful &= relevant(bound, np.minimum(least.min(axis=1), bound))[:, None]
    row, column = np.nonzero(hopeful)
    if not row.size:
        return bound, {row: place for place, row in enumerate(alone.row.tolist())}, alone
    pairs = pair_options(subsets, row, column + 1)
    # Most of them are dearer, and need not be sorted.
    pairs = pairs.take(np.round(pairs.cost, 3) <= np.round(bound, 3)[pairs.row])
    return _cheapest(joined([alone, pairs]), bound.size)


def single_options(subsets: Subsets, *, floor: int = 1) -> Options:
    """Return the mixes of one degree that could be part of a cheapest plan under limits that pools share.

    Where so many instances are asked for in all (``floor``), more than the fewest may be right: then with them all
    mixes of up to that many.
    """
    rows = np.arange(subsets.rate_per_s.size)
    row, stair = (axis.ravel() for axis in np.meshgrid(rows, np.arange(1, UTILISATION_STEPS + 1), indexing="ij"))
    parts = []
    for degree in range(len(subsets.degrees)):
        counts = _single(subsets, row, stair, degree)
        new = _new(row, counts[:, degree], every=1)
        parts.append(_priced(subsets, row[new], counts[new]))
    if floor > 1:
        more = _up_to(floor, len(subsets.degrees))
        parts.append(_priced(subsets, np.repeat(rows, len(more)), np.tile(more, (rows.size, 1))))
    return joined(parts)


def _up_to(most: int, degrees: int) -> _Counts:
    """Return all mixes of one or two degrees with at most so many instances, [mix, degree]."""
    rows = []
    for first, second in permutations(range(degrees), 2) if degrees > 1 else [(0, 0)]:
        for total in range(1, most + 1):
            for others in range(min(PARTNER_MAX, total) + 1 if degrees > 1 else 1):
                counts = [0] * degrees
                counts[first] += total - others
                counts[second] += others
                rows.append(counts)
    return np.unique(np.array(rows, dtype=np.int64), axis=0)


def _cheapest(options: Options, rows: int) -> tuple[_Floats, Mapping[int, int], Options]:
    order = np.lexsort((options.gpus, np.round(options.cost, 3), options.row))
    found, first = np.unique(options.row[order], return_index=True)
    cost = np.full(rows, np.inf)
    cost[found] = options.cost[order[first]]
    return cost, dict(zip(found.tolist(), order[first].tolist(), strict=True)), options


def least_pair_cost(
    subsets: Subsets, *, per_watt: float = 0.0, per_instance: NDArray[np.float64] | float = 0.0
) -> _Floats:
    """Return what no mix of two degrees costs less than, by row and stair.

    That is the cheapest capacity, if fractions of instances could be had, and an instance each of two degrees.
    ``per_watt`` and ``per_instance`` (by degree) are added to the cost.
    """
    degrees = np.array(subsets.degrees)
    capacity = subsets.table.capacity_per_s[:, :, None]
    power_w = subsets.table.power_w
    added = np.broadcast_to(per_instance, degrees.shape)[None, :, None]
    each = subsets.weights.cost(power_w, degrees[None, :, None]) + per_watt * power_w + added
    share = np.arange(UTILISATION_STEPS + 1) / UTILISATION_STEPS
    with np.errstate(divide="ignore", invalid="ignore"):
        per_request = np.where(capacity > 0, each / capacity, np.inf).min(axis=1)
        fractional = per_request * subsets.rate_per_s[:, None] / share
    two = _two_least(np.where(capacity > 0, each, np.inf))
    # What is above a stair is cheaper where an instance earns more than it costs: then there is no bound.
    cost: _Floats = np.where(per_request >= 0, np.maximum(fractional, two), -np.inf)
    return cost


def _two_least(cost: _Floats) -> _Floats:
    """Return the sums of the two least along the middle axis, which is short: many times faster than sorting along it."""
    least = second = np.full((cost.shape[0], cost.shape[2]), np.inf)
    for one in np.moveaxis(cost, 1, 0):
        second = np.minimum(second, np.maximum(least, one))
        least = np.minimum(least, one)
    both: _Floats = least + second
    return both


def _single(subsets: Subsets, row: _Counts, stair: _Counts, degree: int) -> _Counts:
    counts = np.zeros((row.size, len(subsets.degrees)), dtype=np.int64)
    counts[:, degree] = np.maximum(_fewest(subsets, row, stair, degree, carried=np.zeros(row.size)), 1)
    return counts


def pair_options(subsets: Subsets, row: _Counts, stair: _Counts) -> Options:
    """Return the mixes of two degrees at these stairs of these rows, with up to ``PARTNER_MAX`` instances of either of them.

    None where there is one degree only.
    """
    partners = np.arange(1, PARTNER_MAX + 1)
    rows, others = np.repeat(row, partners.size), np.tile(partners, row.size)
    stairs = np.repeat(stair, partners.size)
    found = [(row[:0], np.zeros((0, len(subsets.degrees)), dtype=np.int64))]
    for first, second in permutations(range(len(subsets.degrees)), 2):
        carried = others * subsets.table.capacity_per_s[:, second].take(rows)
        fewest = _fewest(subsets, rows, stairs, first, carried=carried)
        useful = (fewest > 0) & (carried > 0) & _new(rows, fewest, every=partners.size)
        which = np.flatnonzero(useful)
        counts = np.zeros((which.size, len(subsets.degrees)), dtype=np.int64)
        counts[:, first], counts[:, second] = fewest.take(which), others.take(which)
        found.append((rows.take(which), counts))
    return _priced(subsets, *(np.concatenate(part) for part in zip(*found, strict=True)))


def _new(row: _Counts, count: _Counts, *, every: int) -> NDArray[np.bool_]:
    """Return where the count is another than at the stair before, which is so many places before: the fewest are often the same."""
    new = np.ones(row.size, dtype=np.bool_)
    new[every:] = (count[every:] != count[:-every]) | (row[every:] != row[:-every])
    return new


def _fewest(subsets: Subsets, row: _Counts, stair: _Counts, degree: int, *, carried: _Floats) -> _Counts:
    """Return the fewest instances of a degree that bring the utilisation down to a stair beside what others carry."""
    capacity = subsets.table.capacity_per_s[:, degree].take(row)
    wanted = subsets.rate_per_s.take(row) * UTILISATION_STEPS / stair - carried
    # One more than the limit allows, where there is no capacity: ``_priced`` drops it.
    none = subsets.max_gpus + 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        fewest = np.where(capacity > 0, np.ceil(wanted / capacity - _EPSILON), none)
    counts: _Counts = np.clip(fewest, 0, none).astype(np.int64)
    return counts


def _priced(subsets: Subsets, row: _Counts, counts: _Counts) -> Options:
    """Return those of these mixes that carry their pool's load within the limits, with watts and cost.

    Degree by degree and from flat arrays: several times faster than along the axis of degrees, which is short.
    """
    degrees = subsets.degrees
    gpus = _of_degrees(counts, degrees)
    keep = np.flatnonzero((gpus > 0) & (gpus <= subsets.max_gpus))
    row, counts, gpus = row.take(keep), counts.take(keep, axis=0), gpus.take(keep)
    capacity = np.zeros(row.size)
    for degree in range(len(degrees)):
        capacity += counts[:, degree] * subsets.table.capacity_per_s[:, degree].take(row)
    utilisation = subsets.rate_per_s.take(row) / np.maximum(capacity, _EPSILON)
    step = np.maximum(np.ceil(utilisation * UTILISATION_STEPS - _EPSILON), 0).astype(np.int64)
    keep = np.flatnonzero(step <= UTILISATION_STEPS)
    row, counts, gpus, step = row.take(keep), counts.take(keep, axis=0), gpus.take(keep), step.take(keep)
    power_w, new = np.zeros(row.size), np.empty_like(counts)
    watts, place = np.ascontiguousarray(subsets.table.power_w), row * len(degrees) * (UTILISATION_STEPS + 1) + step
    for degree in range(len(degrees)):
        power_w += counts[:, degree] * watts.take(place + degree * (UTILISATION_STEPS + 1))
        np.maximum(counts[:, degree] - subsets.have[:, degree].take(row), 0, out=new[:, degree])
    cost = subsets.weights.cost(power_w, gpus) + _of_degrees(new, degrees) * subsets.start_w
    options = Options(row=row, counts=counts, gpus=gpus, power_w=power_w, cost=cost)
    allowed = subsets.budget.allows(watts=power_w, gpus=gpus)
    return options if allowed.all() else options.take(allowed)


def _of_degrees(counts: _Counts, degrees: Sequence[int]) -> _Counts:
    """Return the GPUs of so many instances by degree, [option]."""
    gpus = np.zeros(len(counts), dtype=np.int64)
    for degree, each in enumerate(degrees):
        gpus += counts[:, degree] * each
    return gpus


def joined(parts: Sequence[Options]) -> Options:
    """Return all of these options."""
    return Options(
        row=np.concatenate([part.row for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        gpus=np.concatenate([part.gpus for part in parts]),
        power_w=np.concatenate([part.power_w for part in parts]),
        cost=np.concatenate([part.cost for part in parts]),
    )
