"""What pools share and may run out of, as linear rows: GPUs, watts, money, room on nodes, instances.

Each row bounds Σ (watts × ``per_watt`` + instances × ``per_instance``) over all pools by ``limit``.

Room on nodes is linear too where every TP degree divides the next larger one: instances fit exactly if for every
degree t the instances of t and its multiples take no more GPUs than the nodes have in whole multiples of t. It is
necessary: a node gives them a multiple of t only. It is sufficient: place the largest first; what those larger than t
took is a multiple of t on every node, so what is left for t is Σ floor(free / t) × t less what they took, which the row
says is enough. Other degrees (2, 3) have the same rows and one for all of them, which are then only necessary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.inventory import fits
from dynamollm.core.objective import ROUNDING, Budget

_Floats: TypeAlias = NDArray[np.float64]

MAX_GPUS: Final = "maxGPUs"
"""What a service may hold in all is bounded by: its own limit,"""
ON_NODES: Final = "GPUs on nodes"
"""what is free and what it holds already on the nodes that it may run on,"""
LEFT_BY_CLUSTER: Final = "GPUs that the cluster's budget leaves"
"""what the ClusterPolicy and services of higher priority leave of these,"""
HAD_LATELY: Final = "GPUs that could be had lately"
"""or what pods got of them that waited too long for more."""


@dataclass(frozen=True)
class Row:
    """One bound."""

    name: str
    """The setting that a user would change, or what is scarce."""
    per_watt: float
    per_instance: tuple[float, ...]
    """By degree."""
    limit: float


@dataclass(frozen=True)
class Coupling:
    """All bounds that pools share."""

    degrees: tuple[int, ...]
    rows: tuple[Row, ...]
    bins: tuple[int, ...] | None
    """Free GPUs of each place; None: unknown."""
    pools: int | None = None
    """Exactly so many parts."""
    floor: int = 1
    """Fewest instances in all."""

    @property
    def per_watt(self) -> _Floats:
        """[row]."""
        return np.array([row.per_watt for row in self.rows])

    @property
    def per_instance(self) -> _Floats:
        """[row, degree]."""
        return np.array([row.per_instance for row in self.rows])

    @property
    def limit(self) -> _Floats:
        """[row]."""
        return np.array([row.limit for row in self.rows])

    def usage(self, counts: NDArray[np.int64], power_w: _Floats) -> _Floats:
        """Return what each option takes of each row, [option, row]."""
        used: _Floats = counts @ self.per_instance.T + power_w[:, None] * self.per_watt
        return used

    def broken(self, counts: NDArray[np.int64], power_w: float) -> tuple[str, ...]:
        """Return which rows these instances of all pools together break, with what they would take; (): none."""
        used = self.usage(counts[None, :], np.array([power_w]))[0]
        told: list[str] = []
        nodes: set[float] = set()
        for row, amount in zip(self.rows, used, strict=True):
            # The nodes' GPUs, and those of them that a degree fits into, are often the same ones: once is enough.
            again = row.name.startswith(ON_NODES) and row.limit in nodes
            if again or amount <= row.limit + ROUNDING * max(1.0, abs(row.limit)):
                continue
            told.append(f"{row.name} ({amount:.0f} of {row.limit:.0f})" if row.limit >= 0 else row.name)
            if row.name.startswith(ON_NODES):
                nodes.add(row.limit)
        return tuple(told)

    def fits(self, mix: Mapping[int, int]) -> bool:
        """Tell whether the nodes take these instances."""
        return self.bins is None or fits(mix, bins=self.bins)


def coupling(
    degrees: Sequence[int],
    *,
    max_gpus: int,
    gpu_limit: str = MAX_GPUS,
    budget: Budget,
    bins: tuple[int, ...] | None,
    min_instances: int = 1,
    instances: int | None = None,
    pools: int | None = None,
) -> Coupling:
    """Return the rows of these limits; those that bound nothing are left out. ``gpu_limit``: what allows no more GPUs."""
    gpus = tuple(float(tp) for tp in degrees)
    one = (1.0,) * len(degrees)
    rows = [Row(gpu_limit, 0.0, gpus, float(max_gpus))]
    if math.isfinite(budget.watts):
        rows.append(Row("maxWatts", 1.0, (0.0,) * len(degrees), budget.watts))
    if math.isfinite(budget.usd_per_hour):
        prices = budget.prices
        per_gpu = tuple(prices.gpu_usd_per_hour * tp for tp in degrees)
        rows.append(Row("maxCost", prices.electricity_usd_per_kwh / 1e3, per_gpu, budget.usd_per_hour))
    if bins is not None:
        for tp in degrees:
            multiples = tuple(float(other) if other % tp == 0 else 0.0 for other in degrees)
            rows.append(Row(f"{ON_NODES} for TP{tp}", 0.0, multiples, float(sum(free // tp * tp for free in bins))))
        if not is_chain(degrees):
            rows.append(Row(ON_NODES, 0.0, gpus, float(sum(free for free in bins if free >= min(degrees)))))
    floor = min_instances if instances is None else instances
    if floor > 1:
        rows.append(Row("minInstances" if instances is None else "pins.instances", 0.0, tuple(-n for n in one), -floor))
    if instances is not None:
        rows.append(Row("pins.instances", 0.0, one, float(instances)))
    return Coupling(tuple(degrees), tuple(rows), bins, pools=pools, floor=floor)


def is_chain(degrees: Sequence[int]) -> bool:
    """Tell whether every degree divides the next larger one, so that the rows of the nodes say all."""
    return all(large % small == 0 for small, large in pairwise(sorted(degrees)))
