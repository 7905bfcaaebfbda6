"""What load to expect: the peak of the next epoch with an upper band, from history alone.

Several methods, from the level of the last ten minutes to a template of the week, are tried on the past and the best is
in force (``core.forecast_choice``). The band is of the sum of the classes in question: bands of single classes do not add
up. Everything is rebuilt from the history in every cycle, so a restart forgets nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.forecast_choice import Choice, ForecastQuality, choose, upper_band, upper_bands
from dynamollm.core.forecast_methods import ForecastMode, Frame, Past, Seen, Series, Template, expected, past_of
from dynamollm.core.lengths import expected_lengths
from dynamollm.core.load_series import DAY_S, LoadSeries, is_known, load_series, trusted
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.records import LEAST_RATE_PER_S, ClassLoad, ForecastSettings, Intervals, Load, LoadHistory

BACKTEST_S: Final = 3 * DAY_S
"""How far back the forecast's own misses are looked at: one day has every hour in it once."""
BACKTEST_BUCKETS: Final = 7 * 24
"""But so many buckets at least: hourly load has a week of misses."""
SHARES_S: Final = 1800.0
"""The classes' shares in their sum are those of this long."""
RECENT_S: Final = 120.0
"""What "now" means where load of now is asked for: shorter would be noise, longer would be late."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """What is worked out once for a horizon, for all sets of classes."""

    past: Past
    choice: Choice
    template: Series | None
    """[class, coarse bucket], of the method in force."""
    frame: Frame


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the history says about load to come; build it with ``outlook``."""

    band: float
    series: LoadSeries | None
    """None: nothing was ever observed."""
    lengths: dict[RequestClass, ClassLoad]
    """How long requests are by class, at rate 0."""
    prior: dict[RequestClass, float] = field(default_factory=dict)
    """Requests/s by class that is assumed at least; empty once load has been observed for long enough."""
    _fits: dict[int, _Fit] = field(default_factory=dict, compare=False, repr=False)
    """By horizon in buckets, once asked for."""

    def peak(self, classes: Iterable[RequestClass], *, horizon_s: float) -> dict[RequestClass, ClassLoad]:
        """Return the upper band of the highest load of these classes together within the horizon; absent: none."""
        return self._loads(classes, horizon_s=horizon_s, upper=True)

    def peak_of_each(self, *, horizon_s: float) -> dict[RequestClass, ClassLoad]:
        """Return the same of each class alone, by class: several times faster than one after the other."""
        rates = self._rates_of_each(horizon_s)
        return self._as_loads({c: max(rates.get(c, 0.0), self.prior.get(c, 0.0)) for c in RequestClass})

    def expected_peak(self, classes: Iterable[RequestClass], *, horizon_s: float) -> dict[RequestClass, ClassLoad]:
        """Return the same without the band: the highest load that is expected."""
        return self._loads(classes, horizon_s=horizon_s, upper=False)

    def quality(self, *, horizon_s: float) -> ForecastQuality:
        """Return the method in force for this horizon, and its own error over the past."""
        if self.series is None or not self.series.rates.any():
            return ForecastQuality(mode=ForecastMode.PRIOR, origins=0)
        return self._fit(self._buckets(self.series, horizon_s)).choice.quality

    def _loads(
        self, classes: Iterable[RequestClass], *, horizon_s: float, upper: bool
    ) -> dict[RequestClass, ClassLoad]:
        asked = frozenset(classes)
        wanted = [request_class for request_class in RequestClass if request_class in asked]
        rates = self._rates(wanted, horizon_s=horizon_s, upper=upper)
        for request_class in wanted:
            rates[request_class] = max(rates.get(request_class, 0.0), self.prior.get(request_class, 0.0))
        return self._as_loads(rates)

    def _as_loads(self, rates: dict[RequestClass, float]) -> dict[RequestClass, ClassLoad]:
        return {
            request_class: replace(self.lengths[request_class], rate_per_s=rate)
            for request_class, rate in rates.items()
            if rate >= LEAST_RATE_PER_S
        }

    def _rates(self, wanted: list[RequestClass], *, horizon_s: float, upper: bool) -> dict[RequestClass, float]:
        series = self.series
        if series is None:
            return {}
        rows = [row for row, request_class in enumerate(series.classes) if request_class in wanted]
        rates = series.rates[rows]
        shares = _shares(rates, max(1, round(SHARES_S / series.bucket_s)))
        if shares is None:
            return {}
        total = self._total(rates.sum(axis=0), rows, self._buckets(series, horizon_s), upper=upper)
        return {series.classes[row]: total * float(share) for row, share in zip(rows, shares, strict=True)}

    def _total(self, y: Series, rows: list[int], horizon: int, *, upper: bool) -> float:
        fit = self._fit(horizon)
        seen = Seen(y, fit.past)
        template = None if fit.template is None else Template(fit.template[rows].sum(axis=0), fit.frame)
        whole, method = expected(seen, template, fit.choice.method)
        now = float(whole[-1])
        return upper_band(now, whole[:-1], seen.came, band=self.band, relative=method.relative) if upper else now

    def _rates_of_each(self, horizon_s: float) -> dict[RequestClass, float]:
        series = self.series
        if series is None:
            return {}
        asked: NDArray[np.bool_] = np.any(series.rates > 0, axis=1)
        if not asked.any():
            return {}
        fit = self._fit(self._buckets(series, horizon_s))
        seen = Seen(series.rates[asked], fit.past)
        template = None if fit.template is None else Template(fit.template[asked], fit.frame)
        wholes, method = expected(seen, template, fit.choice.method)
        classes = [c for c, some in zip(series.classes, asked, strict=True) if some]
        upper = upper_bands(wholes[:, -1], wholes[:, :-1], seen.came, band=self.band, relative=method.relative).tolist()
        return dict(zip(classes, upper, strict=True))

    @staticmethod
    def _buckets(series: LoadSeries, horizon_s: float) -> int:
        return max(1, round(horizon_s / series.bucket_s))

    def _fit(self, horizon: int) -> _Fit:
        if horizon not in self._fits:
            series = self.series
            if series is None:
                raise AssertionError("no fit without a series")
            y = series.rates.sum(axis=0)
            past = past_of(
                series.known,
                first=int(np.argmax(y > 0)),
                horizon=horizon,
                bucket_s=series.bucket_s,
                longest=max(BACKTEST_BUCKETS, round(BACKTEST_S / series.bucket_s)),
            )
            seen = Seen(y, past)
            seasons, frame = series.seasons(past)
            templates = {mode: Template(season.sum(axis=0), frame) for mode, season in seasons.items()}
            choice = choose(seen, templates, band=self.band)
            template = seasons.get(choice.method.mode)
            self._fits[horizon] = _Fit(past=past, choice=choice, template=template, frame=frame)
        return self._fits[horizon]


def outlook(
    history: LoadHistory | None,
    *,
    settings: ForecastSettings,
    intervals: Intervals,
    boundaries: ClassBoundaries,
    now_s: float,
) -> Outlook:
    """Return what the history says about load to come.

    Raises:
        UnknownDataError: there is no history, it is all gaps, or its newest sample is stale or of the future.
    """
    grid = trusted(history, now_s=now_s)
    series = load_series(grid)
    lengths = {
        c: ClassLoad(0.0, *tokens, grid.brief_share.get(c, 0.0))
        for c, tokens in expected_lengths(grid, boundaries=boundaries).items()
    }
    prior: dict[RequestClass, float] = {}
    if settings.initial_rate_per_s > 0 and _observed_for_s(series) < intervals.scale_s:
        prior = {c: settings.initial_rate_per_s * share for c, share in PRIOR_SHARE.items()}
    return Outlook(band=settings.band, series=series, lengths=lengths, prior=prior)


def prior_outlook(*, settings: ForecastSettings, boundaries: ClassBoundaries) -> Outlook:
    """Return the outlook where nothing is known but ``initial_rate_per_s``."""
    return Outlook(
        band=settings.band,
        series=None,
        lengths=typical_lengths(boundaries),
        prior={c: settings.initial_rate_per_s * share for c, share in PRIOR_SHARE.items()},
    )


def recent_load(history: LoadHistory | None, *, now_s: float, boundaries: ClassBoundaries) -> Load:
    """Return the load of now: the mean of the last ``RECENT_S`` of samples, by class; a class without load is absent.

    Raises:
        UnknownDataError: there is no history, it is all gaps, or its newest sample is stale or of the future.
    """
    grid = trusted(history, now_s=now_s)
    typical = typical_lengths(boundaries)
    load: dict[RequestClass, ClassLoad] = {}
    count = max(1, round(RECENT_S / grid.step_s))
    for request_class, samples in grid.rate_per_s.items():
        recent = _last(samples, count)
        if recent and (rate := sum(recent) / len(recent)) >= LEAST_RATE_PER_S:
            load[request_class] = ClassLoad(
                rate_per_s=rate,
                input_tokens=grid.input_tokens.get(request_class, typical[request_class].input_tokens),
                output_tokens=grid.output_tokens.get(request_class, typical[request_class].output_tokens),
                brief_share=grid.brief_share.get(request_class, 0.0),
            )
    return load


def _last(samples: Sequence[float | None], count: int) -> list[float]:
    """Return the newest samples that are there, newest first."""
    found: list[float] = []
    for sample in reversed(samples):
        if is_known(sample):
            found.append(sample)
            if len(found) == count:
                break
    return found


def _shares(rates: Series, buckets: int) -> Series | None:
    """Return shares of the classes in their sum, recently, or over all where recently there was nothing; None: no load."""
    for window in (buckets, rates.shape[1]):
        sums = rates[:, -window:].sum(axis=1)
        total = float(sums.sum())
        if total > 0:
            shares: NDArray[np.float64] = sums / total
            return shares
    return None


def _observed_for_s(series: LoadSeries) -> float:
    """Time since the first request, s."""
    some = series.rates.any(axis=0)
    return float(some.size - np.argmax(some)) * series.bucket_s if some.any() else 0.0
