"""The largest batches at which cells keep the SLO: what `core.capacity` turns into rates.

The share missed grows with the batch, nearly as a power of it: so the logarithms of both are searched, by a parabola through the
last three points (inverse quadratic interpolation), a line through two, or the usual slope through one, and by halving where
those leave the bracket. Cells that are done are left out as soon as they are a third of all; most take three evaluations.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.cells import Indices
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import Stream
from dynamollm.core.violation import Limits, Misses

_LEAST: Final = math.log(1e-5)
"""Of the batch as a share of the largest: an instance that keeps the SLO only below it keeps it at no load worth the name."""

_LEAST_MISSED: Final = 1e-7

_FIRST: Final = -1.3
_SLOPE: Final = 2.5
"""Where the search begins, and how steep the logarithm of the share missed usually is there."""

_TOLERANCE: Final = 1e-4
"""Of the logarithm of the batch, by what the last steps say of the error."""
_NEAR: Final = 0.05
"""A step that goes further says little of the error."""
_CURVATURE: Final = 0.5
"""Share of what the parabola changes on the line that may be wrong with it."""
_LEAST_SLOPE, _MOST_SLOPE = 0.05, 1e3
"""Beyond them two points make no line: rounding is all that is between them."""

_FEW: Final = 256
"""Cells that are not worth leaving out: so many take hardly longer than one."""

_WORTH: Final = 0.65
"""Share of the cells below which it is worth going on with them alone: what is known of cells has to be gathered anew."""

_EVALUATIONS: Final = 24
"""At most: by then halving alone has found the batch within a millionth."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Where the search may begin, [cell]."""

    logarithm: Floats
    """Of the batch as a share of the largest."""
    slope: Floats
    """Of the logarithm of the share missed by that, there."""


@dataclass(frozen=True, slots=True)
class Largest:
    """What was found, [cell]."""

    share: Floats
    """The largest batch, as a share of what an instance can have."""
    slope: Floats
    """As last seen by the search; see ``Guess``."""
    never: NDArray[np.bool_]
    """Whether not even the least batch keeps the SLO."""


def largest(stream: Stream, limits: Limits, guess: Guess | None = None) -> Largest:
    """Return the largest batches at which cells keep the SLO; a good guess saves an evaluation or two of four."""
    count = stream.mix_of.size
    cells, share, never = np.arange(count), np.empty(count), np.zeros(count, dtype=np.bool_)
    slope = np.empty(count)
    search = _Search.begun(stream, limits, guess)
    for _ in range(_EVALUATIONS):
        search.step()
        going = np.flatnonzero(~search.done)
        if not going.size:
            break
        if going.size <= _WORTH * cells.size and cells.size > _FEW:
            share[cells], slope[cells], never[cells] = np.exp(search.at), search.slope, search.never
            cells, search = cells[going], search.only(going)
    share[cells], slope[cells], never[cells] = np.exp(search.kept()), search.slope, search.never
    return Largest(share, slope, never)


@dataclass(slots=True)
class _Search:
    """Where the search is in some cells; all in logarithms, [cell]."""

    misses: Misses
    at: Floats
    slope: Floats
    low: Floats
    """The highest that keeps the SLO."""
    high: Floats
    """The lowest that does not."""
    never: NDArray[np.bool_]
    done: NDArray[np.bool_]
    past: tuple[tuple[Floats, Floats], ...] = ()
    """Where it was before and the excess there, the newest first."""

    @classmethod
    def begun(cls, stream: Stream, limits: Limits, guess: Guess | None) -> "_Search":
        most = stream.most
        never = most <= 0
        at, slope = (_FIRST, _SLOPE) if guess is None else (np.clip(guess.logarithm, _LEAST, 0.0), guess.slope)
        return cls(
            misses=Misses(stream, limits),
            at=np.zeros_like(most) + at,
            slope=np.zeros_like(most) + slope,
            # Just beyond the ends, which are still to be looked at.
            low=np.full_like(most, _LEAST - _TOLERANCE),
            high=np.full_like(most, _TOLERANCE),
            never=never,
            done=never.copy(),
        )

    def only(self, cells: Indices) -> "_Search":
        """Return the search of some of the cells."""
        return _Search(
            misses=Misses(self.misses.stream.only(cells), self.misses.limits),
            at=self.at[cells],
            slope=self.slope[cells],
            low=self.low[cells],
            high=self.high[cells],
            never=self.never[cells],
            done=self.done[cells],
            past=tuple((where[cells], excess[cells]) for where, excess in self.past),
        )

    def kept(self) -> Floats:
        """Return what is known to keep the SLO, the least where nothing is."""
        return np.where(self.done, self.at, np.clip(self.low, _LEAST, 0.0))

    def step(self) -> None:
        """Look at the SLO where the search is, and go on from there."""
        at, excess = self.at, self._excess()
        kept = excess <= 0
        self.low = np.where(kept, np.maximum(self.low, at), self.low)
        self.high = np.where(kept, self.high, np.minimum(self.high, at))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            there, error = self._next(excess)
        there = np.clip(there, _LEAST, 0.0)
        inside = (there > self.low) & (there < self.high)
        there = np.where(inside, there, (self.low + self.high) / 2)
        at_end = np.where(kept, at == 0.0, at == _LEAST)
        self.never |= at_end & ~kept
        self.at = np.where(self.done | at_end, at, there)
        self.done |= at_end | (inside & (error < _TOLERANCE)) | (self.high - self.low < _TOLERANCE)
        self.past = ((at, excess), *self.past[:1])

    def _excess(self) -> Floats:
        """Return the logarithm of the share missed over what is allowed."""
        stream, limits = self.misses.stream, self.misses.limits
        share = self.misses.missed(stream.at_batch(stream.most * np.exp(self.at)))
        logs: Floats = np.log(np.maximum(share, _LEAST_MISSED) / (limits.allowed or _LEAST_MISSED))
        return logs

    def _next(self, excess: Floats) -> tuple[Floats, Floats]:
        """Return where there might be no excess, and how wrong that might be."""
        if not self.past:
            there = self.at - excess / self.slope
            return there, np.full_like(there, np.inf)
        (before, excess_before), *older = self.past
        slope = (excess - excess_before) / (self.at - before)
        line = (slope > _LEAST_SLOPE) & (slope < _MOST_SLOPE)
        bend = np.where(line, np.abs(slope / self.slope - 1), 1.0)
        self.slope = np.where(line, slope, self.slope)
        step = excess / self.slope
        there = self.at - step
        error = np.abs(step) * bend
        if older:
            ((first, excess_first),) = older
            earlier = (before - first) / (excess_before - excess_first)
            more = excess * excess_before * (1 / self.slope - earlier) / (excess - excess_first)
            bent = there + more
            parabola = (bent > self.low) & (bent < self.high)
            there = np.where(parabola, bent, there)
            error = np.where(parabola, np.minimum(error, _CURVATURE * np.abs(more)), error)
        return there, np.where(np.abs(step) < _NEAR, error, np.inf)
