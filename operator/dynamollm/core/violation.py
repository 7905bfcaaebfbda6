"""How often the SLO is missed, in closed form, by its three rules; see `core.stream` for shapes and units.

Each time is a certain part (a prompt's own steps, at five lengths that stand for its class's) plus a wait by mean and
variance, taken as gamma-distributed: the cube root of a gamma variable is nearly normal (Wilson and Hilferty, 1931), and
the normal tail is taken as 1 / (1 + exp(1.5976 z + 0.07056 z³)) (error below 2e-4), in single precision and in place: this
is the inner loop of planning.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from dynamollm.core.records import Order, Slo, SloRule
from dynamollm.core.steptable import Floats, step_table
from dynamollm.core.stream import (
    MOST_DEVIATIONS,
    QUADRATURE,
    TAIL_FROM_MS,
    TAIL_RATIO,
    TAIL_STEPS,
    Grid,
    Indices,
    Singles,
    State,
    Stream,
    above_normal,
)
from dynamollm.core.waiting import Waits, ahead, waits

ALONE_FACTOR: Final = 5.0
"""SloRule.FIVE_TIMES_ALONE: the end-to-end latency may be so many times that of the request alone."""

_OUTPUT_POINTS: Final = (-1.4, 0.0, 1.4)
"""Deviations from the mean output, of equal weight: a short answer has less slack, a long one more. A little wider than three
points of a normal variable would be, since it is the short ones that miss."""

_HALVINGS: Final = 16
"""Of a bracket around a percentile: an error below 0.02 %."""

_BLOCK: Final = 32_768
"""Numbers that are worked on at a time: with what they need they stay in a core's own cache."""

_TINY, _THIRD = np.float32(1e-9), np.float32(1 / 3)
_NINE = np.float32(9)
_HALF, _TWELFTH = np.float32(1 / 2), np.float32(1 / 12)
_NOTHING, _ENDLESS = np.float32(0.0), np.float32(np.inf)
_SCALE = np.float32(0.07056 ** (1 / 3))
_LINEAR, _FARTHEST = np.float32(1.5976) / _SCALE, np.float32(MOST_DEVIATIONS) * _SCALE
"""So that the cubic of the normal tail is y³ + linear · y."""


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
    return Limits(slo, order, ttft_ms, tbt_ms, _alone_ms(grid) if slo.rule is SloRule.FIVE_TIMES_ALONE else None)


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
            return stream.largest(np.maximum(late, self._long_gaps(s)))
        kept = (1 - late) * (1 - self.slow(s, self._tbt_root))
        return stream.sums((1 - kept) * stream.share)

    # -------------------------------------------------------------- first tokens
    @cached_property
    def _ttft_ms(self) -> Singles:
        limits: Singles = self.limits.ttft_ms.astype(np.float32)[self.stream.class_of]
        return limits

    def late(self, s: State, found: Waits, limits_ms: Singles) -> Singles:
        """Return the probability that a first token comes after a limit, [member]."""
        return self._over(s, _Cases(found, self._rows, self.stream.cell_of), limits_ms)

    def _over(self, s: State, cases: "_Cases", limits_ms: Singles, alone_ms: Singles | None = None) -> Singles:
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
        """One over the gaps between the tokens of a mean answer, of which there is one at least, [member]."""
        gaps = np.maximum(1.0, self.stream.grid.mixes.output_tokens - 1)
        per_gap: Singles = (1 / gaps).astype(np.float32)[self.stream.class_of]
        return per_gap

    @cached_property
    def _tbt_root(self) -> Singles:
        return self._beyond_least(self.limits.tbt_ms[self.stream.class_of])

    def _beyond_least(self, limits_ms: Floats) -> Singles:
        """Return the cube roots of what limits of the mean TBT leave above that of a request alone, [member]."""
        left = (limits_ms - self.stream.each(self.stream.alone_ms)).astype(np.float32)
        return _cube_root(np.maximum(left, _TINY))

    @cached_property
    def _stall(self) -> Floats:
        """Second moment of what prompts hold up tokens by, [cell]."""
        base, added = self.stream.base_ms, self.stream.added
        stall: Floats = added[1] + 2 * added[0] * base + base * base
        return stall

    def _token_tail(self, s: State) -> tuple[Singles, Singles, Singles]:
        """Return what tokens take beyond those of a request alone: the mean, and the parts of its variance, [member].

        The mean TBT over n gaps varies by the first of them / n, and by the second.
        """
        spread = (self.stream.decode_ms(2 + s.batch) - s.decode_ms) / (1 - s.prompt_share)
        mean, prompts = s.token_ms - self.stream.alone_ms, s.per_ms * s.token_ms * self._stall
        moments = mean, prompts, spread * spread * s.batch
        mean, prompts, steady = (self.stream.each(moment.astype(np.float32)) for moment in moments)
        return mean, prompts, steady

    def slow(self, s: State, root: Singles) -> Singles:
        """Return the probability that a request's mean TBT is above a limit, given as its ``_beyond_least``, [member]."""
        mean, prompts, steady = self._token_tail(s)
        above, room = np.empty_like(root), np.empty_like(root)
        usual = _tail(root, *_normal(mean, prompts * self._per_gap + steady), out=above, room=room)
        return usual if self.stream.grid.chunked else np.maximum(usual, self._stalled(s, root))

    def _stalled(self, s: State, root: Singles) -> Singles:
        """Return the probability that one whole prompt is enough to make a request slow, [member].

        Where tokens are few that is how they become slow, which no gamma shows.
        """
        stream = self.stream
        slack = root.astype(np.float64) ** 3 - stream.each(s.decode_ms - stream.alone_ms)
        base, per_token = stream.each(stream.base_ms), stream.each(s.per_ms * s.decode_ms)
        total = np.zeros(root.size)
        for gaps in _gaps(stream.grid):
            some = np.maximum(gaps, 1.0)[stream.class_of]
            total += 1 - np.exp(-per_token * some * self._longer(some * slack - base))
        return (total / len(_OUTPUT_POINTS)).astype(np.float32)

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

    def _long_gaps(self, s: State) -> Floats:
        """Return the share of all gaps between tokens that are above the limit, [member].

        A gap is long where a prompt beside it fills the slack (in as many full steps as it takes, where those are long), or
        the batch alone does.
        """
        limits_ms = self.limits.tbt_ms[self.stream.class_of]
        found = np.zeros(limits_ms.size)
        for limit in np.unique(limits_ms):
            found = np.where(limits_ms == limit, self.stream.each(self._gaps_above(s, float(limit))), found)
        return found

    def _gaps_above(self, s: State, limit_ms: float) -> Floats:
        stream, chunked = self.stream, self.stream.grid.chunked
        slack = limit_ms - s.decode_ms
        spread = (stream.decode_ms(2 + s.batch) - s.decode_ms) * np.sqrt(s.batch)
        alone = above_normal(slack / np.maximum(spread, _TINY))
        room = np.maximum(slack - stream.base_ms, 1e-9) / (1 + np.minimum(s.prompt_share, 0.5))
        # Log-normal by two moments.
        e1, e2 = stream.of_class_and_point(stream.grid.class_added[:2])
        sigma = np.sqrt(np.log(np.maximum(e2 / e1**2, 1 + 1e-6)))
        longer = above_normal((stream.each(np.log(room)) + sigma**2 / 2 - np.log(e1)) / sigma)
        if chunked:
            several = np.maximum(e1 / stream.each(stream.full_ms), 1.0)
            longer = np.where(stream.each(slack < stream.full_ms), longer * several, 0.0)
        hit = 1 - np.exp(-s.per_ms * (s.token_ms if chunked else s.decode_ms) * stream.sums(stream.share * longer))
        above: Floats = np.minimum(1.0, alone + hit)
        return above

    # -------------------------------------------------------------- five times alone
    def _beyond_alone(self, s: State) -> Singles:
        """Return the probability that the end-to-end latency is above its limit, [member]."""
        stream, alone_ms = self.stream, self.limits.alone_ms
        if alone_ms is None:
            raise ValueError("FiveTimesAlone needs the latencies of requests alone: use limits_of")
        decode, waited = (stream.each(one.astype(np.float32)) for one in (s.decode_ms, s.token_ms - s.decode_ms))
        _, prompts, steady = self._token_tail(s)
        found = waits(stream, s, self._ahead, to_end=True)
        total = np.zeros(decode.size, np.float32)
        for alone, gaps in zip(alone_ms, _gaps(stream.grid), strict=True):
            some = gaps.astype(np.float32)[stream.class_of]
            # What prompts beside them add to tokens comes in lumps.
            lumps = some * waited, some * some * (prompts / np.maximum(some, 1.0) + steady)
            limits = (ALONE_FACTOR * alone).astype(np.float32)[:, stream.class_of]
            total += self._over(s, _Cases(found, self._rows, stream.cell_of, lumps), -some * decode, limits)
        return total * np.float32(1 / len(_OUTPUT_POINTS))

    # -------------------------------------------------------------- percentiles
    def ttft_quantile_ms(self, s: State, above: float) -> Floats:
        """Return the TTFT that this share of a class's requests is above, [member]."""
        stream, found = self.stream, waits(self.stream, s, self._ahead)
        scale = stream.each(stream.step_base_ms(s)) + stream.of_class_and_point(stream.grid.class_added[0])
        return _solved(lambda limit: self.late(s, found, limit.astype(np.float32)), scale, above)

    def tbt_quantile_ms(self, s: State, above: float) -> Floats:
        """Return the mean TBT that this share of a class's requests is above, [member]."""
        return _solved(lambda limit: self.slow(s, self._beyond_least(limit)), self.stream.each(s.token_ms), above)


def _most_rows(stream: Stream) -> int:
    """Return how many lengths of prompts are worked on at a time."""
    return max(1, min(_BLOCK // stream.cell_of.size, len(QUADRATURE)))


class _Cases:
    """The cases of a wait, as members meet them: [member]."""

    def __init__(
        self, found: Waits, rows: Indices, cells: Indices, more: tuple[Singles, Singles] | None = None
    ) -> None:
        """Take ``more`` (mean and variance) on top of each wait; None: nothing, for sure.

        Args:
            found: waits by group and cell.
            rows: of each member, its group and cell as one.
            cells: of each member.
            more: [member]
        """
        waits = [(found.queued, found.queued_mean, found.queued_variance)]
        quiet = 1 - found.queued
        if found.later is not None:
            waits.append((found.later, found.later_mean, found.later_variance))
            quiet = quiet - found.later

        def each(x: Singles) -> Singles:
            picked: Singles = x.ravel().take(rows if x.ndim > 1 else cells)
            return picked

        self._queued: list[tuple[Singles, Singles, Singles]] = []
        """Probability, and what makes a normal deviation."""
        for case in waits:
            probability, mean, variance = (one.astype(np.float32) for one in case)
            if more is None:
                factor, offset = (each(one) for one in _normal(mean, variance))
            else:
                factor, offset = _normal(each(mean) + more[0], each(variance) + more[1])
            self._queued.append((each(probability), factor, offset))
        step: Singles = each(found.quiet_ms.astype(np.float32)) + _TINY
        square: Singles = step * step
        self._quiet = each(quiet.astype(np.float32))
        self._per_step = self._quiet / step
        self._normal = None if more is None else _normal(more[0] + step * _HALF, more[1] + square * _TWELFTH)
        """Where nothing else varies, the wait for the step under way is uniform."""

    def over(self, slack: Singles, rooms: Sequence[Singles]) -> Singles:
        """Return P(wait > slack), [length, member], in one of the rooms."""
        root, total, above, room = rooms
        np.clip(slack, _TINY, _ENDLESS, out=slack)  # np.maximum takes twice as long
        _cube_root(slack, out=root)
        if self._normal is None:
            np.multiply(slack, self._per_step, out=total)
            np.subtract(self._quiet, total, out=total)
            np.clip(total, _NOTHING, _ENDLESS, out=total)
        else:
            _tail(root, *self._normal, probability=self._quiet, out=total, room=room)
        for probability, factor, offset in self._queued:
            total += _tail(root, factor, offset, probability=probability, out=above, room=room)
        return total


def _cube_root(x: Singles, out: Singles | None = None) -> Singles:
    root: Singles = np.log(x, out=out)
    root *= _THIRD
    return np.exp(root, out=root)


def _normal(mean: Singles, variance: Singles) -> tuple[Singles, Singles]:
    """Return factor and offset that make a normal deviation (× ``_SCALE``) of the cube root of a gamma-distributed time."""
    mean = np.maximum(mean, _TINY)
    variance = np.maximum(variance, _TINY)
    ninth: Singles = variance / (mean * mean * _NINE)
    per_deviation: Singles = np.sqrt(ninth)
    np.divide(_SCALE, per_deviation, out=per_deviation)
    offset: Singles = per_deviation - ninth * per_deviation
    return per_deviation / _cube_root(mean), offset


def _tail(
    root: Singles, factor: Singles, offset: Singles, *, probability: Singles | float = 1.0, out: Singles, room: Singles
) -> Singles:
    """Return, in ``out``, a probability times that to be above ``root``³."""
    np.multiply(root, factor, out=out)
    out -= offset
    np.clip(out, -_FARTHEST, _FARTHEST, out=out)
    np.multiply(out, out, out=room)
    room += _LINEAR
    out *= room
    np.exp(out, out=out)
    out += 1
    return np.divide(probability, out, out=out)


def _alone_ms(grid: Grid) -> Floats:
    """Return the end-to-end latency of requests alone at the largest TP degree and the highest clock."""
    profile = grid.profile
    table = step_table(profile, (max(profile.tensor_parallel),), (profile.max_clock_mhz,))
    inputs, gaps = grid.prompt_tokens, _gaps(grid)[:, None, :]
    decode = table.decode_ms(np.ones_like(inputs), inputs + gaps / 2)
    if not grid.chunked:
        whole: Floats = table.prefill_ms(inputs, inputs * inputs) + gaps * decode
        return whole
    chunks, rest = np.divmod(inputs, grid.budget)
    full, part = np.full_like(inputs, grid.budget), np.maximum(rest, 1.0)
    prompt = chunks * table.prefill_ms(full, 0.0 * full) + np.where(rest > 0, table.prefill_ms(part, 0.0 * part), 0.0)
    latency: Floats = prompt + inputs * inputs * table.c["square_ms"] + gaps * decode
    return latency


def _gaps(grid: Grid) -> Floats:
    """Return the gaps between the tokens of answers that stand for a class's, [output, class]."""
    sigma = np.sqrt(np.log(1 + grid.output_cv**2))
    outputs = grid.mixes.output_tokens * np.exp(sigma * np.array(_OUTPUT_POINTS)[:, None] - sigma**2 / 2)
    gaps: Floats = np.maximum(outputs - 1, 0.0)
    return gaps


def _solved(exceeds: Callable[[Floats], Singles], scale: Floats, above: float) -> Floats:
    """Return the time that is exceeded with this probability, by halving between a tenth and 1000 times the scale."""
    low, high = np.full_like(scale, math.log(0.1)), np.full_like(scale, math.log(1e3))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = exceeds(scale * np.exp(middle)) > above
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    solved: Floats = scale * np.exp((low + high) / 2)
    return solved
