"""A stream of requests to simulate: chunks of arrivals in order, so that a week is never in memory at once.

What a trace tells is when requests come and how long they are. What the simulation adds is here: the time before the
trace in which the operator gets to know its load, the class of each request, and the class that the router takes it for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import ClassBoundaries
from dynamollm.simulator.fleet_state import ARRIVAL

REQUEST: Final = np.dtype([("arrival_s", np.float64), ("input_tokens", np.int32), ("output_tokens", np.int32)])
"""``arrival_s`` from the trace's beginning; lengths in tokens, 1 or more."""

_COPY_SPREAD_S: Final = 60.0
"""Where a rate is scaled up, copies of a request come within this time after it: the shape over minutes is kept, and no
burst appears that the trace does not have."""

_GOLDEN: Final = 0.6180339887498949
"""Fraction of a golden-ratio sequence: it spreads the rounding of a scale evenly and needs no random state."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The requests from the end of the chunk before up to ``end_s``, in order of arrival."""

    end_s: float
    requests: NDArray[Any]
    """[request] of ``REQUEST``."""


class Trace(Protocol):
    """Requests over time; the same at every reading."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def duration_s(self) -> float:
        """From its beginning to its end, s."""

    def chunks(self, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Chunk]:
        """Yield the requests with start ≤ arrival < end in order, the last chunk up to ``end_s``."""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """A trace that is in memory."""

    name: str
    duration_s: float
    requests: NDArray[Any]
    """[request] of ``REQUEST``, in order."""

    def chunks(self, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Chunk]:
        """Yield one chunk."""
        end_s = self.duration_s if end_s is None else end_s
        first, last = np.searchsorted(self.requests["arrival_s"], (start_s, end_s))
        yield Chunk(end_s, self.requests[first:last])


@dataclass(frozen=True, slots=True)
class ScaledTrace:
    """Another trace with ``scale`` times its requests."""

    inner: Trace
    scale: float

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.inner.name} × {self.scale:g}"

    @property
    def duration_s(self) -> float:
        """From its beginning to its end, s."""
        return self.inner.duration_s

    def chunks(self, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Chunk]:
        """Yield the requests with start ≤ arrival < end in order."""
        end_s = self.duration_s if end_s is None else end_s
        later = np.zeros(0, REQUEST)
        # Copies come after their original: those that fall into the window may have come from before it.
        for chunk in self.inner.chunks(start_s=max(0.0, start_s - _COPY_SPREAD_S), end_s=end_s):
            copies = self._copies(chunk.requests)
            requests = np.sort(np.concatenate([later, copies]), order="arrival_s", kind="stable")
            here, upto = np.searchsorted(requests["arrival_s"], (start_s, chunk.end_s))
            later = requests[upto:]
            yield Chunk(chunk.end_s, requests[here:upto])

    def _copies(self, requests: NDArray[Any]) -> NDArray[Any]:
        # Every draw follows from the request itself, so that a window gives the same as the whole.
        key = np.floor(requests["arrival_s"] * 1e3).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        key ^= requests["input_tokens"].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        share = (key >> np.uint64(11)).astype(np.float64) / 2.0**53
        count = np.floor(self.scale + share).astype(np.int64)
        copies = np.repeat(requests, count)
        number = np.arange(copies.size) - np.repeat(np.cumsum(count) - count, count)
        spread = (np.repeat(share, count) + number * _GOLDEN) % 1.0
        copies["arrival_s"] += np.where(number > 0, spread * _COPY_SPREAD_S, 0.0)
        return copies


@dataclass(frozen=True)
class Workload:
    """What is simulated: a trace, what goes before it, and how well output lengths are predicted.

    Time runs from the beginning of the warm-up: the trace begins at ``warm_up_s``. The warm-up is the trace's own
    beginning backwards in time, so that load goes over without a jump; where it is longer than the trace, it goes to and fro.
    """

    trace: Trace
    boundaries: ClassBoundaries = field(default_factory=ClassBoundaries)
    warm_up_s: float = 1800.0
    accuracy: float = 1.0
    """Share of the requests whose output class is predicted right; the rest fall into one of the two others."""
    seed: int = 0

    @property
    def end_s(self) -> float:
        """When the trace ends."""
        return self.warm_up_s + self.trace.duration_s

    def arrivals(self) -> Iterator[tuple[float, NDArray[Any]]]:
        """Yield (until, arrivals up to then), each array of `fleet_state.ARRIVAL` in order."""
        warm_up_s = self.warm_up_s
        mirrored = self._before()
        yield warm_up_s, self._classified(mirrored, part=0, counted=False)
        for part, chunk in enumerate(self.trace.chunks()):
            requests = chunk.requests.copy()
            requests["arrival_s"] += warm_up_s
            yield chunk.end_s + warm_up_s, self._classified(requests, part=part + 1, counted=True)

    def _before(self) -> NDArray[Any]:
        """Return the requests of the warm-up, in order."""
        whole_s = self.trace.duration_s
        pieces = []
        for turn in range(ceil(self.warm_up_s / whole_s)):
            # So much of the warm-up is left before the pieces nearer to the trace.
            left_s = self.warm_up_s - turn * whole_s
            length_s = min(whole_s, left_s)
            back = turn % 2 == 0
            start_s, end_s = (0.0, length_s) if back else (whole_s - length_s, whole_s)
            chunks = [chunk.requests for chunk in self.trace.chunks(start_s=start_s, end_s=end_s)]
            piece = np.concatenate([np.zeros(0, REQUEST), *chunks])
            piece = piece[::-1].copy() if back else piece
            times_s = piece["arrival_s"]
            piece["arrival_s"] = left_s - times_s if back else left_s - whole_s + times_s
            pieces.append(piece)
        return np.concatenate([np.zeros(0, REQUEST), *reversed(pieces)])

    def part(self, *, start_s: float, end_s: float) -> NDArray[Any]:
        """Return the arrivals of a part of the trace, their times from its beginning."""
        chunks = [chunk.requests for chunk in self.trace.chunks(start_s=start_s, end_s=end_s)]
        requests = np.concatenate([np.zeros(0, REQUEST), *chunks])
        requests["arrival_s"] -= start_s
        return self._classified(requests, part=0, counted=True)

    def _classified(self, requests: NDArray[Any], *, part: int, counted: bool) -> NDArray[Any]:
        arrivals = np.zeros(requests.size, ARRIVAL)
        for name in REQUEST.names or ():
            arrivals[name] = requests[name]
        first = _length(requests["input_tokens"], self.boundaries.input_short, self.boundaries.input_medium)
        second = _length(requests["output_tokens"], self.boundaries.output_short, self.boundaries.output_medium)
        draw = np.random.default_rng([self.seed, part])
        wrong = draw.random(requests.size) >= self.accuracy
        other = (second + draw.integers(1, 3, requests.size)) % 3
        arrivals["request_class"] = 3 * first + second
        arrivals["predicted"] = 3 * first + np.where(wrong, other, second)
        arrivals["counted"] = counted
        return arrivals


def _length(tokens: NDArray[np.int32], short: int, medium: int) -> NDArray[np.int64]:
    """Return 0, 1 or 2 for short, medium or long, as `ClassBoundaries` parts them."""
    return (tokens >= short).astype(np.int64) + (tokens >= medium)
