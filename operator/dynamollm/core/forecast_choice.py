"""Which method is in force, and how far above what it expects capacity is planned for: both by what it missed before.

Every method is scored on the same past origins; the one of least pinball loss in relation to the level's own is in force.
So the forecast demotes itself to the level where a season has ceased to hold, and comes back, without a state of its own.

The band is conformal: a quantile of past misses, as shares of the load or in units of its root (as the noise of counts
grows), whichever would have served better. Own loss and coverage are cross-fitted over alternating blocks of time: no
block is judged by a band that it helped to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.forecast_methods import (
    LEAST_PER_S,
    LEVELS_S,
    MIN_SCORES,
    ForecastMode,
    Method,
    Past,
    Seen,
    Series,
    Template,
    expected,
)

UNTESTED_BAND: Final = 0.2
"""Relative headroom before the forecast's own misses are known."""
UNTESTED_LEVEL_S: Final = 180.0
"""The level until then: load that begins rises."""
MIN_TEMPLATE_SCORES: Final = 24
"""A template is judged on so many origins at least: two hours of every five minutes, or one day of hours."""
HALF_LIFE_S: Final = 86_400.0
"""Misses of a day ago weigh half where methods are compared: a season that ends is noticed within hours."""
GAIN: Final = 0.05
"""Misses count as shares of the load where that lowers the loss by this share at least: less is chance."""
MAX_RELATIVE: Final = 0.5
"""Misses count as shares of the load only where they leave half of it: load from nothing has no share."""
BLOCK_S: Final = 3600.0
"""Length of the blocks for cross-fitting: each hour of a day is on either side within two hours."""
GAIN_OVER_NAIVE: Final = 0.001
"""What is better than the naive forecast by less than this share is the same but for rounding."""
_TINY: Final = 1e-9
"""Losses below this, requests/s, are rounding: constant load is forecast exactly by all."""


@dataclass(frozen=True, slots=True)
class ForecastQuality:
    """The forecast's own error over the past origins, out of sample."""

    mode: ForecastMode
    origins: int
    """How many past forecasts this is of."""
    pinball_per_s: float | None = None
    """Mean pinball loss of the upper band, requests/s; None: untested."""
    naive_pinball_per_s: float | None = None
    """The same of the naive forecast: the level with a band made in the same way."""
    coverage: float | None = None
    """Share of the peaks that came at or below the upper band; the band's quantile is the aim."""
    mape: float | None = None
    """Mean absolute error of the expected peak, relative to the peak that came; peaks of zero are left out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The method in force for one horizon, and its own error."""

    method: Method
    quality: ForecastQuality


def choose(seen: Seen, templates: Mapping[ForecastMode, Template], *, band: float) -> Choice:
    """Return the method of least pinball loss, in relation to the level's on the same origins."""
    past = seen.past
    count = past.origins.size
    if count < MIN_SCORES:
        quality = ForecastQuality(mode=ForecastMode.UNTESTED, origins=count)
        return Choice(method=Method(ForecastMode.UNTESTED, UNTESTED_LEVEL_S), quality=quality)
    judge = _Judge(peaks=seen.came, folds=_folds(past), recency=_recency(past), band=band)
    windows = sorted({past.buckets(level_s) for level_s in LEVELS_S})
    levels = [
        _Trial(seen, None, Method(ForecastMode.REACTIVE, buckets * past.bucket_s), judge=judge) for buckets in windows
    ]
    naive = min(levels, key=lambda trial: trial.loss)
    best, least = naive, 1.0 - GAIN_OVER_NAIVE
    for method in _rivals(naive.method.level_s, templates):
        trial = _Trial(seen, templates.get(method.mode), method, judge=judge)
        if not np.isfinite(trial.now) or trial.usable.sum() < min(count, MIN_TEMPLATE_SCORES):
            continue
        ratio = (trial.loss + _TINY) / (naive.loss_on(trial.usable) + _TINY)
        if ratio < least:
            best, least = trial, ratio
    return Choice(method=best.method, quality=best.quality(naive))


def _rivals(level_s: float, templates: Mapping[ForecastMode, Template]) -> list[Method]:
    """Return the methods that the level has to be better than, the simpler ones first."""
    found = [Method(ForecastMode.TREND, LEVELS_S[-1])]
    for mode in (ForecastMode.DAILY, ForecastMode.WEEKLY):
        if mode in templates:
            found += [Method(mode, level_s, scaled=scaled, weight=None) for scaled in (False, True)]
    return found


def upper_band(now: float, found: Series, peaks: Series, *, band: float, relative: bool = False) -> float:
    """Return the load that the peak stays below with the probability ``band``, requests/s."""
    usable = np.isfinite(found)
    if int(usable.sum()) < MIN_SCORES:
        return now * (1 + UNTESTED_BAND)
    some = found[None, usable], peaks[None, usable]
    return float(_above(np.array([now]), *some, band=band, relative=relative)[0])


def upper_bands(now: Series, found: Series, peaks: Series, *, band: float, relative: bool = False) -> Series:
    """Return the same of several loads, [load], of [load, origin]."""
    if np.isfinite(found).all() and found.shape[1] >= MIN_SCORES:
        return _above(now, found, peaks, band=band, relative=relative)
    rows = zip(now, found, peaks, strict=True)
    return np.array([upper_band(float(one), *past, band=band, relative=relative) for one, *past in rows])


def _above(now: Series, found: Series, peaks: Series, *, band: float, relative: bool) -> Series:
    by_root = _raised(now, _quantile(_scores(found, peaks, relative=False), band), relative=False)
    if not relative:
        return by_root
    score = _quantile(_scores(found, peaks, relative=True), band)
    return np.where(score <= MAX_RELATIVE, _raised(now, np.minimum(score, MAX_RELATIVE), relative=True), by_root)


# ------------------------------------------------------------------ trials
@dataclass(frozen=True, slots=True)
class _Judge:
    """What all methods are judged by."""

    peaks: Series
    folds: NDArray[np.bool_]
    recency: Series
    """Weights of the origins."""
    band: float


class _Trial:
    """One method on the past origins: its bands, made of the misses of the other fold, and its loss."""

    def __init__(self, seen: Seen, template: Template | None, method: Method, *, judge: _Judge) -> None:
        whole, method = expected(seen, template, method)
        found, self.now = whole[:-1], float(whole[-1])
        self.usable = np.isfinite(found)
        self._judge = judge
        self._found, self._peaks = found[self.usable], judge.peaks[self.usable]
        self._weights = judge.recency[self.usable]
        self.loss = np.inf
        self.method = method
        if not self._found.size:
            return
        for relative in (False, True):
            upper = self._upper(relative=relative)
            losses = pinball(self._peaks, upper, band=judge.band)
            loss = float(losses @ self._weights / self._weights.sum())
            if loss < self.loss * (1 - GAIN):
                self.loss, self.losses, self._uppers = loss, losses, upper
                self.method = replace(method, relative=relative)

    def _upper(self, *, relative: bool) -> Series:
        scores = _scores(self._found, self._peaks, relative=relative)
        upper = np.empty_like(self._found)
        folds = self._judge.folds[self.usable]
        for half in (folds, ~folds):
            # All of them where the other half is nearly empty.
            others = scores[~half] if int((~half).sum()) >= MIN_SCORES // 2 else scores
            score = _quantile(others, self._judge.band)
            upper[half] = _raised(
                self._found[half], np.minimum(score, MAX_RELATIVE) if relative else score, relative=relative
            )
        return upper

    def loss_on(self, origins: NDArray[np.bool_]) -> float:
        """Return the loss on these origins; all of them have to be usable."""
        return float(np.average(self.losses[origins], weights=self._weights[origins]))

    def quality(self, naive: "_Trial") -> ForecastQuality:
        """Return the error out of sample, each origin counting alike."""
        some = self._peaks > 0
        errors = np.abs(self._peaks[some] - self._found[some]) / self._peaks[some]
        return ForecastQuality(
            mode=self.method.mode,
            origins=self._peaks.size,
            pinball_per_s=float(self.losses.mean()),
            naive_pinball_per_s=float(naive.losses[self.usable].mean()),
            # A peak that is met to the last digit is covered: constant load is forecast exactly.
            coverage=float(np.mean(self._peaks <= self._uppers * (1 + 1e-9))),
            mape=float(errors.mean()) if errors.size else None,
        )


# ------------------------------------------------------------------ scores
def _scores(found: Series, peaks: Series, *, relative: bool) -> Series:
    """Return the misses as shares of the load, or in units of its root.

    A miss is judged by the load that came, not by the little that was expected: load that begins from nothing would
    otherwise count as a miss without bounds.
    """
    scale = np.maximum(np.maximum(peaks, found), LEAST_PER_S)
    scores: Series = (peaks - found) / (scale if relative else np.sqrt(scale))
    return scores


def _raised(found: Series, score: Series, *, relative: bool) -> Series:
    """Return the load x with (x - found) / x = score, or (x - found) / √x = score; never below what is expected."""
    score = np.maximum(score, 0.0)
    upper: Series = found / (1 - score) if relative else ((score + np.sqrt(score**2 + 4 * found)) / 2) ** 2
    return np.where(score > 0, upper, found)


def _quantile(scores: Series, band: float) -> Series:
    """Return the conformal quantile, [...] of [..., score]: the smallest with (n + 1) · band of them at or below it, or the largest."""
    count = scores.shape[-1]
    rank = min(count - 1, int(np.ceil((count + 1) * band)) - 1)
    quantile: Series = np.partition(scores, rank, axis=-1)[..., rank]
    return quantile


def _folds(past: Past) -> NDArray[np.bool_]:
    span = int(past.origins[-1] - past.origins[0]) + 1
    block = max(1, min(round(BLOCK_S / past.bucket_s), span // 4))
    even: NDArray[np.bool_] = (past.origins // block) % 2 == 0
    return even


def _recency(past: Past) -> Series:
    age_s = (past.origins[-1] - past.origins) * past.bucket_s
    weights: Series = np.exp2(-age_s / HALF_LIFE_S)
    return weights


def pinball(came_per_s: Series, upper: Series, *, band: float) -> Series:
    """Return the pinball (quantile) loss of each forecast, requests/s (Koenker and Bassett 1978)."""
    miss = came_per_s - upper
    losses: Series = np.where(miss >= 0, band * miss, (band - 1) * miss)
    return losses
