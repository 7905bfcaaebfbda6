"""The forecast's own error is the one that came out when it was asked again and again, and so is the naive forecast's."""

import numpy as np
import pytest
from decision_world import history

import bench_forecast as bench
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.forecast import outlook
from dynamollm.core.forecast_methods import ForecastMode
from dynamollm.core.records import ForecastSettings, Intervals

MM = RequestClass.MM
NOW_S = 1_000_000.0


@pytest.mark.parametrize("per_s", [5.0, 50.0])
def test_the_error_that_is_told_is_that_of_two_days_of_forecasts(per_s: float) -> None:
    trace = bench.generated(seed=1, per_s=per_s)
    came = {one.method: one for one in bench.score(trace, ("ours", "last value"))}
    told = bench.look(trace.values, trace.step_s).quality(horizon_s=trace.horizon * trace.step_s)
    assert told.pinball_per_s is not None
    assert told.naive_pinball_per_s is not None
    # Of other hours, and the method was chosen on the same past: a little less than what comes.
    assert told.pinball_per_s == pytest.approx(0.9 * came["ours"].pinball_per_s, rel=0.25)
    assert told.naive_pinball_per_s == pytest.approx(0.9 * came["last value"].pinball_per_s, rel=0.25)
    assert told.naive_pinball_per_s > 1.2 * told.pinball_per_s
    assert told.coverage == pytest.approx(came["ours"].coverage, abs=0.1)
    assert told.mape == pytest.approx(came["ours"].mape, rel=0.25)


def test_the_mean_error_is_that_of_every_origin() -> None:
    walk = np.exp(np.cumsum(np.random.default_rng(4).normal(0.0, 0.1, 200)))
    look = outlook(
        history({MM: walk.tolist()}, end_s=NOW_S),
        settings=ForecastSettings(),
        intervals=Intervals(),
        boundaries=ClassBoundaries(),
        now_s=NOW_S,
    )
    quality = look.quality(horizon_s=300.0)
    peaks = np.array([walk[origin + 1 : origin + 6].max() for origin in range(1, 195)])
    assert (quality.mode, quality.origins) == (ForecastMode.REACTIVE, peaks.size)
    # A walk is best expected where it is: the level of the last minute.
    assert quality.mape == pytest.approx(np.mean(np.abs(peaks - walk[1:195]) / peaks))


def test_hours_that_were_not_measured_are_no_misses_and_no_hits() -> None:
    rng = np.random.default_rng(5)
    rates = (rng.poisson(300, 600) / 60.0).tolist()
    holed = [*rates[:200], *[None] * 200, *rates[400:]]

    def quality(samples: list[float | None]) -> tuple[int, float | None]:
        load = history({MM: samples}, end_s=NOW_S)
        look = outlook(
            load, settings=ForecastSettings(), intervals=Intervals(), boundaries=ClassBoundaries(), now_s=NOW_S
        )
        found = look.quality(horizon_s=300.0)
        return found.origins, found.pinball_per_s

    whole, with_hole = quality(rates), quality(holed)
    # Every second minute is looked at, and the gap is a third of them.
    assert with_hole[0] == pytest.approx(whole[0] * 2 / 3, abs=4)
    assert whole[1] is not None
    assert with_hole[1] == pytest.approx(whole[1], rel=0.2)
