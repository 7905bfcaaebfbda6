"""The partition of classes into pools of least total cost, where nothing couples the pools: exact, over all subsets.

A subset of n classes is a bit mask. The best partition of a mask is its part that holds the lowest bit, and the best
partition of the rest: 2^n values, (3^n - 1) / 2 sums — 9,841 for the nine classes. All masks of one size have equally many
such parts, so each size is one rectangular array operation.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Masks: TypeAlias = tuple[int, ...]
"""The parts of a partition."""

_Costs: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partitioned:
    """The partition of least cost, and the next best."""

    parts: Masks
    cost: float
    runner_up: Masks
    """Empty: there is no other, or it was not asked for."""
    runner_up_cost: float
    completion: _Costs
    """By mask: least cost of the classes outside it, in any number of parts; a bound for whoever adds constraints."""


def least_partition(cost: _Costs, *, pools: int | None = None, runner_up: bool = True) -> Partitioned | None:
    """Return the partition of all classes of least cost; None: there is none of finite cost.

    Args:
        cost: of each mask as one pool, 2^n values, infinite where it cannot be; the first, of no class, is not used.
        pools: exactly so many parts; None: any number.
        runner_up: whether the next best is asked for too.
    """
    full = cost.size - 1
    values = _values(cost, pools)
    last = len(values) - 1
    if not np.isfinite(values[last][full]):
        return None
    parts = _chain(cost, values, last, full)
    second, others = _second(cost, values, last, full) if runner_up else (np.inf, ())
    free = values[0] if pools is None else _values(cost, None)[0]
    return Partitioned(
        parts=parts,
        cost=float(values[last][full]),
        runner_up=others,
        runner_up_cost=second,
        completion=free[full - np.arange(full + 1)],
    )


@cache
def levels(size: int) -> tuple[tuple[_Indices, _Indices, _Indices], ...]:
    """Return for each number of classes the masks [m], their parts with the lowest bit [m, k], and the rests [m, k]."""
    levels = []
    for count in range(1, size.bit_length()):
        masks = np.array([sum(1 << bit for bit in bits) for bits in combinations(range(size.bit_length() - 1), count)])
        parts = np.array([parts_of(int(mask)) for mask in masks])
        levels.append((masks, parts, masks[:, None] - parts))
    return tuple(levels)


@cache
def parts_of(mask: int) -> _Indices:
    """Return the submasks of a mask that hold its lowest bit."""
    lowest = mask & -mask
    rest = mask ^ lowest
    parts, part = [lowest | rest], rest
    while part:
        part = (part - 1) & rest
        parts.append(lowest | part)
    return np.array(parts)


def _values(cost: _Costs, pools: int | None) -> list[_Costs]:
    """Return the least cost by mask: of any number of parts, or a list by the number of parts, from none to ``pools``."""
    nothing = np.full(cost.size, np.inf)
    nothing[0] = 0.0
    if pools is None:
        for masks, parts, rests in levels(cost.size):
            nothing[masks] = (cost[parts] + nothing[rests]).min(axis=1)
        return [nothing]
    values = [nothing]
    for _ in range(pools):
        value = np.full(cost.size, np.inf)
        for masks, parts, rests in levels(cost.size):
            value[masks] = (cost[parts] + values[-1][rests]).min(axis=1)
        values.append(value)
    return values


def _below(values: list[_Costs], index: int) -> int:
    """Return where the values of the rest are: themselves, or those of one part less."""
    return 0 if len(values) == 1 else index - 1


def _candidates(cost: _Costs, values: list[_Costs], index: int, mask: int) -> tuple[_Indices, _Costs]:
    parts = parts_of(mask)
    return parts, cost[parts] + values[_below(values, index)][mask - parts]


def _chain(cost: _Costs, values: list[_Costs], index: int, mask: int) -> Masks:
    chosen: list[int] = []
    while mask:
        parts, sums = _candidates(cost, values, index, mask)
        chosen.append(int(parts[sums.argmin()]))
        mask -= chosen[-1]
        index = _below(values, index)
    return tuple(chosen)


def _second(cost: _Costs, values: list[_Costs], index: int, mask: int) -> tuple[float, Masks]:
    """Return the next best: another first part, or the same with the next best of the rest."""
    if not mask:
        return float("inf"), ()
    parts, sums = _candidates(cost, values, index, mask)
    best = int(sums.argmin())
    first = int(parts[best])
    below = _below(values, index)
    deeper, rest = _second(cost, values, below, mask - first)
    deeper += float(cost[first])
    sums[best] = np.inf
    other = int(sums.argmin())
    if not np.isfinite(min(sums[other], deeper)):
        return float("inf"), ()
    if deeper < sums[other]:
        return deeper, (first, *rest)
    return float(sums[other]), (int(parts[other]), *_chain(cost, values, below, mask - int(parts[other])))
