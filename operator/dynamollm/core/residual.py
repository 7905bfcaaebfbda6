"""What is left of the step under way when a request comes to an engine that makes whole prompts, by their lengths.

See `core.stream` for shapes and units. Most waits are for one prompt alone. Where a few long ones are what delays the short, no
gamma variable has that tail: P(what is left > slack) is the mean of what prompts exceed the slack by, times their rate.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dynamollm.core.cells import Indices, Singles
from dynamollm.core.steptable import Floats

if TYPE_CHECKING:
    from dynamollm.core.stream import Stream

_FROM_MS, _RATIO, _STEPS = 5.0, 1.15, 52
"""Where excesses are known: of nothing, and from 5 ms to 6 s. In between they are straight lines over the logarithm."""
_KNOWN_MS: Final = (0.0, *(_FROM_MS * _RATIO ** np.arange(_STEPS)))
_FROM: Final = np.float32(_FROM_MS)
_PER_STEP: Final = np.float32(1 / math.log(_RATIO))
_LAST: Final = np.float32(_STEPS - 1 - 1e-4)
_ENDLESS: Final = np.float32(np.inf)


@dataclass(frozen=True, slots=True)
class OneAhead:
    """Waits for one prompt alone, [cell]."""

    per_ms: Floats
    """Requests that come, times the probability that a step with prompts has one, and nobody else waits for it."""
    step_ms: Floats
    """What such a step takes besides its prompt."""
    decoding: Floats
    """Over that, the share of time of decode steps in which one other request comes, which then shares one's own step."""
    decode_ms: Floats
    """What a decode step takes."""
    beside: Floats
    """How many times as much a prompt adds beside one's own as alone."""


def mean_excess_ms(added_ms: Floats, weights: Floats) -> Floats:
    """Return by how much prompts exceed each of the times that are known, on average, [k, class, point].

    Args:
        added_ms: [length, class, point] what prompts add to steps.
        weights: [length, class]
    """
    excess = [np.einsum("lcp,lc->cp", np.maximum(added_ms - known, 0.0), weights) for known in _KNOWN_MS]
    return np.stack(excess)


class Excess:
    """By how much the prompts of a member's mix exceed a time, on average."""

    def __init__(self, known_ms: Singles, cells: Indices) -> None:
        """Take what mixes have at the times that are known, [k, mix, point], and where each member's begin."""
        self._known_ms, self._stride, self._cells = known_ms.ravel(), known_ms[0].size, cells
        self._mean_ms = self._known_ms.take(cells)

    def beyond(self, room_ms: Singles) -> Singles:
        """Return it for such times, ms, [..., member]; for less than nothing it is their mean and that."""
        place = np.log(np.clip(room_ms, _FROM, _ENDLESS) / _FROM)
        place *= _PER_STEP
        np.clip(place, 0, _LAST, out=place)
        low = place.astype(np.int64)
        place -= low
        low += 1  # the first is of nothing
        low *= self._stride
        low += self._cells
        here = self._known_ms.take(low)
        low += self._stride
        here += place * (self._known_ms.take(low) - here)
        # It falls by no more than the room grows.
        excess: Singles = np.maximum(here, self._mean_ms - room_ms, out=here)
        return excess


class Leftover:
    """How likely the wait for one prompt is above a slack, [member]."""

    def __init__(self, stream: "Stream", one: OneAhead) -> None:
        def each(of_cells: Floats) -> Singles:
            members: Singles = stream.each(of_cells.astype(np.float32))
            return members

        self._beyond = stream.excess.beyond
        self._per_ms, self._step_ms, self._decode_ms = each(one.per_ms), each(one.step_ms), each(one.decode_ms)
        self._decoding, self._per_beside = each(one.decoding * one.beside), each(1 / one.beside)

    def over(self, slack_ms: Singles) -> Singles:
        """Return the probability, [length, member]; the slack is above 0."""
        found = self._beyond(slack_ms - self._step_ms)
        # What is left of a decode step is uniform: the mean over it of P(the other's prompt > slack - what is left).
        soon, later = (slack_ms - self._decode_ms) * self._per_beside, slack_ms * self._per_beside
        found += self._decoding * (self._beyond(soon) - self._beyond(later))
        found *= self._per_ms
        return found
