"""How often the SLO is missed, in closed form, by its three rules; see `core.stream` for shapes and units.

Each time is a certain part (a prompt's own steps, at five lengths that stand for its class's) plus a wait by mean and
variance, taken as gamma-distributed (`core.gamma`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from dynamollm.core.answers import alone_ms, answer_gaps, answer_weights, usual_output_tokens
from dynamollm.core.briefanswers import held_up_throughout
from dynamollm.core.cells import Singles
from dynamollm.core.gamma import cube_root, normal_of, tail
from dynamollm.core.longgaps import long_gaps
from dynamollm.core.records import Order, Slo, SloRule
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import (
    QUADRATURE,
    TAIL_FROM_MS,
    TAIL_RATIO,
    TAIL_STEPS,
    Grid,
    Stream,
)
from dynamollm.core.waitcases import Cases
from dynamollm.core.waiting import Waits, ahead, waits

ALONE_FACTOR: Final = 5.0
"""SloRule.FIVE_TIMES_ALONE: the end-to-end latency may be so many times that of the request alone."""

_HALVINGS: Final = 16
"""Of a bracket around a percentile: an error below 0.02 %."""

_BLOCK: Final = 32_768
"""Numbers that are worked on at a time: with what they need they stay in a core's own cache."""

_NEVER: Final = 1e-6
"""Less likely than that: counted as never."""
_TINY = np.float32(1e-9)
_NOTHING = np.float32(0.0)


@dataclass(frozen=True)
class Limits:
    """An SLO by class, and the order in which they are served."""

    slo: Slo
    order: Order
    ttft_ms: Floats
    """[class]"""
    tbt_ms: Floats
    """[class]"""
    alone_ms: Floats | None
    """End-to-end latency alone of [output, quadrature, class]; None: another rule."""

    @property
    def allowed(self) -> float:
        """The share that may miss the SLO."""
        return 1 - self.slo.percentile / 100


def limits_of(grid: Grid, slo: Slo, order: Order) -> Limits:
    """Return the limits of the classes of a grid."""
    classes = grid.mixes.classes
    ttft_ms, tbt_ms = (np.array([limits[c] for c in classes], np.float64) for limits in (slo.ttft_ms, slo.tbt_ms))
    return Limits(slo, order, ttft_ms, tbt_ms, alone_ms(grid) if slo.rule is SloRule.FIVE_TIMES_ALONE else None)


class Misses:
    """How often cells miss an SLO."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self.stream, self.limits = stream, limits
        self._ahead = ahead(stream, limits.ttft_ms, limits.order)
        self._rows = self._ahead.group[stream.class_of] * stream.mix_of.size + stream.cell_of
        self._scratch = np.empty((5, _most_rows(stream), stream.cell_of.size), np.float32)
        """Room for the inner loop: fresh memory takes longer than what is done in it."""

    def missed(self, s: State) -> Floats:
        """Return the share that misses the SLO, [cell]: of requests, or by PER_CLASS_PERCENTILE of the worst class."""
        stream, limits = self.stream, self.limits
        if limits.slo.rule is SloRule.FIVE_TIMES_ALONE:
            return stream.sums(stream.share * self._beyond_alone(s))
        late = self.late(s, waits(stream, s, self._ahead), self._ttft_ms)
        if limits.slo.rule is SloRule.PER_CLASS_PERCENTILE:
            gaps = long_gaps(stream, s, limits_ms=self._tbt_ms, own_ms=self._own_ms(s))
            return stream.largest(np.maximum(late, gaps))
        kept = (1 - late) * (1 - self.slow(s, self._tbt_root))
        return stream.sums((1 - kept) * stream.share)

    # -------------------------------------------------------------- first tokens
    @cached_property
    def _ttft_ms(self) -> Singles:
        limits: Singles = self.limits.ttft_ms.astype(np.float32)[self.stream.class_of]
        return limits

    def late(self, s: State, after: Waits, limits_ms: Singles) -> Singles:
        """Return the probability that a first token comes after a limit, [member]."""
        late = self._over(s, Cases(self.stream, after, self._rows), limits_ms)
        full = self._full(s)
        if full is not None:
            late += self._without_place(s, full, limits_ms - self._own_ms(s))
        found: Singles = np.minimum(late, 1, out=late)
        return found

    def _own_ms(self, s: State) -> Singles:
        """Return the mean time that a class's own prompts take, without waiting, [member]."""
        base = self.stream.each(self.stream.step_base_ms(s).astype(np.float32))
        own: Singles = base * self._own_steps + self._added_ms
        return own

    @cached_property
    def _own_steps(self) -> Singles:
        """Steps that a class's own prompts take, on average, [member]."""
        grid = self.stream.grid
        steps: Singles = (1 + grid.weights @ grid.more_steps).astype(np.float32)[self.stream.class_of]
        return steps

    @cached_property
    def _added_ms(self) -> Singles:
        """What a class's prompts add to steps, [member]."""
        added: Singles = self.stream.added_ms.astype(np.float32)
        return added

    def _full(self, s: State) -> Singles | None:
        """Return the probability that all places of the batch are taken, [cell]; None: in no cell they ever are.

        The batch is taken as gamma-distributed.
        """
        most = self.stream.grid.sequences
        batch, variance = s.batch.astype(np.float32), self.stream.fluctuation(s).variance.astype(np.float32)
        root = np.full_like(batch, (most - 0.5) ** (1 / 3))
        full = tail(root, *normal_of(batch, variance), out=root, room=np.empty_like(root))
        return full if (full > _NEVER).any() else None

    def _without_place(self, s: State, full: Singles, slack_ms: Singles) -> Singles:
        """Return the probability that all places of the batch are taken, and none gets free within the slack, [member].

        While the batch is full, as many requests wait as it would have too many.
        """
        stream = self.stream
        variance = stream.fluctuation(s).variance.astype(np.float32)
        found = np.zeros_like(slack_ms)
        some = np.flatnonzero((full > _NEVER).take(stream.cell_of))
        cells = stream.cell_of[some]
        frees = s.per_ms * np.maximum(stream.grid.sequences - s.batch, 0.0) / np.maximum(variance, _TINY)
        found[some] = full[cells] * np.exp(-np.maximum(slack_ms[some], 0) * frees[cells])
        return found

    def _over(self, s: State, cases: Cases, limits_ms: Singles, alone_ms: Singles | None = None) -> Singles:
        """Return P(steps of the prompt + wait > limit), [member].

        Args:
            s: the state.
            cases: of waits.
            limits_ms: [member]
            alone_ms: [quadrature, member] what the limit is more by.
        """
        stream, weights = self.stream, self.stream.grid.weights.astype(np.float32)
        base = stream.each(stream.step_base_ms(s).astype(np.float32))
        left_ms, weighed = limits_ms - base, np.zeros(base.size, np.float32)
        for lengths in self._blocks:
            slack, *rooms = self._scratch[:, : lengths.stop - lengths.start]
            np.subtract(left_ms, stream.prompt_ms[lengths], out=slack)
            if stream.grid.more_steps[lengths].any():
                slack -= np.multiply(stream.more_steps[lengths], base, out=rooms[0])
            if alone_ms is not None:
                slack += alone_ms[lengths]
            for weight, above in zip(weights[lengths], cases.over(slack, rooms), strict=True):
                weighed += np.multiply(above, weight, out=above)
        return weighed

    @cached_property
    def _blocks(self) -> tuple[slice, ...]:
        """The lengths of prompts that are worked on at a time."""
        rows, count = self._scratch.shape[1], self.stream.grid.weights.size
        return tuple(slice(start, min(start + rows, count)) for start in range(0, count, rows))

    # -------------------------------------------------------------- the tokens after it
    @cached_property
    def _per_gap(self) -> Singles:
        """One over the gaps between the tokens of a mean answer that is not brief, of which there is one at least, [member]."""
        gaps = np.maximum(1.0, usual_output_tokens(self.stream.grid) - 1)
        per_gap: Singles = (1 / gaps).astype(np.float32)[self.stream.class_of]
        return per_gap

    @cached_property
    def _tbt_ms(self) -> Floats:
        limits: Floats = self.limits.tbt_ms[self.stream.class_of]
        return limits

    @cached_property
    def _tbt_root(self) -> Singles:
        return self._beyond_least(self._tbt_ms)

    def _beyond_least(self, limits_ms: Floats) -> Singles:
        """Return the cube roots of what limits of the mean TBT leave above that of a request alone, [member]."""
        left = (limits_ms - self.stream.each(self.stream.alone_ms)).astype(np.float32)
        return cube_root(np.maximum(left, _TINY))

    @cached_property
    def _stall(self) -> Floats:
        """Second moment of what prompts hold up tokens by, [cell]."""
        base, added = self.stream.base_ms, self.stream.added
        stall: Floats = added[1] + 2 * added[0] * base + base * base
        return stall

    def _steady(self, s: State) -> Floats:
        """Return the variance of a request's mean TBT that stays however long its answer is: that of its batch, [cell]."""
        found = self.stream.fluctuation(s)
        steady: Floats = (found.more_ms / (1 - s.prompt_share)) ** 2 * found.variance
        return steady

    def slow(self, s: State, root: Singles) -> Singles:
        """Return the probability that a request's mean TBT is above a limit, given as its ``_beyond_least``, [member].

        Prompts that come while tokens are made hold them up. Whole prompts hold up those too that come meanwhile, and the first
        token after one's own prompt waits for all that came during it. Brief answers may be held up in all their steps.
        """
        stream, chunked = self.stream, self.stream.grid.chunked
        left = 1 - s.prompt_share
        moments = (
            s.decode_ms - stream.alone_ms, s.decode_ms, s.prompt_share / left,
            s.per_ms * self._stall / (left if chunked else left * left * left), self._steady(s),
        )  # fmt: skip
        beyond, window, held_up, prompts, steady = (moment.astype(np.float32) for moment in moments)
        above, room = np.empty_like(root), np.empty_like(root)
        if not chunked:
            own, found = self._own_ms(s), np.zeros_like(root)
            decode, beyond, held_up, prompts, steady = (
                stream.each(one) for one in (window, beyond, held_up, prompts, steady)
            )
            # Answer by answer: one of few tokens has little to make up a stall with.
            for gaps, share in self._some_gaps:
                window = decode + own / gaps
                mean, variance = beyond + held_up * window, prompts * window / gaps + steady
                found += share * tail(root, *normal_of(mean, variance), out=above, room=room)
            return np.maximum(found, self._stalled(s, root))
        # Of cells, as far as it goes: members are several times as many.
        mean, lasting = stream.each(beyond + held_up * window), stream.each(prompts * window)
        variance = lasting * self._per_gap + stream.each(steady)
        usual = tail(root, *normal_of(mean, variance), out=above, room=room)
        if self._brief is None:
            return usual
        slack = root * root * root - stream.each((s.decode_ms - stream.alone_ms).astype(np.float32))
        usual += self._brief * np.maximum(held_up_throughout(stream, s, slack) - usual, _NOTHING)
        return usual

    @cached_property
    def _some_gaps(self) -> list[tuple[Singles, Singles]]:
        """Gaps between the tokens of answers that stand for a class's, one at least, and their shares, [member]."""
        grid, of = self.stream.grid, self.stream.class_of
        gaps, weights = np.maximum(answer_gaps(grid), 1.0).astype(np.float32), answer_weights(grid).astype(np.float32)
        return [(some[of], share[of]) for some, share in zip(gaps, weights, strict=True)]

    @cached_property
    def _brief(self) -> Singles | None:
        """The share of brief answers, [member]; None: there are none."""
        brief = self.stream.grid.mixes.brief_share
        return brief.astype(np.float32)[self.stream.class_of] if brief.any() else None

    def _stalled(self, s: State, root: Singles) -> Singles:
        """Return the probability that one whole prompt is enough to make a request slow, [member].

        Where tokens are few that is how they become slow, which no gamma shows.
        """
        stream = self.stream
        slack = root.astype(np.float64) ** 3 - stream.each(s.decode_ms - stream.alone_ms)
        base, per_ms, decode_ms = (stream.each(one) for one in (stream.base_ms, s.per_ms, s.decode_ms))
        own = self._own_ms(s)
        total = np.zeros(root.size)
        for gaps, share in self._some_gaps:
            total += share * (1 - np.exp(-per_ms * (gaps * decode_ms + own) * self._longer(gaps * slack - base)))
        return total.astype(np.float32)

    def _longer(self, room_ms: Floats) -> Floats:
        """Return the probability that a prompt adds more than this to steps, [member]."""
        stream = self.stream
        place = np.log(np.maximum(room_ms, TAIL_FROM_MS) / TAIL_FROM_MS) / math.log(TAIL_RATIO)
        place = np.minimum(place, TAIL_STEPS - 1 - 1e-9)
        low = place.astype(np.int64)
        tails = stream.grid.tails.reshape(TAIL_STEPS, -1)
        cells = (stream.mix_of * stream.grid.full_ms.size + stream.point_of)[stream.cell_of]
        here, next_one = tails[low, cells], tails[low + 1, cells]
        longer: Floats = here + (next_one - here) * (place - low)
        return longer

    # -------------------------------------------------------------- five times alone
    def _beyond_alone(self, s: State) -> Singles:
        """Return the probability that the end-to-end latency is above its limit, [member]."""
        stream = self.stream
        left = 1 - s.prompt_share
        moments = (
            s.decode_ms, s.prompt_share / left, s.per_ms * self._stall / (left * left * left), self._steady(s),
            stream.full_ms if stream.grid.chunked else np.full_like(s.batch, np.inf),
        )  # fmt: skip
        decode, held_up, prompts, steady, full = (stream.each(moment.astype(np.float32)) for moment in moments)
        found, own = waits(stream, s, self._ahead), self._own_ms(s)
        places = self._full(s)
        total = np.zeros(decode.size, np.float32)
        for some, share_of, limits, usual in self._answers:
            # Prompts that come during one's own and beside one's tokens hold these up, in steps that are at most full.
            window = some * decode + own
            mean = np.minimum(held_up * window, np.maximum(some, 1) * full)
            variance = prompts * window * (mean / np.maximum(held_up * window, _TINY)) ** 2
            lumps = mean, variance + some * some * steady
            over = self._over(s, Cases(stream, found, self._rows, lumps), -some * decode, limits)
            if places is not None:
                over += self._without_place(s, places, usual - own - some * decode - mean)
            total += share_of * over
        return total

    @cached_property
    def _answers(self) -> list[tuple[Singles, Singles, Singles, Singles]]:
        """Answers that stand for a class's: gaps and share, [member], limits of the latency, [quadrature, member], and their mean."""
        grid, of = self.stream.grid, self.stream.class_of
        alone_ms = self.limits.alone_ms
        if alone_ms is None:
            raise ValueError("FiveTimesAlone needs the latencies of requests alone: use limits_of")
        weights = grid.weights.astype(np.float32)
        singles = (one.astype(np.float32) for one in (answer_gaps(grid), answer_weights(grid), ALONE_FACTOR * alone_ms))
        return [
            (gaps[of], share[of], limits.take(of, axis=-1), (weights @ limits)[of])
            for gaps, share, limits in zip(*singles, strict=True)
        ]

    # -------------------------------------------------------------- percentiles
    def ttft_quantile_ms(self, s: State, above: float) -> Floats:
        """Return the TTFT that this share of a class's requests is above, [member]."""
        stream, found = self.stream, waits(self.stream, s, self._ahead)
        scale = stream.each(stream.step_base_ms(s)) + stream.of_class_and_point(stream.grid.class_added[0])
        return _solved(lambda limit: self.late(s, found, limit.astype(np.float32)), scale, above)

    def tbt_quantile_ms(self, s: State, above: float) -> Floats:
        """Return the mean TBT that this share of a class's requests is above, [member]."""
        found = _solved(lambda limit: self.slow(s, self._beyond_least(limit)), self.stream.each(s.token_ms), above)
        # No token takes less than where nobody else is.
        quantile: Floats = np.maximum(found, self.stream.each(self.stream.alone_ms))
        return quantile


def _most_rows(stream: Stream) -> int:
    """Return how many lengths of prompts are worked on at a time."""
    return max(1, min(_BLOCK // stream.cell_of.size, len(QUADRATURE)))


def _solved(exceeds: Callable[[Floats], Singles], scale: Floats, above: float) -> Floats:
    """Return the time that is exceeded with this probability, by halving between a tenth and 1000 times the scale."""
    low, high = np.full_like(scale, math.log(0.1)), np.full_like(scale, math.log(1e3))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = exceeds(scale * np.exp(middle)) > above
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    solved: Floats = scale * np.exp((low + high) / 2)
    return solved
