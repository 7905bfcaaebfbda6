"""How many tokens requests will have: the mean lengths of each class in the half hour to come.

Lengths have seasons where a service is asked for different things by day and by night, and where they have none, the mean
of the same time of many days has less noise than one half hour. So, as for rates, the level and templates of the day and of
the week are scored on the same past, and what missed less is in force, for every class and for inputs and outputs apart.
There is no band: capacity is planned for the expected length of the band of the rate.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.forecast_choice import GAIN, HALF_LIFE_S, MIN_TEMPLATE_SCORES
from dynamollm.core.forecast_methods import PRIOR_ORIGINS, Series
from dynamollm.core.load_series import DAY_S, SEASONS
from dynamollm.core.past_load import PastLengths
from dynamollm.core.priors import typical_lengths
from dynamollm.core.records import LoadHistory

BACKTEST_S: Final = 4 * DAY_S
"""How far back misses are looked at; with their half-life, those before would hardly count."""
MAX_LAG: Final = 2.0
"""The past ends with the last whole step; where it ends so many steps before now, it was not renewed and says nothing."""
USUAL: Final = 3.0
"""What is further from the template than so many root mean squares of the past is no noise, and lasts whole beyond that."""
LEAST_TOKENS: Final = 0.5
"""A mean below this is none: a request has a token at least."""

_SIDES: Final = 2  # inputs and outputs


def expected_lengths(history: LoadHistory, *, boundaries: ClassBoundaries) -> dict[RequestClass, tuple[float, float]]:
    """Return the mean input and output tokens of the requests to come, by class; typical ones where none were seen."""
    found = _now(history)
    if history.lengths is not None:
        found = _forecast(found, history.lengths, end_s=history.end_s)
    typical = np.array([[part.input_tokens, part.output_tokens] for part in typical_lengths(boundaries).values()])
    tokens = np.where(np.isnan(found), typical.T.ravel(), found).reshape(_SIDES, -1).tolist()
    return dict(zip(RequestClass, zip(*tokens, strict=True), strict=True))


def _now(history: LoadHistory) -> Series:
    """Return the means of the last half hour, [inputs of all classes, then outputs]; NaN: none."""
    sides = (history.input_tokens, history.output_tokens)
    return np.array([side.get(c, np.nan) for side in sides for c in RequestClass], dtype=np.float64)


def _forecast(level: Series, past: PastLengths, *, end_s: float) -> Series:
    """Return what is expected instead of the level; the level where no template is better."""
    lag = (end_s - past.end_s) / past.step_s
    samples = _stacked(past)
    back = min(round(BACKTEST_S / past.step_s), samples.shape[1] - 1)
    if not (back > 0 and 0 <= lag < MAX_LAG):
        return level
    newest = samples[:, -back - 1 :]
    seen = _Seen(tokens=newest, logarithms=np.log(newest), recency=_recency(back, step_s=past.step_s))
    best, least = level, np.full(level.size, np.inf)
    for season_s, most in SEASONS.values():
        season = round(season_s / past.step_s)
        if not season < samples.shape[1]:
            continue
        one = _trial(_template(samples, season=season, most=most, back=back), seen)
        # Where nobody asked lately, the template is all there is.
        found = np.where(np.isnan(level), one.at(lag + 1), one.expected(level, lag))
        better = np.isfinite(found) & (np.isnan(level) & np.isnan(best) | (one.ratio < np.minimum(least, 1 - GAIN)))
        best, least = np.where(better, found, best), np.where(better, one.ratio, least)
    return best


def _stacked(past: PastLengths) -> Series:
    """Return the samples [inputs of all classes, then outputs; step], NaN where there are none."""
    size = max((len(one) for side in (past.input_tokens, past.output_tokens) for one in side.values()), default=0)
    none = (None,) * size
    sides = (past.input_tokens, past.output_tokens)
    stacked = np.array([side.get(c, none) for side in sides for c in RequestClass], dtype=np.float64)
    return np.where(stacked >= LEAST_TOKENS, stacked, np.nan)


def _recency(origins: int, *, step_s: float) -> Series:
    """Return the weights of origins, oldest first."""
    weights: Series = np.exp2(-np.arange(origins)[::-1] * step_s / HALF_LIFE_S)
    return weights


def _template(samples: Series, *, season: int, most: int, back: int) -> Series:
    """Return the means of the same time of past seasons: for the last ``back`` + 1 samples, and for the steps to come."""
    size = samples.shape[1]
    width = back + 1 + int(MAX_LAG) + 1
    known = np.isfinite(samples)
    filled = np.where(known, samples, 0.0)
    total, count = np.zeros((samples.shape[0], width)), np.zeros((samples.shape[0], width))
    for number in range(1, most + 1):
        begin = size - back - 1 - number * season
        end = min(begin + width, size)
        if end <= 0:
            break
        from_, at = slice(max(begin, 0), end), slice(max(begin, 0) - begin, end - begin)
        total[:, at] += filled[:, from_]
        count[:, at] += known[:, from_]
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


# ------------------------------------------------------------------ trials
@dataclass(frozen=True, slots=True)
class _Seen:
    """The samples that misses are looked at on: each is an origin, but for the newest, and what came after the one before."""

    tokens: Series
    """[class and side, step]."""
    logarithms: Series
    recency: Series
    """Weights of the origins."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A template with the share of a deviation from it that lasts."""

    template: Series
    """[class and side, step], from the first origin to what is to come."""
    newest: int
    """The step of the newest sample."""
    weight: Series
    """Share of a usual deviation that lasts, [class and side]."""
    usual: Series
    """The largest usual deviation, in logarithms, [class and side]."""
    ratio: Series
    """Its loss over the level's, [class and side]; infinite where it cannot be judged."""

    def at(self, steps: float) -> Series:
        """Return the template so many steps after the newest sample."""
        low, part = int(steps), steps % 1
        found: Series = self.template[:, self.newest + low]
        return found if part == 0 else found + part * (self.template[:, self.newest + low + 1] - found)

    def expected(self, level: Series, lag: float) -> Series:
        """Return what is expected one step ahead of a level that is so many steps after the newest sample."""
        away = np.log(level / self.at(lag))
        found: Series = self.at(lag + 1) * np.exp(_lasting(away, self.weight, self.usual))
        return found


def _lasting(away: Series, weight: Series, usual: Series) -> Series:
    """Return what of deviations from a template will be there in the next step, in logarithms."""
    within = np.clip(away, -usual, usual)
    found: Series = weight * within + (away - within)
    return found


def _trial(template: Series, seen: _Seen) -> _Trial:
    origins = seen.recency.size
    logarithms = np.log(template[:, : origins + 1])
    apart = seen.logarithms - logarithms
    usable: NDArray[np.bool_] = np.isfinite(apart)
    usable = usable[:, :-1] & usable[:, 1:]
    weights = np.where(usable, seen.recency, 0.0)
    away, left = np.where(usable, apart[:, :-1], 0.0), np.where(usable, apart[:, 1:], 0.0)
    # Ridge regression towards a deviation that lasts. Through nothing: what is off for long stays so.
    spread = (weights * away**2).sum(axis=1)
    mean_square = spread / np.maximum(weights.sum(axis=1), 1.0)
    prior = PRIOR_ORIGINS * mean_square
    some = spread > 0
    weight = ((weights * away * left).sum(axis=1) + prior) / np.where(some, spread + prior, 1.0)
    weight = np.where(some, np.clip(weight, 0.0, 1.0), 1.0)
    usual = USUAL * np.sqrt(mean_square)
    found = template[:, 1 : origins + 1] * np.exp(_lasting(away, weight[:, None], usual[:, None]))
    came = seen.tokens[:, 1:]
    missed = (weights * np.where(usable, np.abs(found - came), 0.0)).sum(axis=1)
    naive = (weights * np.where(usable, np.abs(seen.tokens[:, :-1] - came), 0.0)).sum(axis=1)
    judged = (usable.sum(axis=1) >= MIN_TEMPLATE_SCORES) & (naive > 0)
    ratio = np.where(judged, missed / np.where(naive > 0, naive, 1.0), np.inf)
    return _Trial(template=template, newest=origins, weight=weight, usual=usual, ratio=ratio)
