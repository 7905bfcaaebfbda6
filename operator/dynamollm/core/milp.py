"""The cheapest pools where limits couple them: a mixed-integer programme over (subset of classes, mix of instances).

Each option is a binary; every class is in exactly one chosen option's subset; the rows of ``core.coupling`` hold. It is
solved exactly, but first nearly all options go: with prices λ on the rows, the dynamic programme of
``core.partition`` gives a lower bound for every plan that has a given option (Lagrangian relaxation), and a plan that keeps
the rows gives an upper one. An option whose lower bound is above that is in no cheapest plan. What is left is searched
with the same bounds (``core.cover``), or by HiGHS through scipy where that would take longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from dynamollm.core.coupling import Coupling, is_chain
from dynamollm.core.cover import Priced, least_cover
from dynamollm.core.floor import least_with
from dynamollm.core.mix import Mix
from dynamollm.core.objective import ROUNDING
from dynamollm.core.options import Options, Subsets, joined, least_pair_cost, pair_options, single_options
from dynamollm.core.partition import least_partition
from dynamollm.core.sizing import UTILISATION_STEPS

_Floats: TypeAlias = NDArray[np.float64]
_Counts: TypeAlias = NDArray[np.int64]

PRICE_STEPS: Final = 24
"""Doublings and halvings of the prices on the rows, at most."""
PRICE_NEAR: Final = 1e-3
"""They end within so much of the best single price, relative: exacter ones leave hardly fewer options."""
PRICES_AGAIN: Final = 6
PRICE_RANGE: Final = 0.1
"""When options have come in: so many prices within so much of the best one."""
TIME_LIMIT_S: Final = 2.0
"""For the solver: the gap that is left is reported."""
MOST_COUNTED: Final = 64
"""Instances in all that pools are chosen by the number of: the time that takes grows with their square, to 0.1 s."""
MOST_OPTIONS: Final = 4000
"""Options that the solver gets, those of the lowest bounds; what is left out counts towards the gap. Seldom over a hundred."""
CUTS: Final = 20
"""Plans that the nodes refuse although the rows allow them, before the best is given up (degrees that form no chain)."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The cheapest plan within the rows."""

    pools: tuple[tuple[int, Mix], ...]
    """(row of the subsets, mix)."""
    cost: float
    gap: float
    """Relative: how much cheaper another might still be; 0.0: none is."""


def solve(
    subsets: Subsets, masks: _Counts, *, classes: int, coupling: Coupling, per_pool: float = 0.0
) -> Solved | None:
    """Return the cheapest pools that cover every class once and keep all rows; None: there are none.

    Args:
        subsets: what may be a pool.
        masks: the classes of each of them.
        classes: how many classes there are.
        coupling: what the pools share.
        per_pool: what every pool costs besides.
    """
    options = single_options(subsets, floor=coupling.floor)
    enough = _with_enough(subsets, options, masks, classes=classes, coupling=coupling, per_pool=per_pool)
    if enough is not None:
        return enough
    bounded = _bounded(options, masks, classes=classes, coupling=coupling, per_pool=per_pool)
    if bounded is None:
        # On the highest stair, what is scarce is used least: look there for some plan, or for the proof that there is none.
        every = np.arange(masks.size)
        options = joined([options, pair_options(subsets, every, np.full(masks.size, UTILISATION_STEPS))])
        if _impossible(options, masks, classes=classes, coupling=coupling):
            return None
        bounded = _bounded(options, masks, classes=classes, coupling=coupling, per_pool=per_pool)
    if bounded is None:
        row, stair = np.nonzero(np.ones((masks.size, UTILISATION_STEPS), dtype=np.bool_))
    else:
        # As ``least_options`` does, but with what the rows are worth.
        least = least_pair_cost(subsets, per_watt=bounded.per_watt, per_instance=bounded.per_instance)
        plans = least + (bounded.rest[masks] + per_pool - bounded.credit)[:, None]
        row, stair = np.nonzero(plans[:, 1:] <= _above(bounded.upper))
    options = joined([options, pair_options(subsets, row, stair + 1)])
    again = _bounded(options, masks, classes=classes, coupling=coupling, per_pool=per_pool, known=bounded)
    kept = np.arange(options.row.size)
    left_out = np.inf
    if again is not None:
        kept = kept[again.lower <= _above(again.upper)]
        kept = kept[np.argsort(again.lower[kept], kind="stable")]
        left_out = float(np.min(again.lower[kept[MOST_OPTIONS:]], initial=np.inf))
        kept = kept[:MOST_OPTIONS]
    few = options.take(kept)
    found = again and _covered(few, masks, again, coupling=coupling, per_pool=per_pool)
    found = found or _exact(few, masks, classes=classes, coupling=coupling, per_pool=per_pool)
    if found is None:
        return None
    chosen, cost, gap = found
    if left_out < cost:
        gap = max(gap, 1 - left_out / cost)
    pools = tuple((int(options.row[kept[one]]), options.mix(kept[one], coupling.degrees)) for one in chosen)
    return Solved(pools, cost, gap)


def _with_enough(
    subsets: Subsets, options: Options, masks: _Counts, *, classes: int, coupling: Coupling, per_pool: float
) -> Solved | None:
    """Return the cheapest plan with as many instances as are asked for in all, if it keeps all other limits too."""
    if not 1 < coupling.floor <= MOST_COUNTED or coupling.pools is not None:
        return None
    first = _least_with(options, masks, classes=classes, instances=coupling.floor, per_pool=per_pool)
    free = _ByMask(masks[options.row], 1 << classes).least(options.cost + per_pool)
    rest = least_partition(free, runner_up=False)
    if first is None or rest is None:
        return None
    plans = least_pair_cost(subsets) + (rest.completion[masks] + per_pool)[:, None]
    row, stair = np.nonzero(plans[:, 1:] <= _above(first[0]))
    options = joined([options, pair_options(subsets, row, stair + 1)])
    cost, chosen = _least_with(options, masks, classes=classes, instances=coupling.floor, per_pool=per_pool) or first
    counts, watts = options.counts[chosen].sum(axis=0), float(options.power_w[chosen].sum())
    if coupling.broken(counts, watts) or not _fits(options, chosen, coupling):
        return None
    return Solved(tuple((int(options.row[one]), options.mix(one, coupling.degrees)) for one in chosen), cost, 0.0)


def _least_with(
    options: Options, masks: _Counts, *, classes: int, instances: int, per_pool: float
) -> tuple[float, _Counts] | None:
    """Return the least cost of so many instances at least, and the options with it; None: these options have no such plan."""
    mask, cost, count = masks[options.row], options.cost + per_pool, options.counts.sum(axis=1)
    some = [np.flatnonzero(count >= least) for least in range(1, instances + 1)]
    by_mask = [_ByMask(mask[few], 1 << classes) for few in some]
    found = least_with(
        np.array([one.least(cost[few]) for one, few in zip(by_mask, some, strict=True)]), instances=instances
    )
    if found is None:
        return None
    chosen = [some[least - 1][by_mask[least - 1].cheapest(cost[some[least - 1]], [part])] for part, least in found[1]]
    return found[0], np.concatenate(chosen)


@dataclass(frozen=True)
class _Bounded:
    """A plan that keeps the rows, and what every other costs at least."""

    upper: float
    """Cost of a plan that keeps the rows."""
    lower: _Floats
    """By option: what plans with it cost at least, at the best of the prices tried for it."""
    rest: _Floats
    """By mask: least priced cost of the classes outside it, at the prices of the best bound."""
    credit: float
    """Limits × these prices."""
    prices: _Floats
    """[row]"""
    price: float
    direction: _Floats
    """[row] These prices, scaled, are ``price`` × this."""
    per_watt: float
    per_instance: _Floats
    """What these prices add to the cost of a watt, and of an instance by degree."""


def _above(cost: float) -> float:
    return cost + ROUNDING * max(1.0, abs(cost))


def _bounded(
    options: Options,
    masks: _Counts,
    *,
    classes: int,
    coupling: Coupling,
    per_pool: float,
    known: _Bounded | None = None,
) -> _Bounded | None:
    """Return bounds from prices on the rows that the cheapest plans break; None: no plan within the rows was found.

    ``known``: what was found with some of these options.
    """
    mask = masks[options.row]
    usage = coupling.usage(options.counts, options.power_w)
    limit = coupling.limit
    scale = np.maximum(np.abs(limit), 1.0)
    direction = np.zeros(limit.size)
    price, low, high = 0.0, 0.0, np.inf
    upper, highest = np.inf, -np.inf
    lower = np.full(mask.size, -np.inf)
    step = max(1.0, float(np.min(options.cost, initial=np.inf)))
    best_direction = direction
    rest, best_prices, best_price = np.zeros(0), np.zeros(limit.size), 0.0
    if known is not None:
        upper, price, direction = known.upper, known.price, known.direction
        low, high = price * (1 - PRICE_RANGE), price * (1 + PRICE_RANGE)
    by_mask = _ByMask(mask, 1 << classes)
    for _ in range(PRICE_STEPS if known is None else PRICES_AGAIN):
        prices = price * direction / scale
        credit = float(prices @ limit)
        priced = options.cost + per_pool + usage @ prices
        found = least_partition(by_mask.least(priced), pools=coupling.pools, runner_up=False)
        if found is None:
            return None
        lower = np.maximum(lower, priced + found.completion[mask] - credit)
        if found.cost - credit > highest:
            highest, rest, best_prices, best_price = found.cost - credit, found.completion, prices, price
            best_direction = direction
        chosen = by_mask.cheapest(priced, found.parts)
        over = usage[chosen].sum(axis=0) - limit
        broken = over > ROUNDING * scale
        if not broken.any() and _fits(options, chosen, coupling):
            upper = min(upper, float(options.cost[chosen].sum()) + per_pool * chosen.size)
            high = price
        else:
            low = price
            direction = np.maximum(direction, broken)
        price = (low + high) / 2 if np.isfinite(high) else max(step, 2 * price)
        if not direction.any() or upper <= _above(highest) or high - low <= PRICE_NEAR * min(high, 1e9):
            break
    if not np.isfinite(upper):
        return None
    return _Bounded(
        upper=upper,
        lower=lower,
        rest=rest,
        credit=float(best_prices @ limit),
        prices=best_prices,
        price=best_price,
        direction=best_direction,
        per_watt=float(best_prices @ coupling.per_watt),
        per_instance=best_prices @ coupling.per_instance,
    )


def _impossible(options: Options, masks: _Counts, *, classes: int, coupling: Coupling) -> bool:
    """Tell whether every cover of the classes breaks some row, even with the options that use least of it."""
    usage = coupling.usage(options.counts, options.power_w)
    by_mask = _ByMask(masks[options.row], 1 << classes)
    for row, limit in enumerate(coupling.limit):
        found = least_partition(by_mask.least(usage[:, row]), pools=coupling.pools, runner_up=False)
        # Watts may fall on lower stairs, where other options are.
        if found is None:
            return not coupling.per_watt.any()
        if found.cost > _above(limit) and coupling.rows[row].per_watt == 0.0:
            return True
    return False


class _ByMask:
    """Options by the classes that they are for."""

    def __init__(self, mask: _Counts, masks: int) -> None:
        self._masks = masks
        self._order = np.argsort(mask, kind="stable")
        self._there, self._first = np.unique(mask[self._order], return_index=True)

    def least(self, cost: _Floats) -> _Floats:
        """Return the least cost by mask; infinite: there is no option."""
        least = np.full(self._masks, np.inf)
        if self._there.size:
            least[self._there] = np.minimum.reduceat(cost[self._order], self._first)
        return least

    def cheapest(self, cost: _Floats, masks: Sequence[int]) -> _Counts:
        """Return the option of least cost for each of these masks, the first of equals."""
        last = np.append(self._first[1:], self._order.size)
        chosen = []
        for place in np.searchsorted(self._there, masks):
            options = self._order[self._first[place] : last[place]]
            chosen.append(options[cost[options].argmin()])
        return np.array(chosen, dtype=np.int64)


def _covered(
    options: Options, masks: _Counts, bounded: _Bounded, *, coupling: Coupling, per_pool: float
) -> tuple[_Counts, float, float] | None:
    """Return the chosen options, their cost, and no gap; None: that is for the solver."""
    usage = coupling.usage(options.counts, options.power_w)
    limit = coupling.limit + ROUNDING * np.maximum(np.abs(coupling.limit), 1.0)
    cost = options.cost + per_pool

    def allowed(chosen: Sequence[int]) -> bool:
        some = np.array(chosen, dtype=np.int64)
        return bool((usage[some].sum(axis=0) <= limit).all()) and _fits(options, some, coupling)

    chosen = least_cover(
        Priced(
            mask=masks[options.row],
            cost=cost,
            priced=cost + usage @ bounded.prices,
            rest=bounded.rest,
            credit=bounded.credit,
            upper=_above(bounded.upper),
        ),
        allowed=allowed,
        pools=coupling.pools,
    )
    return None if chosen is None else (chosen, float(cost[chosen].sum()), 0.0)


def _exact(
    options: Options, masks: _Counts, *, classes: int, coupling: Coupling, per_pool: float
) -> tuple[_Counts, float, float] | None:
    """Return the chosen options, their cost, and the gap that the solver has left."""
    if options.row.size == 0:
        return None
    cost = options.cost + per_pool
    member = (masks[options.row][None, :] >> np.arange(classes)[:, None] & 1).astype(np.float64)
    usage = coupling.usage(options.counts, options.power_w)
    limit = coupling.limit + ROUNDING * np.maximum(np.abs(coupling.limit), 1.0)
    constraints = [
        LinearConstraint(csr_array(member), 1.0, 1.0),
        LinearConstraint(csr_array(usage.T), -np.inf, limit),
    ]
    if coupling.pools is not None:
        constraints.append(LinearConstraint(np.ones((1, cost.size)), coupling.pools, coupling.pools))
    for _ in range(CUTS):
        answer = milp(
            cost,
            constraints=constraints,
            integrality=np.ones(cost.size),
            bounds=Bounds(0, 1),
            options={"time_limit": TIME_LIMIT_S, "mip_rel_gap": 0.0},
        )
        if answer.x is None:
            return None
        chosen = np.flatnonzero(answer.x > 0.5)  # noqa: PLR2004 - a binary
        if is_chain(coupling.degrees) or _fits(options, chosen, coupling):
            return chosen, float(cost[chosen].sum()), float(answer.mip_gap or 0.0)
        # Not these together: at least one of them must be another.
        row = np.zeros((1, cost.size))
        row[0, chosen] = 1.0
        constraints.append(LinearConstraint(row, -np.inf, chosen.size - 1))
    return None


def _fits(options: Options, chosen: _Counts, coupling: Coupling) -> bool:
    counts = options.counts[chosen].sum(axis=0)
    return coupling.fits({tp: int(n) for tp, n in zip(coupling.degrees, counts, strict=True) if n > 0})
