"""Tokens of the requests to come: the level where nothing else is known, templates where they have missed less."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bench_lengths as bench
from bench_forecast import TRACES
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.forecast import outlook
from dynamollm.core.lengths import expected_lengths
from dynamollm.core.past_load import PastLengths
from dynamollm.core.priors import typical_lengths
from dynamollm.core.records import ForecastSettings, Intervals, LoadHistory

MM, LL = RequestClass.MM, RequestClass.LL
DAY = 48
"""Half hours."""
HALF_HOUR_S = 1800.0
NOW_S = 100 * 86_400.0

Values = NDArray[np.float64]


def told(samples: Sequence[float | None], *, level: float | None = None, lag_s: float = 0.0) -> LoadHistory:
    """Return a history with these mean output tokens of class MM by the half hour; the newest one is the level."""
    newest = samples[-1] if level is None else level
    return LoadHistory(
        end_s=NOW_S,
        step_s=60.0,
        rate_per_s={MM: (1.0,) * 60},
        input_tokens={MM: 600.0},
        output_tokens={} if newest is None or not newest > 0 else {MM: newest},
        lengths=PastLengths(
            end_s=NOW_S - lag_s, step_s=HALF_HOUR_S, input_tokens={}, output_tokens={MM: tuple(samples)}
        ),
    )


def expected(history: LoadHistory, request_class: RequestClass = MM) -> float:
    return expected_lengths(history, boundaries=ClassBoundaries())[request_class][1]


def lengths(count: int, tokens: Callable[[int], float], *, noise: float = 0.05, seed: int = 0) -> list[float | None]:
    """Return half hours that end now, at a midnight unless ``tokens`` says otherwise."""
    draw = np.random.default_rng(seed)
    return [tokens(index) * float(np.exp(draw.normal(0.0, noise))) for index in range(count)]


def by_day_and_night(index: int) -> float:
    return 100.0 if index % DAY < DAY / 2 else 300.0


def test_without_any_the_typical_ones_are_expected() -> None:
    nothing = replace(told([None] * 10), input_tokens={}, output_tokens={})
    found = expected_lengths(nothing, boundaries=ClassBoundaries())
    assert found == {
        c: (part.input_tokens, part.output_tokens) for c, part in typical_lengths(ClassBoundaries()).items()
    }


@pytest.mark.parametrize("samples", [[], [120.0], [120.0] * DAY, lengths(2 * DAY - 30, by_day_and_night)])
def test_before_there_is_a_season_to_judge_the_level_is_expected(samples: list[float | None]) -> None:
    assert expected(told(samples, level=250.0)) == 250.0


@pytest.mark.parametrize("days", [3, 8, 15])
def test_the_step_from_night_to_day_is_foreseen(days: int) -> None:
    noon = days * DAY + DAY // 2
    assert expected(told(lengths(noon, by_day_and_night))) == pytest.approx(300.0, rel=0.15)
    # Half way into the last half hour of the night, the past ends with the one before.
    early = lengths(noon, by_day_and_night)[:-1]
    between = expected(told(early, level=100.0, lag_s=HALF_HOUR_S / 2))
    assert between == pytest.approx(200.0, rel=0.15)


@pytest.mark.parametrize(("day", "tokens_at_noon"), [(19, 100.0), (21, 300.0)])
def test_weekends_are_told_from_working_days(day: int, tokens_at_noon: float) -> None:
    def tokens(index: int) -> float:
        return 100.0 if (index // DAY) % 7 >= 5 else by_day_and_night(index)

    noon = lengths(day * DAY + DAY // 2, tokens, noise=0.02)
    assert expected(told(noon)) == pytest.approx(tokens_at_noon, rel=0.15)


def test_noise_without_a_season_is_averaged_away() -> None:
    misses = []
    for seed in range(30):
        samples = lengths(8 * DAY, lambda _index: 200.0, noise=0.2, seed=seed)
        misses.append((abs(expected(told(samples)) - 200.0), abs(float(samples[-1] or 0) - 200.0)))
    ours, level = np.mean(misses, axis=0)
    assert ours < 0.7 * level


def test_a_season_that_ends_is_no_longer_believed() -> None:
    samples = lengths(8 * DAY, by_day_and_night) + lengths(3 * DAY, lambda _index: 100.0, seed=1)
    noon = samples + lengths(DAY // 2, lambda _index: 100.0, seed=2)
    assert expected(told(noon)) == pytest.approx(100.0, rel=0.15)


def test_lengths_that_change_for_good_are_followed_at_once() -> None:
    samples = lengths(8 * DAY, by_day_and_night) + lengths(10, lambda _index: 1000.0)
    assert expected(told(samples)) == pytest.approx(1000.0, rel=0.3)
    settled = lengths(8 * DAY, by_day_and_night) + lengths(2 * DAY, lambda _index: 1000.0)
    assert expected(told(settled)) == pytest.approx(1000.0, rel=0.1)


def test_an_hour_of_daylight_saving_costs_little() -> None:
    samples = lengths(10 * DAY, by_day_and_night)
    later = samples + [by_day_and_night(index + 2) for index in range(DAY // 2 - 2)]
    # The first noon comes an hour early, and is not foreseen; half an hour later it is known.
    assert expected(told(later)) >= 90.0
    assert expected(told([*later, 300.0])) >= 250.0


@pytest.mark.parametrize("lag_s", [-1.0, 2 * HALF_HOUR_S, 86_400.0])
def test_a_past_that_is_not_of_now_says_nothing(lag_s: float) -> None:
    noon = lengths(8 * DAY + DAY // 2, by_day_and_night)
    assert expected(told(noon, level=100.0, lag_s=lag_s)) == 100.0


def test_a_class_that_nobody_asked_lately_has_the_lengths_of_its_hour() -> None:
    noon: list[float | None] = lengths(8 * DAY + DAY // 2, by_day_and_night)
    noon[-3:] = [0.0, None, float("nan")]
    assert expected(told(noon)) == pytest.approx(300.0, rel=0.15)
    assert expected(told(noon), LL) == pytest.approx(typical_lengths(ClassBoundaries())[LL].output_tokens)


def test_lost_half_hours_and_a_day_without_prometheus_leave_the_season() -> None:
    noon: list[float | None] = lengths(10 * DAY + DAY // 2, by_day_and_night)
    draw = np.random.default_rng(1)
    holed = [None if draw.random() < 0.2 else one for one in noon[:-1]] + [noon[-1]]
    holed[5 * DAY : 6 * DAY] = [float("nan")] * DAY
    assert expected(told(holed)) == pytest.approx(300.0, rel=0.15)


def test_plans_are_told_the_lengths_to_come() -> None:
    noon = told(lengths(8 * DAY + DAY // 2, by_day_and_night))
    look = outlook(noon, settings=ForecastSettings(), intervals=Intervals(), boundaries=ClassBoundaries(), now_s=NOW_S)
    assert look.peak([MM], horizon_s=1800.0)[MM].output_tokens == pytest.approx(300.0, rel=0.15)


@given(
    st.lists(st.one_of(st.none(), st.just(0.0), st.floats(0.5, 1e5)), max_size=200),
    st.one_of(st.none(), st.floats(1.0, 1e5)),
    st.floats(0.0, 4000.0),
)
@settings(max_examples=80, deadline=None)
def test_there_is_always_a_length_and_never_beyond_reason(
    samples: list[float | None], level: float | None, lag_s: float
) -> None:
    history = told([*samples, 1.0], lag_s=lag_s)
    history = replace(history, output_tokens={} if level is None else {MM: level})
    found = expected(history)
    known = [one for one in (*samples, 1.0, level, 225.0) if one]
    assert np.isfinite(found)
    # A template moves with the level: no further than both are apart.
    assert min(known) ** 2 / max(known) * (1 - 1e-9) <= found <= max(known) ** 2 / min(known) * (1 + 1e-9)


# ------------------------------------------------------------------ against the naive ones
@pytest.mark.skipif(not TRACES.is_dir(), reason="../shared/data/traces is absent")
def test_it_beats_the_naive_forecasts_where_there_is_a_week_and_is_the_level_before() -> None:
    for one in bench.series(TRACES):
        scores = {score.method: score for score in bench.score(one)}
        ours, rest = scores.pop("ours"), list(scores.values())
        if one.step_s < HALF_HOUR_S:
            level = scores["last half hour"]
            assert ours.input_pinball_tokens == level.input_pinball_tokens
            assert ours.output_pinball_tokens == level.output_pinball_tokens
            continue
        assert ours.input_pinball_tokens < min(other.input_pinball_tokens for other in rest), one.name
        assert ours.output_pinball_tokens < min(other.output_pinball_tokens for other in rest), one.name
