"""From samples to what the forecast works on: fine buckets of the last day, coarse ones of the weeks before, templates.

Samples come as ``LoadHistory``: a fine grid, and ``PastLoad`` on a coarser one for what is older. Where there is only one
grid, a long one serves as both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast_methods import ForecastMode, Frame, Past, Series
from dynamollm.core.records import LEAST_RATE_PER_S, LoadHistory

BUCKET_S: Final = 60.0
"""Load is averaged over this long before anything else: shorter bursts are the queue's business, not the planner's."""
FINE_S: Final = 74 * 3600.0
"""The last day is looked at in these buckets, and two hours more: the day's first forecasts need a level too."""
COARSE_S: Final = 300.0
"""Templates are made of means over this long: a season is foreseen to five minutes."""
SMOOTH_S: Final = 900.0
"""Templates are smoothed over this long; the weeks behind them are few, and what is narrower is chance."""
DAY_S: Final = 86_400.0
SEASONS: Final = {ForecastMode.DAILY: (DAY_S, 7), ForecastMode.WEEKLY: (7 * DAY_S, 4)}
"""Length of a season, s, and how many past ones are averaged: a week of days, so that a changed habit (or clock, by one
hour) is forgotten within it."""
STALE_S: Final = 120.0
"""The newest sample may be this old (or three steps, where that is longer) before load counts as unknown."""
AHEAD_S: Final = 300.0
"""The newest sample may be this far ahead of now, as clocks differ; beyond it one of the two is wrong."""


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """Load by class on the fine buckets, and templates of it by class on the coarse ones."""

    bucket_s: float
    classes: tuple[RequestClass, ...]
    rates: Series
    """[class, bucket], requests/s; gaps carried forward from the last value."""
    known: NDArray[np.bool_]
    """Buckets in which anything was measured."""
    coarse: Series
    """[class, bucket], requests/s, NaN in gaps; ends with the fine buckets, or up to one coarse bucket before them."""
    coarse_s: float
    lag_s: float
    """How long before the end of the fine buckets the coarse ones end."""

    def seasons(self, past: Past) -> tuple[dict[ForecastMode, Series], Frame]:
        """Return the templates [class, coarse bucket] of which there is a season, NaN: unknown, and where to look."""
        ahead = int(np.ceil((past.horizon * self.bucket_s + self.lag_s) / self.coarse_s)) + 1
        size = self.coarse.shape[1]
        back = min(int(np.ceil(self.rates.shape[1] * self.bucket_s / self.coarse_s)) + 2, size)
        frame = Frame(
            past=past, coarse_s=self.coarse_s, offset=back - 0.5 + self.lag_s / self.coarse_s, size=back + ahead
        )
        lengths = {mode: (round(season_s / self.coarse_s), most) for mode, (season_s, most) in SEASONS.items()}
        lengths = {mode: (season, most) for mode, (season, most) in lengths.items() if ahead < season < size}
        if not lengths:
            return {}, frame
        known = (~np.isnan(self.coarse)).astype(np.float64)
        filled = np.nan_to_num(self.coarse, nan=0.0)
        found = {
            mode: _seasonal(filled, known, season=season, most=most, back=back, ahead=ahead, width=self._width)
            for mode, (season, most) in lengths.items()
        }
        if ForecastMode.WEEKLY in found:
            weekly = found[ForecastMode.WEEKLY]
            found[ForecastMode.WEEKLY] = np.where(np.isnan(weekly), found[ForecastMode.DAILY], weekly)
        return found, frame

    @property
    def _width(self) -> int:
        return max(1, round(SMOOTH_S / self.coarse_s))


def load_series(history: LoadHistory) -> LoadSeries:
    """Average onto buckets that end at the newest sample.

    A class without any sample has no series in the source, which is how a counter looks that never counted: no load.
    """
    classes = tuple(c for c in RequestClass if c in history.rate_per_s)
    samples = _stacked(history.rate_per_s, classes)
    bucket_s, means = bucket_means(samples, history.step_s, BUCKET_S)
    known: NDArray[np.bool_] = np.any(np.isfinite(means), axis=0)
    first = int(np.argmax(known))
    means, known = means[:, first:], known[first:]
    if history.past is None:
        coarse_s, coarse = bucket_means(means, bucket_s, COARSE_S)
        lag_s = 0.0
    else:
        coarse = _stacked(history.past.rate_per_s, classes)
        coarse_s, lag_s = history.past.step_s, history.end_s - history.past.end_s
    longest = max(int(FINE_S / bucket_s), 1) if coarse_s > bucket_s else means.shape[1]
    return LoadSeries(
        bucket_s=bucket_s,
        classes=classes,
        rates=_carried(means)[:, -longest:],
        known=known[-longest:],
        coarse=coarse,
        coarse_s=coarse_s,
        lag_s=lag_s,
    )


def trusted(history: LoadHistory | None, *, now_s: float) -> LoadHistory:
    """Return the history if its newest sample is fresh enough to act on.

    Raises:
        UnknownDataError: there is no history, it is all gaps, or its newest sample is stale or of the future.
    """
    if history is None:
        raise UnknownDataError("load is unknown: its source gave no answer; check Prometheus and the router's metrics")
    newest = max((_newest(samples) for samples in history.rate_per_s.values()), default=-1)
    if newest < 0:
        raise UnknownDataError("load is unknown: its history is all gaps; check that Prometheus scrapes the router")
    length = len(next(iter(history.rate_per_s.values())))
    age_s = now_s - (history.end_s - (length - 1 - newest) * history.step_s)
    limit_s = max(STALE_S, 3 * history.step_s)
    if age_s > limit_s:
        # The age itself would make another message of every cycle.
        raise UnknownDataError(
            f"load is unknown: its newest sample is over {limit_s:.0f} s old; check that Prometheus scrapes the router"
        )
    if age_s < -max(AHEAD_S, history.step_s):
        raise UnknownDataError(
            "load is unknown: its newest sample is of the future; check the clocks of Prometheus and of the operator"
        )
    return history


def is_known(sample: float | None) -> TypeGuard[float]:
    """Return whether a sample is one, and no gap."""
    return sample is not None and not isnan(sample)


def _newest(samples: Sequence[float | None]) -> int:
    """Return the index of the newest sample that is there, or -1."""
    for age, sample in enumerate(reversed(samples)):
        if is_known(sample):
            return len(samples) - 1 - age
    return -1


def _stacked(samples: Mapping[RequestClass, Sequence[float | None]], classes: Sequence[RequestClass]) -> Series:
    """Return the samples [class, step], NaN in gaps; 0.0 where they are as good as none."""
    stacked = np.stack([np.asarray(samples[request_class], dtype=np.float64) for request_class in classes])
    return np.where(stacked < LEAST_RATE_PER_S, 0.0, stacked)


def bucket_means(samples: Series, step_s: float, bucket_s: float) -> tuple[float, Series]:
    """Return the length of buckets that hold whole steps and end with the last, and their means; NaN: all gaps."""
    per_bucket = max(1, round(bucket_s / step_s))
    if per_bucket == 1:
        return step_s, samples
    padding = -samples.shape[1] % per_bucket
    padded = np.pad(samples, ((0, 0), (padding, 0)), constant_values=np.nan)
    blocks = padded.reshape(samples.shape[0], -1, per_bucket)
    count = (~np.isnan(blocks)).sum(axis=2)
    means: Series = np.where(count > 0, np.nansum(blocks, axis=2) / np.maximum(count, 1), np.nan)
    return per_bucket * step_s, means


def _carried(means: Series) -> Series:
    """Carry the last value over gaps; before the first value there was none."""
    if not np.isnan(means).any():
        return means
    index = np.where(np.isnan(means), -1, np.arange(means.shape[1]))
    index = np.maximum.accumulate(index, axis=1)
    carried: Series = np.where(index >= 0, np.take_along_axis(means, np.maximum(index, 0), axis=1), 0.0)
    return carried


def _seasonal(filled: Series, known: Series, *, season: int, most: int, back: int, ahead: int, width: int) -> Series:
    """Return the mean of the same time of past seasons, for the last ``back`` coarse buckets and ``ahead`` more.

    Every value is of what was a whole season before at least, less half the smoothing: nobody looks ahead.
    """
    size, half = filled.shape[1], width // 2
    total = np.zeros((filled.shape[0], back + ahead + 2 * half))
    count = np.zeros_like(total)
    for number in range(1, most + 1):
        begin = size - back - half - number * season
        end = min(begin + total.shape[1], size)
        if end <= 0:
            break
        from_, at = slice(max(begin, 0), end), slice(max(begin, 0) - begin, end - begin)
        total[:, at] += filled[:, from_]
        count[:, at] += known[:, from_]
    if half:
        total, count = _running_sum(total, 2 * half + 1), _running_sum(count, 2 * half + 1)
    template: Series = np.where(count > 0, total / np.maximum(count, 1.0), np.nan)
    return template


def _running_sum(x: Series, width: int) -> Series:
    """Return the sums of so many neighbours, as many fewer values as that takes."""
    size = x.shape[1] - width + 1
    sums = x[:, :size].copy()
    for shift in range(1, width):
        sums += x[:, shift : shift + size]
    return sums
