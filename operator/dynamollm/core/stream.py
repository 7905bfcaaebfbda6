"""The state of an instance under a Poisson stream of a class mix, in closed form, for many mixes and points at once.

A point is a TP degree at a clock, a cell is a mix at a point, and a member is a class of a cell's mix; times are ms. The
state is the mean batch B, from which all else follows: a decode step takes D(B), prompts add E ms a request to the steps
that they ride in (or have of their own, on an engine of 2023), so that by Little's law λ = B / (outputs · D + B · E).

Cells are listed one after the other and everything is an array over them, or over their members: numpy is several times
slower where it has to repeat what is the same at all points, and a search can go on with the cells that are not done.

``core.waiting`` has what first tokens wait for, ``core.violation`` how often the SLO is missed, ``core.capacity`` the
largest rate that keeps it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from dynamollm.core.cells import Cells, Indices, Singles
from dynamollm.core.classes import RequestClass
from dynamollm.core.lengthspread import bounds, bounds_of, variation, within
from dynamollm.core.normal import above_normal
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load
from dynamollm.core.residual import Excess, mean_excess_ms
from dynamollm.core.state import Fluctuation, State
from dynamollm.core.steptable import Floats, step_table

QUADRATURE: Final = ((-2.857, 0.01126), (-1.3556, 0.22208), (0.0, 0.53332), (1.3556, 0.22208), (2.857, 0.01126))
"""Gauss-Hermite points and weights of a standard normal."""

LEAST_CHUNK: Final = 64.0
"""Tokens: a budget that decoding nearly fills still lets so many prompt tokens through."""

_KV_SIGMAS: Final = 3.1
"""Deviations of what sequences hold that the KV cache has room for: a prompt that finds none waits for seconds, and all behind
it. With 2.33 (one moment of a hundred) rates were a fifth too high where memory is what limits."""

TAIL_FROM_MS, TAIL_RATIO, TAIL_STEPS = 10.0, 1.284, 26
"""Where the tail of what prompts add to steps is known: from 10 ms to 5 s."""

NEWTON: Final = 3
"""From the chord: leaves the batch within a hundred thousandth, of 1e-8 in nearly all cases."""
_LEAST_SLOPE: Final = 0.05
_MOST_SHARE: Final = 1 - 1e-6
_MOST_LASTING: Final = 0.9
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Mixes:
    """Mixes of the same classes, whose mean lengths are the same in all of them."""

    classes: tuple[RequestClass, ...]
    rate_per_s: Floats
    """[mix, class] requests/s; 0.0 where a class is not in the mix."""
    input_tokens: Floats
    """[class] mean."""
    output_tokens: Floats
    """[class] mean, at least 1."""
    brief_share: Floats
    """[class] of the answers, 0 to 1."""

    def load(self, index: int) -> Load:
        """Return one mix as a load."""
        rates = self.rate_per_s[index]
        columns = zip(self.classes, rates, self.input_tokens, self.output_tokens, self.brief_share, strict=True)
        return {
            request_class: ClassLoad(float(rate), float(inputs), float(outputs), float(brief))
            for request_class, rate, inputs, outputs, brief in columns
            if rate > 0
        }


def mixes_of(parts: Load, rate_per_s: Floats) -> Mixes:
    """Return mixes of these classes, [mix, class] requests/s, with the lengths that they have here."""
    return Mixes(
        classes=tuple(parts),
        rate_per_s=rate_per_s,
        input_tokens=np.array([part.input_tokens for part in parts.values()], np.float64),
        output_tokens=np.array([part.output_tokens for part in parts.values()], np.float64),
        brief_share=np.array([part.brief_share for part in parts.values()], np.float64),
    )


class Grid:
    """Mixes, and points where instances might run: what is known of each before they meet.

    Attributes:
        table: step costs.
        chunked: whether prompts ride in steps with decoding, up to the budget; else they have steps of their own.
        sequences: that decode together at most.
        shares: [mix, class] of the requests.
        class_of: [mix's class] the classes that mixes have, those of one mix after those of the mix before.
        share: [mix's class] of the requests of its mix.
        counts: [mix] how many classes it has.
        first: [mix] where they begin.
        inputs: [mix] mean tokens.
        token_inputs: [mix] the same, weighed by tokens.
        outputs: [mix] mean tokens.
        context: [mix] tokens that a sequence holds on average.
        context_spread: [mix] root of the mean square of that, over the mean.
        prompt_tokens: [quadrature, class] lengths that stand for a class's.
        more_steps: [quadrature, class] steps that such prompts take beyond the first.
        prompt_ms: [quadrature, class, point] what such prompts add to steps.
        added: [moment, mix, point] first three moments of that over all requests.
        class_added: [moment, class, point] the same of one class.
        full_ms: [point] what prompts add to a step that they fill.
        base_ms: [point] what a step of prompts alone takes beside them; 0.0 where they ride with decoding.
    """

    def __init__(
        self, profile: Profile, mixes: Mixes, *, tensor_parallel: Sequence[int], clocks_mhz: Sequence[int]
    ) -> None:
        self.profile, self.mixes = profile, mixes
        self.tensor_parallel, self.clocks_mhz = tuple(tensor_parallel), tuple(clocks_mhz)
        self.table = table = step_table(profile, self.tensor_parallel, self.clocks_mhz)
        self.chunked = profile.interleaves_prefill
        self.budget = float(profile.max_batched_tokens)
        # A step has to leave room for prompts beside the sequences that decode.
        self.sequences = min(float(profile.max_sequences), max(1.0, self.budget - LEAST_CHUNK))
        # A mix of nothing counts as one of everything, and its rate as none.
        rates = np.where(mixes.rate_per_s.sum(axis=1, keepdims=True) > 0, mixes.rate_per_s, 1.0)
        self.shares = rates / rates.sum(axis=1, keepdims=True)
        mix_of, self.class_of = np.nonzero(self.shares)
        self.share = self.shares[mix_of, self.class_of]
        self.counts = np.bincount(mix_of, minlength=rates.shape[0])
        self.first = np.cumsum(self.counts) - self.counts
        inputs, outputs = mixes.input_tokens, np.maximum(mixes.output_tokens, 1.0)
        self.inputs, self.outputs = self.shares @ inputs, self.shares @ outputs
        # Sequences hold their prompt and on average half of their output, weighted by how long they stay.
        self.context = (self.shares @ (outputs * (inputs + outputs / 2))) / self.outputs
        input_bounds, output_bounds = bounds_of(mixes.classes)
        input_cv, self.output_cv = variation(inputs, input_bounds), variation(outputs, output_bounds)
        squares = inputs**2 * (1 + input_cv**2) + inputs * outputs + outputs**2 * (1 + self.output_cv**2) / 3
        self.context_spread = np.sqrt(self.shares @ (outputs * squares) / self.outputs) / self.context
        z, self.weights = np.array(QUADRATURE).T
        sigma = np.sqrt(np.log(1 + input_cv**2))
        least, most = bounds(inputs, input_bounds)
        most = np.minimum(most, profile.max_input_tokens)
        self.prompt_tokens = np.clip(inputs * np.exp(sigma * z[:, None] - sigma**2 / 2), least, most)
        self.token_inputs = (self.shares @ (inputs**2 * (1 + input_cv**2))) / self.inputs
        self.more_steps = np.floor(self.prompt_tokens / self.budget) * self.chunked
        most = np.full(1, self.budget)
        self.full_ms = table.prefill_ms(most, most * (0.0 if self.chunked else most)) - table.one_token_ms
        self.base_ms = 0.0 * table.one_token_ms if self.chunked else table.one_token_ms
        self.prompt_ms = once = self._added_ms(self.prompt_tokens)
        moments = np.stack([once, once * once, once * once * once]).reshape(3, self.weights.size, -1)
        self.class_added = (self.weights @ moments).reshape(3, *once.shape[1:])
        self.added = self.shares @ self.class_added

    @cached_property
    def tails(self) -> Floats:
        """Probability that a prompt adds more than ``TAIL_FROM_MS`` · ``TAIL_RATIO`` ** k to steps, [k, mix, point]."""
        first, second, _ = self.class_added
        sigma = np.sqrt(np.log(np.maximum(second / first**2, 1 + 1e-6)))
        grid = np.log(TAIL_FROM_MS) + np.log(TAIL_RATIO) * np.arange(TAIL_STEPS)[:, None, None]
        tails: Floats = self.shares @ above_normal((grid - np.log(first) + sigma**2 / 2) / sigma)
        return tails

    @cached_property
    def mean_excess_ms(self) -> Singles:
        """By how much a prompt exceeds the times of `core.residual`, on average, [k, mix, point]."""
        limits = bounds_of(self.mixes.classes)[0]
        tokens, weights = within(self.mixes.input_tokens, limits, most=float(self.profile.max_input_tokens))
        excess: Singles = (self.shares @ mean_excess_ms(self._added_ms(tokens), weights)).astype(np.float32)
        return excess

    def _added_ms(self, tokens: Floats) -> Floats:
        """Return what prompts of these lengths, [quadrature, class], add to the steps that they ride in."""
        table = self.table
        lengths = tokens[..., None]
        if not self.chunked:
            return table.prefill_ms(lengths, lengths * lengths) - table.one_token_ms
        whole, rest = np.divmod(lengths, self.budget)
        rest = np.maximum(rest, 1.0)
        added = whole * self.full_ms + table.prefill_ms(rest, 0.0 * rest) - table.one_token_ms
        result: Floats = added + lengths * lengths * table.c["square_ms"]
        return result

    def stream(self) -> "Stream":
        """Return all cells, those of one mix after those of the mix before."""
        mixes, points = self.shares.shape[0], self.table.gpus.size
        return Stream(self, np.repeat(np.arange(mixes), points), np.tile(np.arange(points), mixes))


class Stream(Cells):
    """Some cells of a grid.

    Attributes:
        mix_of: [cell]
        point_of: [cell]
        inputs: [cell] mean tokens.
        added: [moment, cell] first three moments of what prompts add to steps.
        full_ms: [cell] what prompts add to a step that they fill.
        base_ms: [cell] what a step of prompts alone takes beside them; 0.0 where they ride with decoding.
        dtype: precision.
    """

    def __init__(self, grid: Grid, mix_of: Indices, point_of: Indices, dtype: type[np.floating] = np.float64) -> None:
        super().__init__(grid, mix_of, point_of, dtype)

        def of_mix(x: Floats) -> Floats:
            return x.astype(dtype).take(mix_of)

        self.inputs, self._outputs, self._context = (of_mix(of) for of in (grid.inputs, grid.outputs, grid.context))
        self._sigmas = of_mix(_KV_SIGMAS * grid.context_spread)
        added = grid.added.astype(dtype).reshape(len(grid.added), -1)
        self.added = added.take(mix_of * grid.table.gpus.size + point_of, axis=1)
        self.full_ms, self.base_ms = (of.astype(dtype).take(point_of) for of in (grid.full_ms, grid.base_ms))
        self._steps = grid.table.at(point_of, dtype)
        self._decode = self._steps.decoding(self._context)
        self._held = np.maximum(self._steps.kv_tokens / self._context - 1, 0.0)
        """Sequences that fill the KV cache beside the one whose prompt is made."""
        self._fluctuation: tuple[State, Fluctuation] | None = None
        """Of the state that was asked for last: it is asked for several times."""

    def only(self, cells: Indices) -> "Stream":
        """Return some of the cells."""
        return Stream(self.grid, self.mix_of[cells], self.point_of[cells], self.dtype)

    def single(self) -> "Stream":
        """Return the same cells in single precision: watts are worked out in half the time, and known to some millionths."""
        return Stream(self.grid, self.mix_of, self.point_of, np.float32)

    # ------------------------------------------------------------------ the state
    @cached_property
    def most(self) -> Floats:
        """The largest mean batch: of the engine's sequences, and of what the KV cache holds with its fluctuations, [cell]."""
        # (√B)² + σ·√B = held
        sigmas = self._sigmas
        root = (-sigmas + np.sqrt(sigmas**2 + 4 * self._held)) / 2
        most: Floats = np.minimum(root**2, self.grid.sequences)
        return most

    @cached_property
    def full(self) -> Floats:
        """The batch that leaves no room at all for another, [cell]."""
        full: Floats = np.minimum(self._held, self.grid.sequences)
        return full

    @cached_property
    def alone_ms(self) -> Floats:
        """A decode step of one sequence of the mix, [cell]."""
        return self.decode_ms(np.ones(self.mix_of.size, self.dtype))

    @cached_property
    def _rise(self) -> Floats:
        """What a sequence adds to a decode step, on average up to the largest batch, [cell]."""
        most = self.most
        rise: Floats = (self.decode_ms(1 + most) - self.alone_ms) / np.maximum(most, _TINY)
        return rise

    @cached_property
    def _together(self) -> tuple[Floats, Floats]:
        """Tokens of the prompt that a token is of, on average, a step's budget at most; and what each adds to a step."""
        tokens = np.minimum(self.grid.token_inputs.astype(self.dtype).take(self.mix_of), self.grid.budget)
        return tokens, self.part_ms(tokens) / tokens

    def _busy_with_slope(self, batch: Floats, decode_ms: Floats) -> tuple[Floats, Floats]:
        """Return what prompts take of time, by request, and its derivative by the batch, [..., cell].

        Those that come within one step share the next, and as many come as leave: for every so many steps one of the batch. Whole
        prompts share what a step takes beside them. Where they ride with decoding, more tokens in a step take more each: the
        first ones are free, as long as reading the weights takes longer.
        """
        added, base = self.added[0], self.base_ms
        if self.grid.chunked:
            tokens, each = self._together
            more = np.minimum(tokens + batch * self._tokens_of_one, self.grid.budget)
            taken, slope = self._steps.tokens_with_slope(more)
            by_token = (taken - self._steps.one_token_ms) / more
            growing = np.where(more < self.grid.budget, self._tokens_of_one, 0.0)
            scale = added / each
            return scale * by_token, scale * (slope - by_token) / more * growing
        per_ms = batch / (self._outputs * decode_ms + batch * (added + base))
        others = np.maximum(per_ms * (decode_ms + base / 2), _TINY)
        alone = np.exp(-others)
        shared = (1 - alone) / others
        return added + base * shared, base * (alone - shared) / np.maximum(batch, _TINY)

    @cached_property
    def _tokens_of_one(self) -> Floats:
        """Prompt tokens that come to each step for every sequence that decodes, [cell]."""
        return np.asarray(self.inputs / self._outputs)

    def at_batch(self, batch: Floats) -> State:
        """Return the state at a mean batch, [..., cell]."""
        decode_ms = self.decode_ms(1 + batch)
        busy, _ = self._busy_with_slope(batch, decode_ms)
        per_ms = batch / (self._outputs * decode_ms + batch * busy)
        share = np.minimum(per_ms * busy, _MOST_SHARE)
        return State(batch, decode_ms, per_ms, share, decode_ms / (1 - share))

    def at_rate(self, per_ms: Floats, *, newton: int = NEWTON) -> State:
        """Return the state at a rate, requests/ms, [..., cell]; that of the largest batch where there is none."""
        most, tokens = self.most, per_ms * self._outputs
        # Along the chord of decode times between no batch and the largest: a step is nearly linear in its batch.
        asked = tokens / np.maximum(1 - per_ms * (self.added[0] + self.base_ms), _TINY)
        batch = np.minimum(asked * self.alone_ms / np.maximum(1 - asked * self._rise, _TINY), most)
        for _ in range(newton):
            now, more = self._decode.with_slope(1 + batch)
            busy, bend = self._busy_with_slope(batch, now)
            left = np.maximum(1 - per_ms * busy, _TINY)
            asked = tokens / left
            # Newton on B - asked(B) · D(1 + B); where the slope is 1 there is no state.
            slope = np.maximum(1 - asked * (more + now * bend * per_ms / left), _LEAST_SLOPE)
            there = np.clip(batch + (asked * now - batch) / slope, 0.0, most)
            batch, apart = there, there - batch
        decode_ms = now + more * apart
        share = np.minimum(per_ms * (busy + bend * apart), _MOST_SHARE)
        return State(batch, decode_ms, per_ms, share, decode_ms / (1 - share))

    def decode_ms(self, batch: Floats) -> Floats:
        """Return the time of a decode step of so many sequences of the mix, [..., cell]."""
        return self._decode.ms(batch)

    def fluctuation(self, s: State) -> Fluctuation:
        """Return how the batch fluctuates: Little's law linearised around the mean, and counted in simulation (docs/model.md).

        A batch that happens to be large is slower and so lasts: each sequence more makes all the others leave later, and so
        does each prompt that they wait for.
        """
        if self._fluctuation is None or self._fluctuation[0] is not s:
            more_ms = self.decode_ms(2 + s.batch) - s.decode_ms
            lasting = np.minimum(s.batch * more_ms / s.decode_ms, _MOST_LASTING)
            variance = s.batch / (1 - lasting) * (1 + 1 / (1 - s.prompt_share) ** 2) / 2
            self._fluctuation = s, Fluctuation(more_ms, variance)
        return self._fluctuation[1]

    def filled(self, s: State) -> Floats:
        """Return the share of time that prompts fill, with their part of the decoding beside them, [..., cell]."""
        if not self.grid.chunked:
            return s.prompt_share
        chunk = np.maximum(self.grid.budget - s.batch, LEAST_CHUNK)
        filled: Floats = s.prompt_share + s.per_ms * s.decode_ms * self.inputs / chunk
        return filled

    def part_ms(self, tokens: Floats) -> Floats:
        """Return what so many tokens of prompts add to a step, without what they look back at, [cell]."""
        part: Floats = self._steps.prefill_ms(tokens, 0.0 * tokens) - self._steps.one_token_ms
        return part

    @cached_property
    def excess(self) -> Excess:
        """By how much whole prompts exceed a time, [member]."""
        return Excess(self.grid.mean_excess_ms, self.each(self.mix_of * self.grid.full_ms.size + self.point_of))

    @cached_property
    def beside(self) -> Floats:
        """How many times as much a whole prompt adds to a step beside another one as alone, [cell].

        What a step takes besides prompts hides what their first tokens add to it.
        """
        other = np.maximum(self.inputs, 1.0)
        tokens = np.maximum(self.grid.token_inputs.astype(self.dtype).take(self.mix_of), 1.0)
        squares = tokens * tokens, other * other
        both = self._steps.prefill_ms(tokens + other, squares[0] + squares[1])
        alone, without = self._steps.prefill_ms(tokens, squares[0]), self._steps.prefill_ms(other, squares[1])
        beside: Floats = np.maximum((both - without) / np.maximum(alone - self.base_ms, _TINY), 1.0)
        return beside

    def step_base_ms(self, s: State) -> Floats:
        """Return what a step with prompts takes beside them, [..., cell]."""
        return s.decode_ms if self.grid.chunked else self.base_ms

    # ------------------------------------------------------------------ power
    def busy(self, s: State) -> Floats:
        """Return the share of time with any request inside, [..., cell]."""
        busy: Floats = 1 - np.exp(-s.batch - s.prompt_share)
        return busy

    @cached_property
    def _mean_prompt(self) -> tuple[Floats, Floats, Floats]:
        """Tokens of the mean prompt in a step, their square, and the time of a step of it alone, [cell]."""
        tokens = np.minimum(self.inputs, self.grid.budget)
        some = np.maximum(tokens, 1.0)
        return tokens, tokens * tokens, self._steps.prefill_ms(some, some * some)

    def power_w(self, s: State) -> Floats:
        """Return the mean watts of all GPUs of an instance, [..., cell]."""
        steps, nothing = self._steps, np.zeros(1, self.dtype)
        busy = self.busy(s)
        # While any request is inside.
        batch = np.maximum(1.0, s.batch / np.maximum(busy, _TINY))
        context, decode_ms = batch * self._context, self.decode_ms(batch)
        decode_w = steps.power_w(decode_ms, nothing, nothing, batch, context)
        tokens, squared, prompt_ms = self._mean_prompt
        if self.grid.chunked:
            beside_ms = decode_ms + prompt_ms - steps.one_token_ms
            prefill_w = steps.power_w(beside_ms, tokens, squared, batch, context)
        else:
            prefill_w = steps.power_w(prompt_ms, tokens, squared, nothing, nothing)
        prefill = np.minimum(busy, s.prompt_share)
        watts = prefill * prefill_w + (busy - prefill) * decode_w + (1 - busy) * self.grid.profile.loaded_idle_w
        return watts * steps.gpus
