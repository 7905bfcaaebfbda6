"""What holds of every forecast: never negative, wider for a higher band, the same after a restart, unknown is no zero."""

from dataclasses import replace

import numpy as np
import pytest
from decision_world import history
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bench_forecast as bench
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast import Outlook, outlook, recent_load
from dynamollm.core.forecast_methods import ForecastMode
from dynamollm.core.past_load import PastLoad
from dynamollm.core.records import ForecastSettings, Intervals, LoadHistory
from dynamollm.core.sizing import rate_per_s

MM, SS = RequestClass.MM, RequestClass.SS
NOW_S = 100 * 86_400.0
HORIZON_S = 1800.0
DAY = 1440
SEASONAL = (ForecastMode.DAILY, ForecastMode.WEEKLY)

samples = st.lists(st.one_of(st.none(), st.floats(0.0, 1e4)), min_size=1, max_size=200)


def look(load: LoadHistory, *, band: float = 0.95, now_s: float = NOW_S) -> Outlook:
    return outlook(
        load,
        settings=ForecastSettings(band=band),
        intervals=Intervals(),
        boundaries=ClassBoundaries(),
        now_s=now_s,
    )


def peak(load: LoadHistory, *, band: float = 0.95) -> float:
    return rate_per_s(look(load, band=band).peak(RequestClass, horizon_s=HORIZON_S))


def days(count: float, *, seed: int = 0, per_s: float = 10.0, shift_minutes: int = 0) -> NDArray[np.float64]:
    minutes = np.arange(int(count * DAY)) + shift_minutes
    shape = per_s * (1 + 0.8 * np.sin(2 * np.pi * minutes / DAY))
    values: NDArray[np.float64] = np.random.default_rng(seed).poisson(shape * 60) / 60
    return values


def told(values: NDArray[np.float64]) -> LoadHistory:
    """As the adapter gives it: three days by the minute, what is older by five."""
    return replace(bench.history_of({MM: values}, 60.0), end_s=NOW_S) if values.size <= 4440 else shifted(values)


def shifted(values: NDArray[np.float64]) -> LoadHistory:
    load = bench.history_of({MM: values}, 60.0)
    assert load.past is not None
    ahead_s = NOW_S - load.end_s
    return replace(load, end_s=NOW_S, past=replace(load.past, end_s=load.past.end_s + ahead_s))


@given(samples)
@settings(max_examples=60, deadline=None)
def test_never_negative_and_never_below_what_is_expected(load: list[float | None]) -> None:
    told_of = history({MM: [*load, 1.0]}, end_s=NOW_S)
    middle = rate_per_s(look(told_of).expected_peak(RequestClass, horizon_s=HORIZON_S))
    assert np.isfinite(middle)
    assert peak(told_of) >= middle * (1 - 1e-9)


@pytest.mark.parametrize("count", [0.1, 2.5, 9.0])
def test_a_higher_band_plans_for_more(count: float) -> None:
    load = told(days(count))
    peaks = [peak(load, band=band) for band in (0.5, 0.8, 0.95, 0.99)]
    assert peaks == sorted(peaks)


@given(st.sets(st.integers(0, 298), max_size=200))
@settings(max_examples=40, deadline=None)
def test_gaps_change_nothing_where_load_does_not(gaps: set[int]) -> None:
    load = history({MM: [None if i in gaps else 5.0 for i in range(300)]}, end_s=NOW_S)
    assert peak(load) == pytest.approx(5.0)


@pytest.mark.parametrize("mode", [None, "nan"])
def test_a_scrape_in_ten_that_is_lost_and_a_day_without_prometheus_leave_the_season(mode: str | None) -> None:
    whole = days(15.0)
    holed = whole.copy()
    holed[np.random.default_rng(1).random(holed.size) < 0.1] = np.nan
    holed[10 * DAY : 11 * DAY] = np.nan
    load = told(holed)
    if mode is None:
        gaps = sum(x is not None and np.isnan(x) for x in load.rate_per_s[MM])
        assert gaps > 0
        load = replace(
            load, rate_per_s={MM: tuple(None if x is None or np.isnan(x) else x for x in load.rate_per_s[MM])}
        )
    assert look(load).quality(horizon_s=HORIZON_S).mode in SEASONAL
    assert peak(load) == pytest.approx(peak(told(whole)), rel=0.1)


@pytest.mark.parametrize("prior", [{}, {RequestClass.LL: 0.5}])
@pytest.mark.parametrize("count", [0.01, 0.3, 3.0, 15.0])
def test_classes_alone_are_forecast_alike_together_and_one_by_one(
    count: float, prior: dict[RequestClass, float]
) -> None:
    load, other = told(days(count)), told(days(count, seed=1, per_s=0.4))
    load = replace(load, rate_per_s={**load.rate_per_s, SS: other.rate_per_s[MM]})
    if load.past is not None and other.past is not None:
        past = replace(load.past, rate_per_s={**load.past.rate_per_s, SS: other.past.rate_per_s[MM]})
        load = replace(load, past=past)
    ahead = replace(look(load), prior=prior)
    expected = {c: part for c in RequestClass for part in ahead.peak([c], horizon_s=HORIZON_S).values()}
    assert {MM, SS, *prior} == set(expected)
    assert ahead.peak_of_each(horizon_s=HORIZON_S) == expected


def test_a_restart_forgets_nothing() -> None:
    load = told(days(15.0))
    first, again = look(load), look(load)
    # One that has been asked for much else before.
    for request_class in RequestClass:
        first.peak([request_class], horizon_s=300.0)
    for classes in ([MM], list(RequestClass)):
        assert first.peak(classes, horizon_s=HORIZON_S) == again.peak(classes, horizon_s=HORIZON_S)
    assert first.quality(horizon_s=HORIZON_S) == again.quality(horizon_s=HORIZON_S)


def test_weeks_by_five_minutes_serve_as_well_as_weeks_by_the_minute() -> None:
    values = days(15.0)
    by_minute = history({MM: values.tolist()}, end_s=NOW_S)
    assert peak(told(values)) == pytest.approx(peak(by_minute), rel=0.02)


WARM_UP = [
    # days of history, modes that may be in force
    (1 / DAY, {ForecastMode.UNTESTED}),
    (0.02, {ForecastMode.UNTESTED, ForecastMode.REACTIVE}),
    (0.2, {ForecastMode.REACTIVE, ForecastMode.TREND}),
    (2.3, {ForecastMode.DAILY}),
    (14.3, {ForecastMode.DAILY, ForecastMode.WEEKLY}),
]


@pytest.mark.parametrize(("count", "modes"), WARM_UP)
def test_it_works_from_the_first_minute_and_learns_the_season(count: float, modes: set[ForecastMode]) -> None:
    quality = look(told(days(count))).quality(horizon_s=HORIZON_S)
    assert quality.mode in modes
    assert peak(told(days(count))) > 0


def test_it_demotes_itself_where_the_season_ends_and_comes_back() -> None:
    seasonal = days(6.0)
    flat = np.random.default_rng(7).poisson(10.0 * 60, 2 * DAY) / 60
    without = np.concatenate([seasonal, flat])
    back = np.concatenate([without, days(5.0)])
    assert look(told(seasonal)).quality(horizon_s=HORIZON_S).mode is ForecastMode.DAILY
    lost = look(told(without)).quality(horizon_s=HORIZON_S)
    assert lost.mode not in SEASONAL
    assert lost.pinball_per_s is not None
    assert lost.naive_pinball_per_s is not None
    assert lost.pinball_per_s <= lost.naive_pinball_per_s
    assert look(told(back)).quality(horizon_s=HORIZON_S).mode in SEASONAL


def test_a_clock_change_of_an_hour_costs_little() -> None:
    # People come an hour earlier by the operator's clock from one day on: daylight saving.
    before, after = days(10.0), days(2.0, seed=3, shift_minutes=60)
    values = np.concatenate([before, after])
    for cut in (10 * DAY + 60, 10 * DAY + 420, 11 * DAY + 420):
        to_come = float(values[cut : cut + 30].max())
        assert to_come * 0.8 <= peak(told(values[:cut])) <= to_come * 1.6


FUTURE = [(0.0, False), (200.0, False), (400.0, True), (86_400.0, True)]


@pytest.mark.parametrize(("ahead_s", "unknown"), FUTURE)
def test_samples_of_the_future_are_unknown(ahead_s: float, unknown: bool) -> None:  # noqa: FBT001 - a table
    load = history({MM: [5.0] * 60}, end_s=NOW_S + ahead_s)
    if not unknown:
        assert recent_load(load, now_s=NOW_S, boundaries=ClassBoundaries())
        return
    for ask in (lambda: look(load), lambda: recent_load(load, now_s=NOW_S, boundaries=ClassBoundaries())):
        with pytest.raises(UnknownDataError, match="of the future"):
            ask()


@given(st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_gaps_alone_stay_unknown_whatever_was_weeks_ago(count: int) -> None:
    past = PastLoad(end_s=NOW_S, step_s=300.0, rate_per_s={MM: (5.0,) * 4000})
    for gap in (None, float("nan")):
        load = replace(history({MM: [gap] * count}, end_s=NOW_S), past=past)
        with pytest.raises(UnknownDataError, match="all gaps"):
            look(load)


def test_coverage_and_error_are_what_came_out() -> None:
    quality = look(told(days(5.0, per_s=50.0))).quality(horizon_s=HORIZON_S)
    assert quality.origins > 100
    assert quality.coverage is not None
    assert quality.mape is not None
    assert 0.85 <= quality.coverage <= 1.0
    assert 0.0 < quality.mape < 0.15


# ------------------------------------------------------------------ against the naive ones
SHORT_TIE = 1.02
"""An hour of minutes has no season and little past: what is in force is the last value itself, most of the time."""


def assert_least(trace: bench.Trace) -> None:
    loss = {one.method: one.pinball_per_s for one in bench.score(trace)}
    slack = SHORT_TIE if trace.values.size * trace.step_s < bench.DAY_S else 1.0
    for method in ("last value", "seasonal naive"):
        assert loss["ours"] < slack * loss[method], loss


def test_it_beats_the_naive_forecasts_on_generated_weeks() -> None:
    trace = bench.generated()
    assert_least(replace(trace, origins=trace.origins[::3]))


@pytest.mark.skipif(not bench.TRACES.is_dir(), reason="../shared/data/traces is absent")
@pytest.mark.parametrize("name", [one.name for one in bench.real()])
def test_it_beats_the_naive_forecasts_on_real_traces(name: str) -> None:
    (trace,) = [one for one in bench.real() if one.name == name]
    assert_least(trace)
