"""The partition of least cost with so many instances at least, where nothing else couples the pools: exact.

As ``core.partition``, and by how many instances are still asked for: what a pool has beyond its first counts for the others. Prices
on the number of instances would leave a wide gap here, since it is the first or second instance that matters.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.partition import levels, parts_of

_Costs: TypeAlias = NDArray[np.float64]

Pools: TypeAlias = tuple[tuple[int, int], ...]
"""(mask, instances that it has at least)."""


def least_with(cost: _Costs, instances: int) -> tuple[float, Pools] | None:
    """Return the least cost of all classes with so many instances at least, and the pools; None: there is none of finite cost.

    Args:
        cost: [count, mask] of each mask as one pool of ``count`` + 1 instances or more, infinite where it cannot be.
        instances: in all.
    """
    most, size = cost.shape
    asked: list[_Costs] = []
    for wanted in range(instances + 1):
        value = np.full(size, np.inf)
        if wanted == 0:
            value[0] = 0.0
        rests = [asked[wanted - count] for count in range(1, min(wanted, most) + 1)] or [value]
        for masks, parts, others in levels(size):
            sums = [(own[parts] + rest[others]).min(axis=1) for own, rest in zip(cost, rests, strict=False)]
            value[masks] = np.min(sums, axis=0)
        asked.append(value)
    least = float(asked[instances][-1])
    return (least, _chain(cost, asked, instances)) if np.isfinite(least) else None


def _chain(cost: _Costs, asked: list[_Costs], wanted: int) -> Pools:
    pools: list[tuple[int, int]] = []
    mask = cost.shape[1] - 1
    while mask:
        parts = parts_of(mask)
        counts = range(1, min(max(wanted, 1), len(cost)) + 1)
        sums = np.array([cost[count - 1, parts] + asked[max(wanted - count, 0)][mask - parts] for count in counts])
        count, part = np.unravel_index(sums.argmin(), sums.shape)
        pools.append((int(parts[part]), int(count) + 1))
        mask -= int(parts[part])
        wanted = max(wanted - int(count) - 1, 0)
    return tuple(pools)
