"""How a peak is expected: from the level, with a trend, or with a template of the day or of the week.

Every method is a function of the past alone, and is worked out for many past origins at once, so that what it would have
said can be compared with what came.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Series: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

LEVELS_S: Final = (60.0, 180.0, 600.0)
"""The level is the mean over one of these: the longest has a third of a minute's σ, the shortest is never late."""
TREND_S: Final = 1800.0
"""The trend is fitted over this long (the paper's epoch), but over ``TREND_BUCKETS`` at least."""
TREND_BUCKETS: Final = 5
"""Fewer points than this make no line."""
TREND_SIGNIFICANCE: Final = 3.0
"""A slope below this many standard errors is noise: at 3, fewer than one fit in 700 of thirty points sees a trend in none."""
MAX_GROWTH: Final = 0.5
"""A trend adds at most this share of the level: what grows by more is left to the emergency path, not extrapolated."""
MAX_ORIGINS: Final = 300
"""So many past origins are scored: every five minutes of a day."""
PRIOR_ORIGINS: Final = 10.0
"""How many origins the belief weighs that a deviation from the template lasts through the horizon."""
LEAST_PER_S: Final = 1.0 / 60.0
"""Loads below one request a minute are judged as if they were that."""
MIN_SCORES: Final = 8
"""Below this many misses their quantile means nothing, and ``UNTESTED_BAND`` stands in."""


class ForecastMode(StrEnum):
    """The method in force; ``status.forecast.mode`` and a metric show it (docs/decisions.md)."""

    PRIOR = "Prior"
    """No load was observed yet: ``initialRequestsPerMinute``."""
    UNTESTED = "Untested"
    """The level, with a fixed headroom: there is too little history to judge any method."""
    REACTIVE = "Reactive"
    """The level: the naive forecast, which every other has to beat."""
    TREND = "Trend"
    """The level and a significant trend upwards."""
    DAILY = "Daily"
    """A template of the last days, and how far the level is from it."""
    WEEKLY = "Weekly"
    """A template of the last weeks, and how far the level is from it."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a peak is expected, and in which units misses are counted."""

    mode: ForecastMode
    level_s: float
    """The level is the mean over this long."""
    scaled: bool = False
    """The template is scaled to the level; else the difference is added to it."""
    weight: float | None = 1.0
    """Share of the level's deviation from the template that is expected to last; None: to be fitted to the past."""
    relative: bool = False
    """Misses are shares of the load; else they are in units of its root."""


@dataclass(frozen=True)
class Past:
    """The past origins of one horizon: where a forecast can be compared with what came."""

    origins: Indices
    """Buckets that are "now" of a past forecast, oldest first."""
    last: int
    """The newest bucket: now."""
    reach: int
    """Buckets that each origin looks ahead: the horizon, or what a short history has."""
    horizon: int
    bucket_s: float

    @cached_property
    def at(self) -> Indices:
        """The origins, and now."""
        return np.append(self.origins, self.last)

    @cached_property
    def _edges(self) -> Indices:
        return np.stack([self.origins + 1, self.origins + 1 + self.reach], axis=1).ravel()

    def maxima(self, y: Series) -> Series:
        """Return the peak that came after each origin, [..., origin] of [..., bucket]."""
        if not self.origins.size:
            return np.zeros((*y.shape[:-1], 0))
        # Every second segment is a window, what is between them is not looked at; the last may end with the series.
        series = np.concatenate([y, y[..., -1:]], axis=-1)
        maxima: Series = np.maximum.reduceat(series, self._edges, axis=-1)[..., ::2]
        return maxima

    def buckets(self, seconds: float) -> int:
        """Return so many seconds in whole buckets, one at least."""
        return max(1, round(seconds / self.bucket_s))


def past_of(known: NDArray[np.bool_], *, first: int, horizon: int, bucket_s: float, longest: int) -> Past:
    """Return the origins at which something was measured, and in at least half of the buckets ahead.

    Args:
        known: buckets in which anything was measured.
        first: the first bucket with load: what was before says nothing at all.
        horizon: how many buckets a forecast looks ahead.
        bucket_s: length of a bucket.
        longest: so many buckets are looked back on at most.
    """
    last = known.size - 1
    reach = min(horizon, max(1, (last - first) // 2))
    begin = max(first + 1, last - reach - longest + 1)
    stride = max(1, -(-(last - reach - begin + 1) // MAX_ORIGINS))
    origins = np.arange(last - reach, begin - 1, -stride, dtype=np.int64)[::-1]
    if origins.size:
        seen = np.concatenate([[0], np.cumsum(known)])
        ahead = seen[origins + 1 + reach] - seen[origins + 1]
        origins = origins[known[origins] & (2 * ahead >= reach)]
    return Past(origins=origins, last=last, reach=reach, horizon=horizon, bucket_s=bucket_s)


@dataclass(frozen=True)
class Seen:
    """The load of some classes together, or of several such sets, and what methods take from it."""

    y: Series
    """Requests/s, [..., bucket]."""
    past: Past

    @cached_property
    def came(self) -> Series:
        """The peak that came after each origin, [..., origin]."""
        return self.past.maxima(self.y)

    @cached_property
    def _sums(self) -> Series:
        *sets, buckets = self.y.shape
        sums = np.zeros((*sets, buckets + 1))
        np.cumsum(self.y, axis=-1, out=sums[..., 1:])
        return sums

    def level(self, level_s: float) -> Series:
        """Return the mean of the last so many seconds at each origin and now, of fewer at the start."""
        end = self.past.at + 1
        start = np.maximum(end - self.past.buckets(level_s), 0)
        # Differences of long sums: where nothing came they may be some 1e-13 below zero.
        means: Series = np.maximum(self._sums[..., end] - self._sums[..., start], 0.0) / (end - start)
        return means

    def trend(self) -> Series:
        """Return the slope per bucket at each origin and now, 0 where it is not significant or history is too short."""
        buckets = max(TREND_BUCKETS, self.past.buckets(TREND_S))
        at = self.past.at
        found = np.zeros((*self.y.shape[:-1], at.size))
        long_enough = at >= buckets - 1
        if not long_enough.any():
            return found
        x = np.arange(buckets) - (buckets - 1) / 2
        spread = float(x @ x)
        windows = sliding_window_view(self.y, buckets, axis=-1)[..., at[long_enough] - (buckets - 1), :]
        slope = windows @ x / spread
        residual = np.maximum(windows.var(axis=-1) * buckets - slope**2 * spread, 0.0)
        error = np.sqrt(residual / (buckets - 2) / spread)
        found[..., long_enough] = np.where(np.abs(slope) > TREND_SIGNIFICANCE * error, slope, 0.0)
        return found


@dataclass(frozen=True, slots=True)
class Samples:
    """Where a coarse series is looked at, between the middles of its buckets."""

    low: Indices
    high: Indices
    part: Series
    """Weight of ``high``; NaN: before the series began."""

    @classmethod
    def at(cls, positions: Series, *, size: int) -> "Samples":
        """Return the samples at these positions, in buckets of a series of this many."""
        low = np.clip(np.floor(positions).astype(np.int64), 0, size - 1)
        part = np.clip(positions - low, 0.0, 1.0)
        high = np.where(part > 0, np.minimum(low + 1, size - 1), low)
        return cls(low=low, high=high, part=np.where(positions < -1, np.nan, part))

    def of(self, x: Series) -> Series:
        """Return the values there."""
        low = x[..., self.low]
        values: Series = low + self.part * (x[..., self.high] - low)
        return values


@dataclass(frozen=True)
class Frame:
    """Where a template is looked at for the origins of one horizon: ahead of them, and where their levels are taken."""

    past: Past
    coarse_s: float
    """Length of the template's buckets."""
    offset: float
    """Position of the end of the newest fine bucket, in the template's buckets from the middle of its first."""
    size: int
    """So many buckets the template has."""

    def _samples(self, fine: Series) -> Samples:
        """Return samples at the middles of fine buckets, counted from the first."""
        ends = (fine + 0.5 - self.past.last - 1) * self.past.bucket_s / self.coarse_s
        return Samples.at(ends + self.offset, size=self.size)

    def _steps(self, buckets: int) -> Series:
        """Return which of the buckets ahead are looked at: one for each of the template's, and the last."""
        stride = max(1, int(self.coarse_s / self.past.bucket_s))
        return np.unique(np.append(np.arange(1, buckets + 1, stride), buckets)).astype(np.float64)

    @cached_property
    def _ahead(self) -> Samples:
        return self._samples(self.past.origins[:, None] + self._steps(self.past.reach))

    @cached_property
    def _ahead_of_now(self) -> Samples:
        return self._samples(self.past.last + self._steps(self.past.horizon))

    @cached_property
    def _levels(self) -> dict[int, Samples]:
        return {}

    def ahead(self, template: Series) -> Series:
        """Return the highest value ahead of each origin and of now."""
        highest = self._ahead.of(template).max(axis=-1), self._ahead_of_now.of(template).max(axis=-1, keepdims=True)
        return np.concatenate(highest, axis=-1)

    def level(self, template: Series, level_s: float) -> Series:
        """Return the value in the middle of what the level is the mean of, at each origin and now."""
        buckets = self.past.buckets(level_s)
        if buckets not in self._levels:
            self._levels[buckets] = self._samples((self.past.at - (buckets - 1) / 2).astype(np.float64))
        return self._levels[buckets].of(template)


@dataclass(frozen=True, slots=True)
class Template:
    """The season of some classes together, and where it is looked at."""

    values: Series
    """Requests/s, [..., coarse bucket]; NaN: unknown."""
    frame: Frame


def expected(seen: Seen, template: Template | None, method: Method) -> tuple[Series, Method]:
    """Return the peak that a method expected at each past origin and that it expects now, [..., origin], and its fitted self."""
    past = seen.past
    level = seen.level(method.level_s)
    if template is None:
        if method.mode is ForecastMode.TREND:
            ahead = np.append(np.full(past.origins.size, past.reach), past.horizon)
            lag = (past.buckets(method.level_s) - 1) / 2
            growth = np.maximum(seen.trend(), 0.0) * (lag + ahead)
            level = level + np.minimum(growth, MAX_GROWTH * level)
        return level, method
    frame, values, target = template.frame, template.values, seen.came
    peaks, usual = frame.ahead(values), frame.level(values, method.level_s)
    if method.scaled:
        peaks, usual, level, target = (np.log(np.maximum(x, LEAST_PER_S)) for x in (peaks, usual, level, target))
    away = level - usual
    weight = _weight(away[..., :-1], target - peaks[..., :-1]) if method.weight is None else method.weight
    whole = peaks + weight * away
    whole = np.exp(whole) if method.scaled else np.maximum(whole, 0.0)
    return whole, replace(method, weight=weight)


def _weight(away: Series, left: Series) -> float:
    """Return how much of a deviation from the template lasts, 0 to 1: ridge regression towards all of it.

    What is left of the peak beyond the template has a mean of its own (a peak is above the mean): that is the band's.
    """
    usable = np.isfinite(away) & np.isfinite(left)
    if int(usable.sum()) < MIN_SCORES:
        return 1.0
    x, y = away[usable] - away[usable].mean(), left[usable] - left[usable].mean()
    spread = float(x @ x)
    prior = PRIOR_ORIGINS * spread / x.size
    return min(1.0, max(0.0, (float(x @ y) + prior) / (spread + prior))) if spread > 0 else 1.0
