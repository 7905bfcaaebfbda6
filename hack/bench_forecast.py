"""``make bench-forecast``: pinball loss of the forecast against the naive ones, and how long it takes.

Rolling origin: each forecast knows the series up to its origin and nothing else, and is compared with the peak that came
within the horizon. The naive methods get a band too, made of their own past misses in the very same way; without one
they would be no match. Real traces come from ``../shared/data/traces``; where that is absent they are left out, and the
table says so. A second table is of lengths (``bench_lengths``). ``BENCH_OUT=FILE`` gets the figures as JSON.
"""

import csv
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import bench_lengths
from bench_lengths import LengthScore
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.forecast import BACKTEST_BUCKETS, BACKTEST_S, Outlook, outlook
from dynamollm.core.forecast_choice import pinball, upper_band
from dynamollm.core.forecast_methods import past_of
from dynamollm.core.past_load import PastLoad
from dynamollm.core.records import ForecastSettings, Intervals, LoadHistory
from lab.figures import record
from lab.paths import REPOSITORY

TRACES: Final = REPOSITORY.parent / "shared/data/traces"
BAND: Final = ForecastSettings().band
MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
FINE_S: Final = 74 * HOUR_S
"""What the operator asks Prometheus for by the minute; weeks before come by five minutes."""
SEED: Final = 20240513
WEEKEND: Final = 5
"""Day of the week that it begins with."""

Values: TypeAlias = NDArray[np.float64]
Forecast: TypeAlias = tuple[float, float]
"""Expected peak and its upper band, requests/s."""
Method: TypeAlias = Callable[[Values, float, int], Forecast]
"""From the past, the length of its steps, and the steps ahead."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A series and where it is forecast."""

    name: str
    values: Values
    """Requests/s by step."""
    step_s: float
    horizon: int
    """Steps ahead."""
    origins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did on one series."""

    trace: str
    method: str
    pinball_per_s: float
    coverage: float
    mape: float
    fit_ms: float
    """Median processor time of one forecast, from the samples."""


# ------------------------------------------------------------------ methods
def ours(past: Values, step_s: float, horizon: int) -> Forecast:
    """Forecast as the operator does."""
    one = look(past, step_s)
    upper = one.peak([RequestClass.MM], horizon_s=horizon * step_s)
    middle = one.expected_peak([RequestClass.MM], horizon_s=horizon * step_s)
    return tuple(sum(part.rate_per_s for part in load.values()) for load in (middle, upper))  # type: ignore[return-value]


def look(past: Values, step_s: float) -> Outlook:
    """Return the outlook on a series as if it were all of one class."""
    return outlook(
        history_of({RequestClass.MM: past}, step_s),
        settings=ForecastSettings(band=BAND),
        intervals=Intervals(),
        boundaries=ClassBoundaries(),
        now_s=past.size * step_s,
    )


def history_of(series: dict[RequestClass, Values], step_s: float) -> LoadHistory:
    """Return series as the adapter gives them: the last day as it is, older by five minutes."""
    size = len(next(iter(series.values())))
    fine = round(FINE_S / step_s)
    per = round(300.0 / step_s)
    older = None
    if step_s < HOUR_S and size > fine and per > 1:
        whole = size // per * per
        older = PastLoad(
            end_s=whole * step_s,
            step_s=per * step_s,
            rate_per_s={c: tuple(one[:whole].reshape(-1, per).mean(axis=1).tolist()) for c, one in series.items()},
        )
    rates = {c: tuple(one[-fine:].tolist() if older else one.tolist()) for c, one in series.items()}
    return LoadHistory(
        end_s=size * step_s, step_s=step_s, rate_per_s=rates, input_tokens={}, output_tokens={}, past=older
    )


def last_value(past: Values, step_s: float, horizon: int) -> Forecast:
    """Expect the last value, with a band of its own misses."""
    return _banded(past, past, step_s, horizon, first=0, now=float(past[-1]))


def seasonal_naive(past: Values, step_s: float, horizon: int) -> Forecast:
    """Expect the peak of the same time a week ago, or a day ago where there is no week; the last value in the first day."""
    for season_s in (WEEK_S, DAY_S):
        season = round(season_s / step_s)
        # Misses of an hour at least, or nothing is known about them.
        if past.size > season + horizon + max(8, round(HOUR_S / step_s)):
            peaks = np.full(past.size, np.nan)
            origins = np.arange(season - 1, past.size)
            peaks[origins] = sliding_window_view(past, horizon)[origins - season + 1].max(axis=1)
            return _banded(past, peaks, step_s, horizon, first=season - 1, now=float(peaks[-1]))
    return last_value(past, step_s, horizon)


def _banded(past: Values, points: Values, step_s: float, horizon: int, *, first: int, now: float) -> Forecast:
    known = np.ones(past.size, dtype=np.bool_)
    longest = max(BACKTEST_BUCKETS, round(BACKTEST_S / step_s))
    origins = past_of(known, first=first, horizon=horizon, bucket_s=step_s, longest=longest)
    return now, upper_band(now, points[origins.origins], origins.maxima(past), band=BAND)


METHODS: Final[dict[str, Method]] = {"ours": ours, "last value": last_value, "seasonal naive": seasonal_naive}


# ------------------------------------------------------------------ series
def generated(*, seed: int = SEED, days: int = 16, per_s: float = 20.0) -> Trace:
    """Return days and weeks with noise of counts and slow disturbances, forecast half-hourly on the last two days."""
    minutes = np.arange(days * 1440)
    day, week = 2 * np.pi * minutes / 1440, (minutes // 1440) % 7
    shape = 1 + 0.6 * np.sin(day - 2.2) + 0.2 * np.sin(2 * day)
    shape *= np.where(week >= WEEKEND, 0.5, 1.0)
    values = counts(per_s * shape, np.random.default_rng(seed))
    size = values.size
    return Trace("generated weeks, by minute", values, MINUTE_S, 30, tuple(range(size - 2880, size - 30, 30)))


def counts(per_s: Values, rng: np.random.Generator, *, disturbance: float = 0.05) -> Values:
    """Return Poisson counts by minute as requests/s, of a rate with disturbances that last an hour or so."""
    slow = np.zeros(per_s.size)
    keep = np.exp(-MINUTE_S / HOUR_S)
    kicks = rng.normal(0.0, disturbance * np.sqrt(1 - keep**2), per_s.size)
    for index in range(1, per_s.size):
        slow[index] = keep * slow[index - 1] + kicks[index]
    return rng.poisson(np.maximum(per_s * np.exp(slow), 0.0) * MINUTE_S) / MINUTE_S


def real() -> list[Trace]:
    """Return the traces of ../shared/data/traces; none where that is absent."""
    if not TRACES.is_dir():
        return []
    found = []
    with (TRACES / "azure2024_week_hourly.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    for kind in ("conv", "code"):
        values = np.array([float(row[f"requests_{kind}"]) for row in rows]) / HOUR_S
        name = f"Azure 2024 {kind}, week by hour"
        found.append(Trace(name, values, HOUR_S, 1, tuple(range(48, values.size - 1))))
        found.append(tiled(kind, values))
    for kind in ("conv", "code"):
        values = by_minute(TRACES / f"AzureLLMInferenceTrace_{kind}.csv")
        found.append(Trace(f"Azure 2023 {kind}, hour by minute", values, MINUTE_S, 5, tuple(range(9, values.size - 5))))
    return found


def tiled(kind: str, hourly: Values) -> Trace:
    """Return the week three times over, a few percent of its rate, by minute with noise, forecast on its last two days.

    The real week has no week before it. Each copy differs from the others in its counts, in disturbances of an hour and
    in how busy each of its days is (σ 10 %), so none can be looked up in another.
    """
    rng = np.random.default_rng(SEED)
    weeks = 3
    hours = np.tile(hourly, weeks)
    middles = np.arange(hours.size) * 60 + 30
    minutes = np.interp(np.arange(hours.size * 60), middles, hours)
    busy = np.repeat(np.exp(rng.normal(0.0, 0.1, weeks * 7)), 1440)
    values = counts(minutes * busy * (10.0 / float(hourly.mean())), rng)
    # Wednesday and Thursday of the third week.
    begin = (2 * 7 + 2) * 1440
    return Trace(f"Azure 2024 {kind}, tiled, by minute", values, MINUTE_S, 30, tuple(range(begin, begin + 2880, 30)))


def by_minute(path: Path) -> Values:
    """Return requests/s in the whole minutes of a trace."""
    with path.open() as file:
        times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(file)]
    first = min(times)
    minutes = np.bincount(np.array([int((at - first) // MINUTE_S) for at in times]))
    # The last one is not whole.
    values: Values = minutes[:-1] / MINUTE_S
    return values


# ------------------------------------------------------------------ scores
def score(trace: Trace, methods: Iterable[str] = METHODS) -> list[Score]:
    """Return how the methods did on a series."""
    scores = []
    for name in methods:
        points, uppers, peaks, taken = [], [], [], []
        for origin in trace.origins:
            past = trace.values[: origin + 1]
            began = time.thread_time()
            point, upper = METHODS[name](past, trace.step_s, trace.horizon)
            taken.append(time.thread_time() - began)
            points.append(point)
            uppers.append(upper)
            peaks.append(trace.values[origin + 1 : origin + 1 + trace.horizon].max())
        actual, upper_, point_ = np.array(peaks), np.array(uppers), np.array(points)
        some = actual > 0
        scores.append(
            Score(
                trace=trace.name,
                method=name,
                pinball_per_s=float(pinball(actual, upper_, band=BAND).mean()),
                coverage=float((actual <= upper_).mean()),
                mape=float((np.abs(actual - point_)[some] / actual[some]).mean()),
                fit_ms=statistics.median(taken) * 1e3,
            )
        )
    return scores


def main() -> None:
    """Measure and print."""
    console = Console()
    traces = [generated(), *real()]
    scores = [one for trace in track(traces, "forecasting", console=console) for one in score(trace)]
    table = Table("series", "method", "pinball, req/s", f"coverage (aim {BAND:.0%})", "MAPE", "fit, ms")
    for one in scores:
        table.add_row(
            one.trace,
            one.method,
            f"{one.pinball_per_s:.4f}",
            f"{one.coverage:.1%}",
            f"{one.mape:.1%}",
            f"{one.fit_ms:.2f}",
        )
    console.print(table)
    lengths: list[LengthScore] = []
    if len(traces) == 1:
        console.print("skipped: the Azure traces, since ../shared/data/traces is absent")
    else:
        lengths = [score for one in bench_lengths.series(TRACES) for score in bench_lengths.score(one)]
        console.print(bench_lengths.table(lengths))
    record({"forecast": [asdict(one) for one in scores], "lengths": [asdict(one) for one in lengths]})


if __name__ == "__main__":
    main()
