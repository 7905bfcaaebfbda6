"""What a pool adds to its instances: each request goes to the least loaded one, so that bursts spread over all of them.

An instance alone has to keep the SLO when several requests happen to come at once. Of n instances behind a router that gives
each request to the one with the fewest inside, each sees nearly even arrivals, and carries 1 + g · (1 - 1/n) times as much.
Simulation of 107 random mixes at n = 3, 8 and 20 (as in ``hack/calibrate_pools.py``) shows that form to hold for all of them,
and g to depend on little but the mean batch B of the instance alone: g = a · (1 + B)^-b, since relative fluctuations of a
batch shrink with its size. No balancing makes an instance quicker, though: where prompts keep it busy already, that is the limit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.records import Order, SloRule
from dynamollm.core.steptable import Floats

SAFETY: Final = 0.12
"""Natural logarithm of what is taken off the gain that fits best."""

_FCFS, _EDF = Order.FIRST_COME_FIRST_SERVED, Order.EARLIEST_DEADLINE_FIRST
_ATT, _P99, _X5 = SloRule.PER_REQUEST, SloRule.PER_CLASS_PERCENTILE, SloRule.FIVE_TIMES_ALONE

_CHUNKED: Final[Mapping[tuple[Order, SloRule], tuple[float, float]]] = {
    (_FCFS, _ATT): (0.70, 0.55),
    (_FCFS, _X5): (0.58, 0.59),
    (_FCFS, _P99): (0.58, 0.59),
    (_EDF, _ATT): (0.74, 0.66),
    (_EDF, _X5): (0.59, 0.60),
    (_EDF, _P99): (0.59, 0.66),
}
"""ln a and b, for engines that chunk prompts; PerClassPercentile was not simulated and takes the smaller gain of the two."""
_WHOLE: Final[Mapping[SloRule, tuple[float, float]]] = {_ATT: (0.90, 0.67), _X5: (1.20, 0.90), _P99: (0.90, 0.90)}
"""The same for whole prompts, where the order of service hardly matters."""


MOST_BUSY: Final = 0.9
"""Share of an instance's time that prompts fill at most, however evenly they come."""

_ROUNDING: Final = 1e-6
"""By how much of itself a capacity is less than what would make one instance fewer enough."""


def gain(batch: Floats, *, busy: Floats, chunked: bool, order: Order, rule: SloRule, routers: int = 1) -> Floats:
    """Return what instances of an endless pool carry beyond one alone, as a share of that.

    Args:
        batch: mean requests that decode, of an instance alone at its capacity.
        busy: share of its time that prompts fill then.
        chunked: whether prompts are made in chunks.
        order: of service.
        rule: of the SLO.
        routers: in front of the pool.
    """
    logarithm, power = _CHUNKED[order, rule] if chunked else _WHOLE[rule]
    share: Floats = left_by(routers) * math.exp(logarithm - SAFETY) * (1 + batch) ** -power
    return np.minimum(share, np.maximum(MOST_BUSY / np.maximum(busy, MOST_BUSY / 100) - 1, 0.0))


def left_by(routers: int) -> float:
    """Return which share of the gain several routers leave: none knows of the others' requests.

    Simulated behind 2, 4 and 8 routers (as in ``hack/calibrate_pools.py``), small batches lose the most, and of theirs this
    is what is left; of large ones, which gain little, nearly all is.
    """
    return 1 / (2 * routers - 1)


@dataclass(frozen=True, slots=True)
class Capacities:
    """What instances carry within the SLO, alone and in pools; the arrays have one shape."""

    alone_per_s: Floats
    """Requests/s; 0.0: not even one request alone keeps the SLO."""
    gain: Floats

    def at(self, index: tuple[int, ...] | int) -> "Capacities":
        """Return some of them: at one index, or the last along all others."""
        place = index if isinstance(index, tuple) else (..., index)
        return Capacities(self.alone_per_s[place], self.gain[place])

    def less(self, reserve: float) -> "Capacities":
        """Return what is left of them where so many times the load must be carried."""
        return Capacities(self.alone_per_s / reserve, self.gain)

    def in_pool(self, instances: Floats | int) -> Floats:
        """Return what each of so many instances carries, requests/s."""
        each: Floats = self.alone_per_s * (1 + self.gain * (1 - 1 / np.maximum(instances, 1)))
        return each

    def fewest(self, rate_per_s: Floats | float) -> Floats:
        """Return how many instances carry a rate; infinite where none do."""
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.ceil((rate_per_s / self.alone_per_s + self.gain) / (1 + self.gain) * (1 - 1e-12))
        fewest: Floats = np.where(self.alone_per_s > 0, np.maximum(count, 1.0), np.inf)
        return fewest

    def carrying(self, rate_per_s: Floats | float) -> Floats:
        """Return what each instance carries of the smallest pool that carries a rate, requests/s.

        Never so much that one instance fewer would seem to do: each of those would carry less.
        """
        fewest = self.fewest(rate_per_s)
        others = np.where(np.isfinite(fewest), fewest - 1, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(others > 0, rate_per_s / others * (1 - _ROUNDING), np.inf)
        return np.minimum(self.in_pool(fewest), most)
