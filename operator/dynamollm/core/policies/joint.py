"""Ours: the partition of classes into pools, the TP degrees, the instances and the clocks, all at once, at least cost.

Every subset of the classes is priced as a pool (``core.options``), and the cheapest partition is found exactly
(``core.partition``). The pools in force stay unless others save more than ``behavior.min_saving`` and the cost of switching.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.coupling import Coupling
from dynamollm.core.milp import solve
from dynamollm.core.mix import Mix
from dynamollm.core.objective import ROUNDING, weights
from dynamollm.core.options import Subsets, least_options
from dynamollm.core.partition import Masks, Partitioned, least_partition
from dynamollm.core.policies.base import Policy, Situation
from dynamollm.core.policies.coupled import broken_by, couple, coupling_of, start_w
from dynamollm.core.policies.filled import mix_of
from dynamollm.core.policies.filling import Classes, Loads
from dynamollm.core.policies.levels import Considered, Levels
from dynamollm.core.policies.noted import note_pools
from dynamollm.core.policies.pools import one_pool, with_riders
from dynamollm.core.sizing import rate_per_s
from dynamollm.core.stream import mixes_of

POOL_WORTH: Final = 0.01
"""Share of the whole cost that a pool more must save: bursts of one class find less room in a small pool, and the
staircases of the watts are not more exact than that."""

LEAST_RATE_PER_S: Final = 1e-6
"""Below one request in eleven days a class counts as not asked for: it goes with another one's pool."""


def _partitions(s: Situation, loads: Loads) -> Considered:
    asked = tuple(c for c in RequestClass if rate_per_s(loads((c,))) > LEAST_RATE_PER_S)
    if not asked:
        return one_pool(s, loads)
    table = subsets(s, loads, asked)
    # A class whose SLO no instance keeps, not even alone, keeps company with its like.
    alone = table.table.capacity_per_s[(1 << np.arange(len(asked))) - 1].max(axis=1) > 0
    able = tuple(c for c, can in zip(asked, alone, strict=True) if can)
    if not able:
        return one_pool(s, loads)
    if able != asked:
        table = subsets(s, loads, able)
    hopeless = tuple(c for c in asked if c not in able)
    pinned = s.service.pins.pools
    if pinned is not None:
        pinned = max(1, min(pinned - bool(hopeless), len(able)))
    search = _Search(pools=pinned)
    cost, index, options = least_options(table, relevant=search.relevant)
    found = least_partition(_by_mask(cost) + search.worth, pools=pinned)
    parts = None if found is None else found.parts
    shared = coupling_of(s)
    binding = broken_by(options, [index[part - 1] for part in found.parts], shared) if found else ()
    if found is None or binding:
        limited = replace(table, max_gpus=s.max_gpus, budget=s.budget)
        parts = _coupled(limited, replace(shared, pools=pinned), classes=len(able), worth=search.worth)
    if parts is None:
        # Not even one pool each within the limits: the levels fill what they can.
        return replace(one_pool(s, loads), binding=", ".join(binding))
    pools = [classes_of(mask, able) for mask in parts]
    return Considered(
        [with_riders([*pools, *([hopeless] if hopeless else [])])],
        runner_up=_described(found, able, search.worth) if found and found.parts == parts else "",
        binding=", ".join(binding),
    )


class _Search:
    """Which subsets may be in the cheapest partition or the next best, before all of their mixes are known."""

    def __init__(self, *, pools: int | None) -> None:
        self._pools = pools
        self.worth = 0.0
        """What a pool more must save, equivalent watts."""

    def relevant(self, upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the subsets whose cheapest plan could be as cheap as the next best plan of the upper bounds."""
        cheapest = least_partition(_by_mask(upper), runner_up=False)
        if cheapest is None:
            return np.ones(upper.size, dtype=np.bool_)
        self.worth = POOL_WORTH * abs(cheapest.cost)
        known = least_partition(_by_mask(upper) + self.worth, pools=self._pools)
        hoped = least_partition(_by_mask(lower) + self.worth, runner_up=False)
        if known is None or hoped is None:
            return np.ones(upper.size, dtype=np.bool_)
        plans = lower + self.worth + hoped.completion[1:]
        relevant: NDArray[np.bool_] = plans <= known.runner_up_cost * (1 + ROUNDING)
        return relevant


def _by_mask(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[np.inf], cost])


def _coupled(table: Subsets, shared: Coupling, *, classes: int, worth: float) -> Masks | None:
    """Return the cheapest partition within limits that the pools share; None: there is none."""
    masks = np.arange(1, table.rate_per_s.size + 1)
    solved = solve(table, masks, classes=classes, coupling=shared, per_pool=worth)
    return None if solved is None else tuple(int(masks[row]) for row, _ in solved.pools)


def _described(found: Partitioned, classes: Sequence[RequestClass], worth: float) -> str:
    """Return the next best pools and what they would cost, in words."""
    if not found.runner_up:
        return ""
    more = found.runner_up_cost - found.cost + worth * (len(found.parts) - len(found.runner_up))
    return note_pools([classes_of(mask, classes) for mask in found.runner_up], more_w=more)


JOINT: Final[Policy] = Levels(partitions=_partitions, within_grant=False, at_once=True, couple=couple)


def classes_of(mask: int, classes: Sequence[RequestClass]) -> Classes:
    """Return the classes of a bit mask."""
    return tuple(c for bit, c in enumerate(classes) if mask >> bit & 1)


def subsets(s: Situation, loads: Loads, classes: tuple[RequestClass, ...]) -> Subsets:
    """Return all subsets of these classes as pools, in the order of their masks from 1 on."""
    count = len(classes)
    masks = np.arange(1, 1 << count)
    member: NDArray[np.bool_] = (masks[:, None] >> np.arange(count) & 1).astype(bool)
    single = np.array([rate_per_s(loads((c,))) for c in classes])
    rates = member * single
    rates *= (_together(member, single, whole=rate_per_s(loads(classes))) / rates.sum(axis=1))[:, None]
    mixes = mixes_of({c: loads((c,))[c] for c in classes}, rates)
    degrees = s.service.tensor_parallel
    return Subsets(
        rate_per_s=rates.sum(axis=1),
        degrees=degrees,
        table=s.sizing.table(mixes, tensor_parallel=degrees),
        have=_have(s, member, classes),
        start_w=start_w(s),
        weights=weights(s.service),
    )


def _together(member: NDArray[np.bool_], single: NDArray[np.float64], *, whole: float) -> NDArray[np.float64]:
    """Return the planned rate of every subset, requests/s, from those of single classes and of all together.

    Upper bands do not add up: what classes save together grows as the difference between the sum of their square roots
    and the square root of their sum, as the deviations of independent counts do. Exact for one class and for all.
    """
    roots: NDArray[np.float64] = member @ np.sqrt(single) - np.sqrt(member @ single)
    saved = single.sum() - whole
    most = float(roots[-1])
    rates: NDArray[np.float64] = member @ single - (saved * roots / most if most > 0 else 0.0)
    return rates


def _have(s: Situation, member: NDArray[np.bool_], classes: tuple[RequestClass, ...]) -> NDArray[np.int64]:
    """Return the instances now by subset and degree, of the pool that has the name that the subset would have."""
    degrees = s.service.tensor_parallel
    # The largest class that is asked for takes those with it that are larger and are not.
    names = [c.value.lower() for c in classes[:-1]] + [list(RequestClass)[-1].value.lower()]
    current: dict[str, Mix] = {pool.name: mix_of(pool) for pool in s.current.pools} if s.current else {}
    by_name = np.array([[current.get(name, {}).get(tp, 0) for tp in degrees] for name in names], dtype=np.int64)
    largest = len(classes) - 1 - member[:, ::-1].argmax(axis=1)
    have: NDArray[np.int64] = by_name[largest]
    return have
