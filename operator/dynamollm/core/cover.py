"""The cheapest pools that cover every class once, among a few options: by depth first search with a bound.

The lowest class that is not covered yet is covered next, by every option that has it. What the rest costs at least follows from
prices on the shared limits (``core.milp``): with the few options that those leave, some dozens of partial plans are looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_LOOKS: Final = 2000
"""Partial plans, some 4 ms: then the solver is quicker."""


@dataclass(frozen=True, slots=True)
class Priced:
    """Options, and what those of a plan cost at the least with prices on the limits."""

    mask: NDArray[np.int64]
    """[option] its classes."""
    cost: NDArray[np.float64]
    """[option]"""
    priced: NDArray[np.float64]
    """[option] with the prices × what it takes of the limits, whose sum less ``credit`` no plan within them costs less than."""
    rest: NDArray[np.float64]
    """By mask: what the classes outside it cost at least, priced."""
    credit: float
    upper: float
    """No plan is asked for that costs more."""


@dataclass(slots=True)
class _Search:
    options: Priced
    allowed: Callable[[Sequence[int]], bool]
    pools: int | None
    best: tuple[int, ...] | None = None
    cost: float = 0.0
    looks: int = 0
    _of_class: list[list[tuple[int, int, float, float]]] = field(default_factory=list)
    _rest: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        o = self.options
        order = np.argsort(o.priced, kind="stable")
        columns = (order, o.mask[order], o.cost[order], o.priced[order])
        every = list(zip(*(column.tolist() for column in columns), strict=True))
        self._rest = (o.rest - o.credit).tolist()
        classes = (o.rest.size - 1).bit_length()
        self._of_class = [[one for one in every if one[1] >> bit & 1] for bit in range(classes)]
        self.cost = o.upper

    def look(self, covered: int, cost: float, priced: float, chosen: tuple[int, ...]) -> None:
        """Cover the lowest class that is not covered."""
        if covered == len(self._rest) - 1:
            if cost <= self.cost and self.pools in {None, len(chosen)} and self.allowed(chosen):
                self.best, self.cost = chosen, cost
            return
        lowest = (~covered & (covered + 1)).bit_length() - 1
        for index, mask, own, own_priced in self._of_class[lowest]:
            if mask & covered or priced + own_priced + self._rest[covered | mask] > self.cost:
                continue
            self.looks += 1
            if self.looks > MOST_LOOKS:
                return
            self.look(covered | mask, cost + own, priced + own_priced, (*chosen, index))


def least_cover(
    options: Priced, *, allowed: Callable[[Sequence[int]], bool], pools: int | None
) -> NDArray[np.int64] | None:
    """Return the options of the cheapest plan that is allowed; None: there is none, or it takes too long to know.

    Args:
        options: with their bounds.
        allowed: whether options together keep the limits.
        pools: exactly so many of them; None: any number.
    """
    search = _Search(options, allowed, pools)
    search.look(0, 0.0, 0.0, ())
    if search.best is None or search.looks > MOST_LOOKS:
        return None
    return np.array(sorted(search.best), dtype=np.int64)
