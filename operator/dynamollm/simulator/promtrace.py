"""Requests generated from what Prometheus kept of a live service: "what would you have done on my last week?".

The file holds answers of ``/api/v1/query_range``, as curl or promtool write them: arrivals per second by class, and,
where they are there, prompt and generated tokens per second by class. docs/simulator.md has the queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.lengthspread import LENGTH_CV
from dynamollm.core.priors import typical_lengths
from dynamollm.core.words import counted
from dynamollm.simulator.traces import MAX_INPUT_TOKENS
from dynamollm.simulator.workload import REQUEST, Chunk

_MAX_OUTPUT_TOKENS: Final = 100_000
_PARTS: Final = ("arrivals", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class RateTrace:
    """Requests drawn from rates by class on an even grid."""

    name: str
    step_s: float
    rates: NDArray[np.float64]
    """[step, class], requests/s."""
    lengths: NDArray[np.float64]
    """[class, 2]: mean input and output tokens."""
    boundaries: ClassBoundaries
    seed: int

    @property
    def duration_s(self) -> float:
        """From its beginning to its end, s."""
        return float(self.rates.shape[0] * self.step_s)

    def chunks(self, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Chunk]:
        """Yield the requests with start ≤ arrival < end, a step each."""
        end_s = self.duration_s if end_s is None else min(end_s, self.duration_s)
        for step in range(int(start_s // self.step_s), int(np.ceil(end_s / self.step_s))):
            requests = self._step(step)
            upto_s = min(end_s, (step + 1) * self.step_s)
            first, last = np.searchsorted(requests["arrival_s"], (start_s, upto_s))
            yield Chunk(upto_s, requests[first:last])

    def _step(self, step: int) -> NDArray[Any]:
        draw = np.random.default_rng([self.seed, step])
        counts = draw.poisson(self.rates[step] * self.step_s)
        parts = [self._class(draw, index, int(count), step) for index, count in enumerate(counts)]
        return np.sort(np.concatenate(parts), order="arrival_s")

    def _class(self, draw: np.random.Generator, index: int, count: int, step: int) -> NDArray[Any]:
        requests = np.zeros(count, REQUEST)
        requests["arrival_s"] = (step + draw.random(count)) * self.step_s
        inputs = (self.boundaries.input_short, self.boundaries.input_medium, MAX_INPUT_TOKENS + 1)
        outputs = (self.boundaries.output_short, self.boundaries.output_medium, _MAX_OUTPUT_TOKENS + 1)
        requests["input_tokens"] = _log_normal(draw, count, self.lengths[index, 0], index // 3, inputs)
        requests["output_tokens"] = _log_normal(draw, count, self.lengths[index, 1], index % 3, outputs)
        return requests


def _log_normal(
    draw: np.random.Generator, count: int, mean: float, size: int, upper: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Draw lengths around a class's mean within the class."""
    sigma = np.sqrt(np.log(1 + LENGTH_CV**2))
    lengths = mean * np.exp(sigma * draw.standard_normal(count) - sigma**2 / 2)
    low = 1 if size == 0 else upper[size - 1]
    return np.asarray(np.clip(np.round(lengths), low, upper[size] - 1))


def read_prometheus_json(path: Path, *, boundaries: ClassBoundaries, seed: int) -> RateTrace:
    """Return the trace in a file of range queries.

    Raises:
        InvalidInputError: it is no such file, or there are no arrivals in it; names the line where JSON ends to be JSON.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{path}:{error.lineno}: is not JSON ({error.msg})") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from None
    answers = document if isinstance(document, dict) and "arrivals" in document else {"arrivals": document}
    matrices = {part: _matrix(path, part, answers[part]) for part in _PARTS if part in answers}
    times = np.unique(np.concatenate([points[:, 0] for points in matrices["arrivals"].values()]))
    if times.size < 2:  # noqa: PLR2004 - a step needs two
        raise InvalidInputError(
            f"{path}: arrivals has {counted(times.size, 'point')}: ask for a range of two steps at least"
        )
    step_s = float(np.min(np.diff(times)))
    grid = np.arange(times[0], times[-1] + step_s / 2, step_s)
    rates = np.stack([_on_grid(matrices["arrivals"].get(c), grid) for c in RequestClass], axis=1)
    if not np.any(rates > 0):
        raise InvalidInputError(f"{path}: no arrivals in it: did the service have any load?")
    typical = typical_lengths(boundaries)
    lengths = np.array([(typical[c].input_tokens, typical[c].output_tokens) for c in RequestClass])
    arrived = rates.sum(axis=0)
    for place, part in enumerate(_PARTS[1:]):
        for index, c in enumerate(RequestClass):
            if part in matrices and c in matrices[part] and arrived[index] > 0:
                tokens = _on_grid(matrices[part][c], grid).sum()
                lengths[index, place] = tokens / arrived[index] if tokens > 0 else lengths[index, place]
    return RateTrace(path.name, step_s, rates, lengths, boundaries, seed)


def _matrix(path: Path, part: str, answer: Any) -> Mapping[RequestClass, NDArray[np.float64]]:
    """Return [point, (time, value)] by class."""
    try:
        data = answer.get("data", answer)
        series = data["result"]
        matrix = {
            RequestClass(one["metric"]["class"]): np.array([(float(t), float(v)) for t, v in one["values"]])
            for one in series
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{path}: {part} is no answer of a range query by class ({error!r}): see docs/simulator.md for the queries"
        ) from None
    if not matrix:
        raise InvalidInputError(f"{path}: {part} has no series: is the metric's name right?")
    return matrix


def _on_grid(points: NDArray[np.float64] | None, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a series on the grid; where a point lacks or is NaN there was no load."""
    if points is None:
        return np.zeros(grid.size)
    good = points[np.isfinite(points[:, 1])]
    values = np.zeros(grid.size)
    index = np.round((good[:, 0] - grid[0]) / (grid[1] - grid[0])).astype(int)
    values[index] = np.maximum(0.0, good[:, 1])
    return values
