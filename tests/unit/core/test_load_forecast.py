"""Peaks with a band from histories of known shape, and what counts as unknown."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from decision_world import constant, history

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast import Outlook, outlook, prior_outlook, recent_load
from dynamollm.core.priors import PRIOR_SHARE
from dynamollm.core.records import ForecastSettings, Intervals, LoadHistory
from dynamollm.core.sizing import rate_per_s

MM, LL = RequestClass.MM, RequestClass.LL
NOW_S = 1_000_000.0
DAY = 1440


def look(load: LoadHistory | None, *, initial_rate_per_s: float = 0.0, band: float = 0.95) -> Outlook:
    return outlook(
        load,
        settings=ForecastSettings(band=band, initial_rate_per_s=initial_rate_per_s),
        intervals=Intervals(),
        boundaries=ClassBoundaries(),
        now_s=NOW_S,
    )


def peak(samples: Sequence[float | None], *, horizon_s: float = 1800.0, band: float = 0.95) -> float:
    load = look(history({MM: samples}, end_s=NOW_S), band=band).peak([MM], horizon_s=horizon_s)
    return rate_per_s(load)


def test_constant_load_forecasts_itself_once_its_steadiness_is_known() -> None:
    assert peak([5.0] * 60) == pytest.approx(5.0)
    assert peak([5.0] * 3) == pytest.approx(6.0)


def test_true_zero_forecasts_zero() -> None:
    assert look(constant({MM: 0.0}, end_s=NOW_S)).peak([MM], horizon_s=1800.0) == {}
    assert peak([5.0] * 100 + [0.0] * 200, horizon_s=300.0) == pytest.approx(0.0, abs=1e-9)


def test_load_that_begins_from_nothing_is_no_miss_without_bounds() -> None:
    # Ten minutes before the first request, then ten minutes of 5/s with noise: once this forecast 100/s.
    begun = [0.0] * 10 + [2.0, 4.0, 5.5, 4.5, 5.0, 5.5, 4.5, 5.0, 5.5, 4.5]
    assert 5.0 <= peak(begun, horizon_s=600.0) <= 12.0


def test_a_night_without_load_does_not_blow_up_the_day_after() -> None:
    assert peak([5.0] * 120 + [0.0] * 240 + [5.0] * 60, horizon_s=600.0) <= 20.0


def test_a_rising_trend_is_extrapolated_and_a_falling_one_is_not() -> None:
    rising = [5.0 + 0.05 * i for i in range(60)]
    assert peak(rising) >= rising[-1] + 0.05 * 30
    assert peak([10.0 - 0.05 * i for i in range(60)]) <= 10.0


def test_noise_without_trend_shows_none() -> None:
    rng = np.random.default_rng(1)
    assert peak((rng.poisson(300, 180) / 60.0).tolist()) == pytest.approx(5.0, rel=0.25)


@pytest.mark.parametrize("band", [0.5, 0.8, 0.95])
def test_the_band_covers_the_peaks_to_come_as_often_as_it_says(band: float) -> None:
    covered = []
    for seed in range(60):
        samples = (np.random.default_rng(seed).poisson(300, 240) / 60.0).tolist()
        covered.append(peak(samples[:-30], band=band) >= max(samples[-30:]))
    # Peaks of one history overlap, so fewer independent misses are known than scores: some slack below.
    assert np.mean(covered) >= band - 0.15
    assert np.mean(covered) <= band + 0.2 or band > 0.8


def test_a_daily_season_is_foreseen_where_the_trend_could_not() -> None:
    def rate(minute: int) -> float:
        return 10.0 if minute % DAY >= 480 else 2.0

    before_step = 2 * DAY + 470
    samples = [rate(minute) for minute in range(before_step)]
    assert peak(samples, horizon_s=1800.0) == pytest.approx(10.0, rel=0.15)
    assert peak(samples[:470], horizon_s=1800.0) < 3.0


def test_a_weekly_season_beats_a_daily_one() -> None:
    def rate(minute: int) -> float:
        weekend = (minute // DAY) % 7 >= 5
        return 1.0 if weekend else 5.0 + 4.0 * math.sin(minute / DAY * 2 * math.pi)

    to_monday = [rate(minute) for minute in range(14 * DAY + 300)]
    assert peak(to_monday, horizon_s=1800.0) == pytest.approx(rate(14 * DAY + 330), rel=0.2)


def test_the_band_of_a_sum_is_not_the_sum_of_bands() -> None:
    rng = np.random.default_rng(3)
    load = look(history({c: (rng.poisson(60, 180) / 60.0).tolist() for c in RequestClass}, end_s=NOW_S))
    together = rate_per_s(load.peak(RequestClass, horizon_s=1800.0))
    alone = sum(rate_per_s(load.peak([c], horizon_s=1800.0)) for c in RequestClass)
    assert 9.0 < together < alone


def test_gaps_are_bridged() -> None:
    samples: list[float | None] = [5.0] * 100
    for gap in (*range(20, 40), 77):
        samples[gap] = None
    assert peak(samples) == pytest.approx(5.0)


def test_finer_samples_are_averaged_to_minutes() -> None:
    rng = np.random.default_rng(5)
    fine = look(history({MM: (rng.poisson(75, 240) / 15.0).tolist()}, end_s=NOW_S, step_s=15.0))
    assert fine.series is not None
    assert fine.series.bucket_s == 60.0
    assert fine.series.rates.shape == (1, 60)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (None, "no answer"),
        (history({MM: [None, None]}, end_s=NOW_S), "all gaps"),
        (constant({MM: 1.0}, end_s=NOW_S - 181), "over 180 s old"),
        (history({MM: [1.0, None, None, None, None], LL: [None] * 5}, end_s=NOW_S), "over 180 s old"),
    ],
)
def test_unknown_is_not_zero(load: LoadHistory | None, words: str) -> None:
    with pytest.raises(UnknownDataError, match=words):
        look(load)
    with pytest.raises(UnknownDataError, match=words):
        recent_load(load, now_s=NOW_S, boundaries=ClassBoundaries())


def test_recent_load_is_the_mean_of_two_minutes_and_leaves_out_what_is_not_there() -> None:
    load = history({MM: [9.0, 1.0, 3.0], LL: [4.0, 0.0, 0.0]}, end_s=NOW_S)
    recent = recent_load(load, now_s=NOW_S, boundaries=ClassBoundaries())
    assert {c: part.rate_per_s for c, part in recent.items()} == {MM: 2.0}


def test_the_prior_is_a_floor_until_a_scale_interval_has_been_seen() -> None:
    young = look(constant({MM: 4.0}, end_s=NOW_S, samples=20), initial_rate_per_s=2.0)
    load = young.peak(RequestClass, horizon_s=1800.0)
    assert load[MM].rate_per_s == pytest.approx(4.0, rel=0.25)
    assert load[RequestClass.SS].rate_per_s == pytest.approx(2.0 * PRIOR_SHARE[RequestClass.SS])
    old = look(constant({MM: 4.0}, end_s=NOW_S, samples=30), initial_rate_per_s=2.0)
    assert set(old.peak(RequestClass, horizon_s=1800.0)) == {MM}


def test_the_prior_alone_is_the_expected_rate() -> None:
    alone = prior_outlook(settings=ForecastSettings(initial_rate_per_s=2.0), boundaries=ClassBoundaries())
    assert rate_per_s(alone.peak(RequestClass, horizon_s=60.0)) == pytest.approx(2.0)
