"""What a pool adds to its instances: each request goes to the least loaded one, so that bursts spread over all of them.

An instance alone has to keep the SLO when several requests happen to come at once. Of n instances behind a router that gives
each request to the one with the fewest inside, each sees nearly even arrivals, and carries 1 + g · (n - 1) / (n - 1 + h) times
as much. What an endless pool's carry more, g, has two bounds, and simulation of random mixes at n = 3, 8 and 20
(``hack/calibrate_pools.py``) finds them to add up as resistances do, 1/g = 1/e + 1/f: even arrivals are worth the less the larger
the mean batch B is, whose relative fluctuations shrink with its size, e = a · (1 + B)^-b; and no balancing makes an instance
carry more than with its batch always full, f.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.records import Order, SloRule
from dynamollm.core.steptable import Floats

SAFETY: Final = 0.12
"""Natural logarithm of what is taken off the gain that fits best."""

_FCFS, _EDF = Order.FIRST_COME_FIRST_SERVED, Order.EARLIEST_DEADLINE_FIRST
_ATT, _P99, _X5 = SloRule.PER_REQUEST, SloRule.PER_CLASS_PERCENTILE, SloRule.FIVE_TIMES_ALONE

_LEAST_FULL: Final = 1e-9
"""Less is none."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What ``hack/calibrate_pools.py`` finds for an order of service and a rule."""

    logarithm: float
    """ln a"""
    power: float
    """b"""
    half_at: float
    """h"""

    def gain(self, batch: Floats, full: Floats) -> Floats:
        """Return the gain that fits best, behind one router; see ``gain``."""
        even = math.exp(self.logarithm) * (1 + batch) ** -self.power
        share: Floats = 1 / (1 / even + 1 / np.maximum(full, _LEAST_FULL))
        return share


_CHUNKED: Final[Mapping[tuple[Order, SloRule], Fit]] = {
    (_FCFS, _ATT): Fit(2.11, 0.59, 2.2),
    (_FCFS, _X5): Fit(1.76, 0.70, 1.6),
    (_FCFS, _P99): Fit(1.76, 0.70, 2.2),
    (_EDF, _ATT): Fit(2.31, 0.74, 2.1),
    (_EDF, _X5): Fit(1.76, 0.72, 1.5),
    (_EDF, _P99): Fit(1.76, 0.72, 2.1),
}
"""For engines that chunk prompts. PerClassPercentile was not simulated, and takes what gives less of the other two."""
_WHOLE: Final[Mapping[SloRule, Fit]] = {
    _ATT: Fit(2.06, 0.00, 2.7),
    _X5: Fit(1.54, 0.40, 1.7),
    _P99: Fit(1.54, 0.40, 2.7),
}
"""The same for whole prompts, where the order of service hardly matters."""

_COUNTING: Final = 1e-9
"""Of instances: what more than a whole number is rounding."""
_ROUNDING: Final = 1e-6
"""By how much of itself a capacity is less than what would make one instance fewer enough."""


def gain(
    batch: Floats, *, full: Floats, chunked: bool, order: Order, rule: SloRule, routers: int = 1
) -> tuple[Floats, float]:
    """Return what instances of an endless pool carry beyond one alone, as a share of that, and with how many others half of it is there.

    Args:
        batch: mean requests that decode, of an instance alone at its capacity.
        full: what it carries beyond that with its batch always full, as a share of it.
        chunked: whether prompts are made in chunks.
        order: of service.
        rule: of the SLO.
        routers: in front of the pool.
    """
    fit = _CHUNKED[order, rule] if chunked else _WHOLE[rule]
    return left_by(routers) * math.exp(-SAFETY) * fit.gain(batch, full), fit.half_at


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
    half_at: float
    """With so many others a pool's instances have half of the gain."""

    def at(self, index: tuple[int, ...] | int | NDArray[np.int64]) -> "Capacities":
        """Return some of them: at one index, or of the last along all others."""
        place = index if isinstance(index, tuple) else (..., index)
        return Capacities(self.alone_per_s[place], self.gain[place], self.half_at)

    def shaped(self, *shape: int) -> "Capacities":
        """Return the same in another shape."""
        return replace(self, alone_per_s=self.alone_per_s.reshape(shape), gain=self.gain.reshape(shape))

    def less(self, reserve: float, *, pooled: float = 1.0) -> "Capacities":
        """Return what is left of them where so many times the load must be carried; of endless pools ``pooled`` times as much.

        Below 1 there is more in company, and one alone is still not asked for more than it carries.
        """
        alone, pooled = max(1.0, reserve), pooled * min(1.0, reserve)
        return replace(self, alone_per_s=self.alone_per_s / alone, gain=(1 + self.gain) / pooled - 1)

    def in_pool(self, instances: Floats | int) -> Floats:
        """Return what each of so many instances carries, requests/s."""
        each: Floats = self.alone_per_s * self.times_alone(instances)
        return each

    def times_alone(self, instances: Floats | int) -> Floats:
        """Return how many times what one alone does each of so many instances carries."""
        others = np.maximum(instances, 1) - 1
        times: Floats = 1 + self.gain * (1 - self.half_at / (others + self.half_at))
        return times

    def fewest(self, rate_per_s: Floats | float) -> Floats:
        """Return how many instances carry a rate; infinite where none do."""
        return np.ceil(self.parts(rate_per_s) * (1 - _COUNTING))

    def parts(self, rate_per_s: Floats | float) -> Floats:
        """Return the same in parts of instances, at least one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            asked = rate_per_s / self.alone_per_s
            # (m + 1) · (1 + gain · m / (m + half)) = asked, with m others
            most = 1 + self.gain
            linear = most + self.half_at - asked
            others = (np.sqrt(linear**2 + 4 * most * self.half_at * np.maximum(asked - 1, 0.0)) - linear) / (2 * most)
        parts: Floats = np.where(self.alone_per_s > 0, np.maximum(1 + others, 1.0), np.inf)
        return parts

    def carrying(self, rate_per_s: Floats | float) -> Floats:
        """Return what each instance carries of the smallest pool that carries a rate, requests/s.

        Never so much that one instance fewer would seem to do: each of those would carry less.
        """
        fewest = self.fewest(rate_per_s)
        others = np.where(np.isfinite(fewest), fewest - 1, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(others > 0, rate_per_s / others * (1 - _ROUNDING), np.inf)
        return np.minimum(self.in_pool(fewest), most)
