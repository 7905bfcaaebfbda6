"""Waits for whole prompts again, one cell at a time and as they are written down; see `closed_form`."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from plain_lengths import BOUNDS, variation

from dynamollm.core.classes import RequestClass

if TYPE_CHECKING:
    from closed_form import Cell

Moments = tuple[float, float, float]


def plain(case: tuple[float, float, float]) -> tuple[float, float, float]:
    """Probability, mean and variance, of probability, mean and mean square."""
    probability, mean, square = case
    return probability, mean, max(square - mean**2, 1e-12)


class WholeQueue:
    """Waits for whole prompts: what is left of the step under way, and those who share one's own."""

    def __init__(self, cell: "Cell") -> None:
        self.cell = cell
        base, rate, step = cell.base_ms, cell.per_ms, cell.step_ms
        a1, a2, a3 = cell.added
        self.beside = beside = self._beside()
        b1, b2, b3 = beside * a1, beside**2 * a2, beside**3 * a3
        one = self._sum((base, base**2, base**3), (a1, a2, a3))
        two = self._sum(one, (b1, b2, b3))
        share = cell.prompt_share
        decoding = (1 - math.exp(-cell.batch)) * (1 - share)
        in_decode, in_one, in_two = rate * step, rate * one[1] / one[0], rate * two[1] / two[0]
        single = math.exp(-(decoding * in_decode + share * in_one))
        self.of_one = min(rate * single * one[0], share)
        self.rate, self.decoding = rate * single * math.exp(-in_one), decoding * rate * math.exp(-in_decode)

        def with_others(left: tuple[float, float], mean: float, pairs: float) -> tuple[float, float]:
            first, second = left
            added, added_square = mean * b1, mean * b2 + pairs * b1**2
            return first + added, second + 2 * first * added + added_square

        def left(of: Moments) -> tuple[float, float]:
            return of[1] / (2 * of[0]), of[2] / (3 * of[0])

        some, several = 1 - math.exp(-in_one), 1 - math.exp(-in_decode) * (1 + in_decode)
        several = max(several, 1e-12)
        of_decode = step / 2, step**2 / 3
        more = [
            (self.of_one * some, *with_others(left(one), in_one / max(some, 1e-12), in_one**2 / max(some, 1e-12))),
            (share - self.of_one, *with_others(left(two), in_two, in_two**2)),
            (
                decoding * several,
                *with_others(of_decode, in_decode * (1 - math.exp(-in_decode)) / several, in_decode**2 / several),
            ),
        ]
        self.more = self._any_of(more)
        self.queued = self._any_of(
            [
                self.more,
                (self.of_one * (1 - some), *left(one)),
                (decoding * in_decode * math.exp(-in_decode), *with_others(of_decode, 1.0, 0.0)),
            ]
        )

    def _beside(self) -> float:
        cell, other = self.cell, max(self.cell.inputs, 1.0)
        squares = sum(
            cell.share[c] * part.input_tokens**2 * (1 + variation(part.input_tokens, BOUNDS[c.value[0]][0]) ** 2)
            for c, part in cell.load.items()
        )
        tokens = max(squares / cell.inputs, 1.0)
        both = cell.prefill_ms(tokens + other, tokens**2 + other**2) - cell.prefill_ms(other, other**2)
        return max(both / max(cell.prefill_ms(tokens, tokens**2) - cell.base_ms, 1e-12), 1.0)

    @staticmethod
    def _sum(one: Moments, other: Moments) -> Moments:
        (a1, a2, a3), (b1, b2, b3) = one, other
        return a1 + b1, a2 + 2 * a1 * b1 + b2, a3 + 3 * a2 * b1 + 3 * a1 * b2 + b3

    @staticmethod
    def _any_of(cases: list[tuple[float, float, float]]) -> tuple[float, float, float]:
        probability = max(sum(p for p, _, _ in cases), 1e-12)
        mean, square = (sum(case[0] * case[k] for case in cases) / probability for k in (1, 2))
        return probability, mean, square

    def one_above(self, slack: float) -> float:
        """P(the wait for one prompt alone is above the slack)."""
        step, beside = self.cell.step_ms, self.beside
        shared = self.excess((slack - step) / beside) - self.excess(slack / beside)
        return self.rate * self.excess(slack - self.cell.base_ms) + self.decoding * beside * shared

    def excess(self, room: float) -> float:
        """By how much prompts exceed the room, a straight line over the logarithm between the points of a grid."""
        place = min(math.log(max(room, 5.0) / 5.0) / math.log(1.15), 51 - 1e-4)
        low = math.floor(place)
        here, there = (self._excess_of(5.0 * 1.15**k) for k in (low, low + 1))
        return max(here + (there - here) * (place - low), self._excess_of(0.0) - room)

    def _excess_of(self, known: float) -> float:
        return sum(weight * max(added - known, 0.0) for added, weight in self.prompts)

    @cached_property
    def prompts(self) -> list[tuple[float, float]]:
        """What prompts add to steps, and their weights."""
        shares = self.cell.share
        return [(self.cell.prompt_ms(tokens), shares[c] * weight) for c in shares for tokens, weight in self.lengths(c)]

    def lengths(self, request_class: RequestClass) -> list[tuple[float, float]]:
        """Lengths between the class's bounds, with their weights: log-normal, with the mean as it is."""
        mean = self.cell.load[request_class].input_tokens
        least, most = BOUNDS[request_class.value[0]][0]
        longest = float(self.cell.profile.max_input_tokens)
        least, most = (least, min(most, longest)) if least <= mean <= most else (1.0, longest)
        cv = variation(mean, BOUNDS[request_class.value[0]][0])
        sigma = 1.3 * math.sqrt(math.log(1 + cv**2))
        middle = math.log(mean) - sigma**2 / 2
        low, high = (min(max((math.log(end) - middle) / sigma, -4.0), 4.0) for end in (least, most))
        places, weights = np.polynomial.legendre.leggauss(24)
        deviations = [(low + high) / 2 + place * (high - low) / 2 for place in places]
        densities = [weight * math.exp(-(z**2) / 2) for z, weight in zip(deviations, weights, strict=True)]
        total = sum(densities)
        tokens = [math.exp(middle + sigma * z) for z in deviations]
        scale = mean / sum(t * d / total for t, d in zip(tokens, densities, strict=True))
        return [(min(max(t * scale, least), most), d / total) for t, d in zip(tokens, densities, strict=True)]
