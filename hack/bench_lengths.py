"""The second table of ``make bench-forecast``: mean tokens of the requests to come, against the naive forecasts.

Rolling origin, as for rates. The planner takes the expected length, so the loss is the pinball loss at one half: half the
mean absolute error. Traces with a length for every request cover an hour; for the week there are totals by the hour. So the
week is shown as it is, for all classes together, and with requests of the hours of 2023 drawn at its rates, by class.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.lengths import expected_lengths
from dynamollm.core.past_load import PastLengths
from dynamollm.core.records import LoadHistory

HALF_HOUR_S: Final = 1800.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
PAST_S: Final = 15 * DAY_S
"""As far back as the operator asks Prometheus."""
STEPS_A_DAY: Final = 48
WEEKS: Final = 3
"""The week so often, as each forecast wants one before it."""
RATE_PER_S: Final = 10.0
BUSY: Final = 0.1
"""σ of how busy days are."""
SEED: Final = 20240513
SHORT_STEP_S: Final = 300.0

Values: TypeAlias = NDArray[np.float64]
CLASSES: Final = tuple(RequestClass)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens over time and where they are forecast."""

    name: str
    tokens: Values
    """[inputs and outputs, class, step]; NaN where nobody asked."""
    requests: Values
    """[class, step]."""
    step_s: float
    origins: tuple[int, ...]
    level_steps: int = 1
    """The level is the mean of so many steps: of half an hour, or of one step that is longer."""

    def level(self, origin: int) -> Values:
        """Return the mean of the last half hour, [inputs and outputs, class]."""
        steps = slice(max(0, origin + 1 - self.level_steps), origin + 1)
        total = np.nansum(self.tokens[:, :, steps] * self.requests[:, steps], axis=2)
        count = self.requests[:, steps].sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


@dataclass(frozen=True, slots=True)
class LengthScore:
    """How one method did on one series; each class counts by its requests."""

    trace: str
    method: str
    input_pinball_tokens: float
    output_pinball_tokens: float
    input_mape: float
    output_mape: float


# ------------------------------------------------------------------ methods
def ours(one: Lengths, origin: int) -> Values:
    """Forecast as the operator does."""
    end_s = (origin + 1) * one.step_s
    first = max(0, origin + 1 - round(PAST_S / one.step_s))
    past = one.tokens[:, :, first : origin + 1]
    now = one.level(origin)
    found = expected_lengths(
        LoadHistory(
            end_s=end_s,
            step_s=one.step_s,
            rate_per_s={},
            input_tokens=known(now[0]),
            output_tokens=known(now[1]),
            lengths=PastLengths(end_s=end_s, step_s=one.step_s, input_tokens=rows(past[0]), output_tokens=rows(past[1]))
            if one.step_s >= HALF_HOUR_S
            else None,
        ),
        boundaries=ClassBoundaries(),
    )
    return np.array([found[request_class] for request_class in CLASSES]).T


def known(values: Values) -> dict[RequestClass, float]:
    """Return what there is, by class."""
    return {c: float(value) for c, value in zip(CLASSES, values, strict=True) if np.isfinite(value)}


def rows(values: Values) -> Mapping[RequestClass, list[float]]:
    """Return samples by class."""
    return dict(zip(CLASSES, values.tolist(), strict=True))


def level(one: Lengths, origin: int) -> Values:
    """Expect what the last half hour had, or the last step where that is longer."""
    return one.level(origin)


def last_value(one: Lengths, origin: int) -> Values:
    """Expect what the last step had."""
    return one.tokens[:, :, origin]


def seasonal_naive(one: Lengths, origin: int) -> Values:
    """Expect what the same time a week ago had, or a day ago; the last value in the first day."""
    for season_s in (WEEK_S, DAY_S):
        there = origin + 1 - round(season_s / one.step_s)
        if there >= 0:
            return one.tokens[:, :, there]
    return last_value(one, origin)


METHODS: Final = {"ours": ours, "last half hour": level, "last value": last_value, "seasonal naive": seasonal_naive}


# ------------------------------------------------------------------ series
def series(traces: Path) -> Iterator[Lengths]:
    """Yield what is forecast."""
    week = read_week(traces)
    yield totals(week)
    hours = {kind: read_hour(traces / f"AzureLLMInferenceTrace_{kind}.csv") for kind in ("conv", "code")}
    for kinds in (("conv", "code"), ("conv",), ("code",)):
        yield drawn(week, {kind: hours[kind] for kind in kinds})
    for kind, (times, inputs, outputs) in hours.items():
        step = (times // SHORT_STEP_S).astype(np.int64)
        size = int(step[-1])  # the last one is not whole
        sums = by_class(step, inputs, outputs, size=size)
        name = f"Azure 2023 {kind}, hour by five minutes"
        yield Lengths(name, means(sums), sums[2], SHORT_STEP_S, tuple(range(2, size - 1)), 6)


def read_week(traces: Path) -> dict[str, Values]:
    """Return the columns of the week of 2024, by the hour."""
    with (traces / "azure2024_week_hourly.csv").open() as file:
        found = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {name: np.array([float(row[name]) for row in found]) for name in found[0] if not name.startswith("hour")}


def read_hour(path: Path) -> tuple[Values, Values, Values]:
    """Return seconds since the first request, input and output tokens of a trace of 2023."""
    with path.open() as file:
        found = list(csv.DictReader(file))
    times = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in found])
    tokens = (np.array([float(row[name]) for row in found]) for name in ("ContextTokens", "GeneratedTokens"))
    inputs, outputs = tokens
    return times - times.min(), inputs, outputs


def totals(week: Mapping[str, Values]) -> Lengths:
    """Return the week as it is: one mean for all classes, as if all were of one."""
    requests = np.zeros((len(CLASSES), week["requests"].size))
    requests[CLASSES.index(RequestClass.MM)] = week["requests"]
    both = np.stack([week["context_tokens"], week["generated_tokens"]])[:, None, :]
    tokens = np.where(requests > 0, both / np.maximum(requests, 1.0), np.nan)
    return Lengths("Azure 2024 conv and code, week by hour", tokens, requests, HOUR_S, tuple(range(48, 167)))


def drawn(week: Mapping[str, Values], hours: Mapping[str, tuple[Values, Values, Values]]) -> Lengths:
    """Return requests of 2023 that come at the rates of the week, three times over, forecast on its third Wednesday and Thursday."""
    rng = np.random.default_rng(SEED)
    days = WEEKS * 7
    whole = sum(week[f"requests_{kind}"].mean() for kind in hours)
    sums = np.zeros((3, len(CLASSES), days * STEPS_A_DAY))
    for kind, (_times, inputs, outputs) in hours.items():
        per_s = np.tile(week[f"requests_{kind}"], WEEKS) * RATE_PER_S / whole
        middles_h = (np.arange(sums.shape[2]) + 0.5) / 2
        mean = np.interp(middles_h, np.arange(per_s.size) + 0.5, per_s) * HALF_HOUR_S
        # A day at a time: three weeks are 18 million requests.
        for steps in np.arange(mean.size).reshape(days, STEPS_A_DAY):
            counts = rng.poisson(mean[steps] * np.exp(rng.normal(0.0, BUSY)))
            who = rng.integers(0, inputs.size, counts.sum())
            sums += by_class(np.repeat(steps, counts), inputs[who], outputs[who], size=mean.size)
    begin = (2 * 7 + 2) * STEPS_A_DAY
    name = f"{' and '.join(hours)} of 2023 at the rates of 2024, by half hour"
    return Lengths(name, means(sums), sums[2], HALF_HOUR_S, tuple(range(begin, begin + 2 * STEPS_A_DAY)))


def by_class(step: NDArray[np.int64], inputs: Values, outputs: Values, *, size: int) -> Values:
    """Return input tokens, output tokens and requests, [three, class, step]; steps beyond the size are left out."""
    bounds = ClassBoundaries()
    long_in = np.searchsorted([bounds.input_short, bounds.input_medium], inputs, side="right")
    long_out = np.searchsorted([bounds.output_short, bounds.output_medium], outputs, side="right")
    within = step < size
    cell = ((3 * long_in + long_out) * size + step)[within]
    weights = (inputs[within], outputs[within], None)
    counted = [np.bincount(cell, weights=one, minlength=len(CLASSES) * size) for one in weights]
    return np.stack(counted).reshape(3, len(CLASSES), size).astype(np.float64)


def means(sums: Values) -> Values:
    """Return mean tokens, [inputs and outputs, class, step]; NaN where nobody asked."""
    return np.where(sums[2] > 0, sums[:2] / np.maximum(sums[2], 1.0), np.nan)


# ------------------------------------------------------------------ scores
def score(one: Lengths) -> list[LengthScore]:
    """Return how the methods did on a series, on what all of them can forecast."""
    found = {name: np.stack([method(one, o) for o in one.origins]) for name, method in METHODS.items()}
    after = np.array(one.origins) + 1
    came = one.tokens[:, :, after].transpose(2, 0, 1)
    asked = one.requests[:, after].T[:, None, :]
    usable = np.isfinite(came) & np.all([np.isfinite(x) for x in found.values()], axis=0)
    weights = np.where(usable, asked, 0.0)
    weights /= weights.sum(axis=(0, 2), keepdims=True)
    scores = []
    for name, tokens in found.items():
        missed = np.where(usable, np.abs(tokens - came), 0.0)
        loss = (weights * missed).sum(axis=(0, 2)) / 2
        mape = (weights * missed / np.where(usable, came, 1.0)).sum(axis=(0, 2))
        scores.append(LengthScore(one.name, name, *map(float, (*loss, *mape))))
    return scores


def table(scores: list[LengthScore]) -> Table:
    """Return the scores for people."""
    shown = Table("series", "method", "inputs: pinball, tokens", "MAPE", "outputs: pinball, tokens", "MAPE")
    for one in scores:
        shown.add_row(
            one.trace,
            one.method,
            f"{one.input_pinball_tokens:.2f}",
            f"{one.input_mape:.2%}",
            f"{one.output_pinball_tokens:.2f}",
            f"{one.output_mape:.2%}",
        )
    return shown
