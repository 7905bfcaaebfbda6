"""The state of an instance under a Poisson stream of a class mix, in closed form, for many mixes and points at once.

Everything broadcasts to [mix, point] (a point is a TP degree at a clock) or [mix, point, class]; times are ms. The state
is the mean batch B, from which all else follows: a decode step takes D(B), prompts add E ms a request to the steps that
they ride in (or have of their own, on an engine of 2023), so that by Little's law λ = B / (outputs · D + B · E).

``core.waiting`` has what first tokens wait for, ``core.violation`` how often the SLO is missed, ``core.capacity`` the
largest rate that keeps it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from dynamollm.core.classes import Length, RequestClass
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load
from dynamollm.core.steptable import Floats, step_table

_INPUT_BOUNDS: Final = {Length.SHORT: (1.0, 256.0), Length.MEDIUM: (256.0, 1024.0), Length.LONG: (1024.0, 8192.0)}
_OUTPUT_BOUNDS: Final = {Length.SHORT: (1.0, 100.0), Length.MEDIUM: (100.0, 350.0), Length.LONG: (350.0, 2048.0)}
LENGTH_CV: Final = 0.5
_LEAST_CV: Final = 0.05
_BELOW, _ABOVE = 0.9, 0.75
"""Lengths within a class vary less the nearer their mean is to the class's bounds: their coefficient of variation is
about the least of 0.5 and these shares of the distance to the bounds over the mean. Over the classes of the Azure
conversations of 2023 this is within 0.1 of what was counted (0.05 for ML, whose mean is 985, to 0.5)."""

QUADRATURE: Final = ((-2.857, 0.01126), (-1.3556, 0.22208), (0.0, 0.53332), (1.3556, 0.22208), (2.857, 0.01126))
"""Gauss-Hermite points and weights of a standard normal."""

LEAST_CHUNK: Final = 64.0
"""Tokens: a budget that decoding nearly fills still lets so many prompt tokens through."""

_KV_SIGMAS: Final = 2.33
"""Deviations of the batch that the KV cache has to hold: preemption in one moment of a hundred."""

_NEWTON: Final = 6
_LEAST_SLOPE: Final = 0.05
_MOST_SHARE: Final = 1 - 1e-6
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

    def load(self, index: int) -> Load:
        """Return one mix as a load."""
        columns = zip(self.classes, self.rate_per_s[index], self.input_tokens, self.output_tokens, strict=True)
        return {
            request_class: ClassLoad(float(rate), float(inputs), float(outputs))
            for request_class, rate, inputs, outputs in columns
            if rate > 0
        }


@dataclass(frozen=True, slots=True)
class State:
    """Instances at one mean batch each; [mix, point]."""

    batch: Floats
    decode_ms: Floats
    """A decode step at the batch that a request meets."""
    per_ms: Floats
    """Requests/ms."""
    prompt_share: Floats
    """Share of time that prompts add to steps."""
    token_ms: Floats
    """Mean time between two tokens, prompts beside them included."""


class Stream:
    """Mixes on instances at several points.

    Attributes:
        table: step costs.
        chunked: whether prompts ride in steps with decoding, up to the budget; else they have steps of their own.
        shares: [mix, class] of the requests.
        prompt_tokens: [class, quadrature] lengths that stand for a class's.
        prompt_ms: [point, class, quadrature] what such prompts add to steps.
        added: [moment, mix, point] first three moments of that over all requests.
        class_added: [moment, point, class] the same of one class.
        full_ms: [point] what prompts add to a step that they fill.
        base_ms: [point] what a step of prompts alone takes beside them; 0.0 where they ride with decoding.
    """

    def __init__(
        self, profile: Profile, mixes: Mixes, *, tensor_parallel: Sequence[int], clocks_mhz: Sequence[int]
    ) -> None:
        self._profile, self.mixes = profile, mixes
        self.table = step_table(profile, tuple(tensor_parallel), tuple(clocks_mhz))
        self.chunked = profile.interleaves_prefill
        self.budget = float(profile.max_batched_tokens)
        # A mix of nothing counts as one of everything, and its rate as none.
        rates = np.where(mixes.rate_per_s.sum(axis=1, keepdims=True) > 0, mixes.rate_per_s, 1.0)
        self.shares = rates / rates.sum(axis=1, keepdims=True)
        inputs, outputs = mixes.input_tokens, np.maximum(mixes.output_tokens, 1.0)
        self._outputs = (self.shares @ outputs)[:, None]
        self.inputs = (self.shares @ inputs)[:, None]
        # Sequences hold their prompt and on average half of their output, weighted by how long they stay.
        self.context = (self.shares @ (outputs * (inputs + outputs / 2)))[:, None] / self._outputs
        input_cv = _variation(inputs, [_INPUT_BOUNDS[c.input_length] for c in mixes.classes])
        self.output_cv = _variation(outputs, [_OUTPUT_BOUNDS[c.output_length] for c in mixes.classes])
        z, self.weights = np.array(QUADRATURE).T
        sigma = np.sqrt(np.log(1 + input_cv**2))[:, None]
        self.prompt_tokens = np.clip(
            inputs[:, None] * np.exp(sigma * z - sigma**2 / 2), 1.0, float(profile.max_input_tokens)
        )
        most = np.full(1, self.budget)
        self.full_ms = self.table.prefill_ms(most, most * (0.0 if self.chunked else most)) - self.table.one_token_ms
        self.prompt_ms = self._added_ms(self.prompt_tokens)
        self.class_added = np.stack([(self.prompt_ms**k) @ self.weights for k in (1, 2, 3)])
        self.added = np.stack([self.shares @ moment.T for moment in self.class_added])
        self.base_ms = np.zeros(1) if self.chunked else self.table.one_token_ms

    def _added_ms(self, tokens: Floats) -> Floats:
        """Return what prompts of these lengths, [class, quadrature], add to the steps that they ride in."""
        table = self.table
        lengths = tokens[..., None]
        if not self.chunked:
            return np.moveaxis(table.prefill_ms(lengths, lengths * lengths) - table.one_token_ms, -1, 0)
        whole, rest = np.divmod(lengths, self.budget)
        rest = np.maximum(rest, 1.0)
        added = whole * self.full_ms + table.prefill_ms(rest, 0.0 * rest) - table.one_token_ms
        return np.moveaxis(added + lengths * lengths * table.c["square_ms"], -1, 0)

    # ------------------------------------------------------------------ the state
    @cached_property
    def most(self) -> Floats:
        """The largest batch, [mix, point]: of the engine's sequences, and of what the KV cache holds."""
        held = self.table.kv_tokens / self.context - 1
        # (√B)² + σ·√B = held
        root = (-_KV_SIGMAS + np.sqrt(_KV_SIGMAS**2 + 4 * np.maximum(held, 0.0))) / 2
        # A step has to leave room for prompts beside the sequences that decode.
        sequences = min(float(self._profile.max_sequences), max(1.0, self.budget - LEAST_CHUNK))
        most: Floats = np.minimum(root**2, sequences)
        return most

    def at_batch(self, batch: Floats) -> State:
        """Return the state at a mean batch, [mix, point]."""
        decode_ms = self.decode_ms(1 + batch)
        added = self.added[0] + self.base_ms
        per_ms = batch / (self._outputs * decode_ms + batch * added)
        share = np.minimum(per_ms * added, _MOST_SHARE)
        return State(batch, decode_ms, per_ms, share, decode_ms / (1 - share))

    def at_rate(self, per_ms: Floats) -> State:
        """Return the state at a rate, requests/ms, [mix, point]; that of the largest batch where there is none."""
        added = self.added[0] + self.base_ms
        free = np.maximum(1 - per_ms * added, _TINY)
        asked = per_ms * self._outputs / free
        batch = np.minimum(asked * self.decode_ms(np.ones_like(asked)), self.most)
        for _ in range(_NEWTON):
            now, more = self.decode_ms(1 + batch), self.decode_ms(2 + batch)
            # Newton on B - asked · D(1 + B); where the slope is 1 there is no state.
            slope = np.maximum(1 - asked * (more - now), _LEAST_SLOPE)
            batch = np.clip(batch + (asked * now - batch) / slope, 0.0, self.most)
        decode_ms = self.decode_ms(1 + batch)
        share = np.minimum(per_ms * added, _MOST_SHARE)
        return State(batch, decode_ms, per_ms + 0.0 * batch, share, decode_ms / (1 - share))

    def decode_ms(self, batch: Floats) -> Floats:
        """Return the time of a decode step of so many sequences of the mix, [mix, point]."""
        return self.table.decode_ms(batch, batch * self.context)

    def step_base_ms(self, s: State) -> Floats:
        """Return what a step with prompts takes beside them, [mix, point]."""
        return s.decode_ms if self.chunked else self.base_ms + 0.0 * s.decode_ms

    def prompt_steps(self) -> Floats:
        """Return how many steps prompts take, [class, quadrature]."""
        steps: Floats = 1 + np.floor(self.prompt_tokens / self.budget) if self.chunked else 1 + 0 * self.prompt_tokens
        return steps

    # ------------------------------------------------------------------ power
    def busy(self, s: State) -> Floats:
        """Return the share of time with any request inside, [mix, point]."""
        busy: Floats = 1 - np.exp(-s.batch - s.prompt_share)
        return busy

    def power_w(self, s: State) -> Floats:
        """Return the mean watts of all GPUs of an instance, [mix, point]."""
        busy = self.busy(s)
        batch = np.maximum(1.0, s.batch / np.maximum(busy, _TINY))
        prefill = np.minimum(busy, s.prompt_share)
        tokens = np.minimum(self.inputs, self.budget) + 0.0 * batch
        decode_w = self._step_w(0.0 * batch, batch)
        prefill_w = self._step_w(tokens, batch if self.chunked else 0.0 * batch)
        watts = prefill * prefill_w + (busy - prefill) * decode_w + (1 - busy) * self._profile.loaded_idle_w
        return watts * self.table.gpus

    def _step_w(self, tokens: Floats, batch: Floats) -> Floats:
        table, context = self.table, batch * self.context
        some = np.maximum(tokens, 1.0)
        prompt = np.where(tokens > 0, table.prefill_ms(some, some * some), 0.0)
        decode = table.decode_ms(np.maximum(batch, 1.0), context)
        both = np.where(batch > 0, decode + np.where(tokens > 0, prompt - table.one_token_ms, 0.0), prompt)
        return table.power_w(both, tokens, tokens * tokens, batch, context)


def _variation(means: Floats, bounds: Sequence[tuple[float, float]]) -> Floats:
    """Return coefficients of variation of lengths by class; a mean outside its class's bounds tells nothing of them."""
    least, most = np.array(bounds).T
    near = np.minimum(_BELOW * (means - least), _ABOVE * (most - means)) / means
    inside = (means >= least) & (means <= most)
    return np.where(inside, np.clip(near, _LEAST_CV, LENGTH_CV), LENGTH_CV)
