"""Step costs of a profile for many (TP, clock) points at once, in numpy: what the batched capacity model is made of.

The formulae are those of `core.profile` and ``docs/model.md``; ``tests/unit/core/test_steptable.py`` holds both equal.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.profile import Profile

Floats: TypeAlias = NDArray[np.float64]

_NAMES: Final = (
    *("fixed_ms", "compute_ms", "memory_power", "token_ms", "square_ms", "context_ms", "host_ms", "host_sequence_ms"),
    *("prefill_fixed_ms", "prefill_floor_power", "short_ms", "long_ms"),
    *("decode_fixed_ms", "decode_sequence_ms", "decode_square_ms"),
    *("weights_share", "context_share", "token_share", "square_share", "volt", "on_chip_w", "tensor_w", "clock_w"),
    *("static_w", "hbm_w", "limit_w"),
)

_STEP: Final = 1e-4
"""Share of the tokens over which a derivative is taken that has no formula."""


class _Picked(dict[str, Floats]):
    """Coefficients at some points, taken when they are first asked for: latencies need few of them."""

    def __init__(self, every: Mapping[str, Floats], points: NDArray[np.int64], dtype: type[np.floating]) -> None:
        super().__init__()
        self._every, self._points, self._dtype = every, points, dtype

    def __missing__(self, name: str) -> Floats:
        self[name] = picked = self._every[name].astype(self._dtype).take(self._points)
        return picked


class StepTable:
    """Step costs at ``points`` = TP degrees × clocks, TP first; every argument and result broadcasts to [..., point]."""

    def __init__(self, profile: Profile, *, tensor_parallel: Sequence[int], clocks_mhz: Sequence[int]) -> None:
        """Work out the coefficients.

        Raises:
            OutOfRangeError: a TP degree or a clock that was not measured.
        """
        points = [(tp, clock) for tp in tensor_parallel for clock in clocks_mhz]
        found = [profile.coefficients(tensor_parallel=tp, clock_mhz=clock) for tp, clock in points]
        self.c: Mapping[str, Floats] = {name: np.array([one.get(name, 0.0) for one in found]) for name in _NAMES}
        first = found[0]
        self.curves = first["curves"] > 0
        self.exponent, self.inverse = first["exponent"], first["inverse"]
        self.power_exponent, self.power_inverse = first["power_exponent"], first["power_inverse"]
        self.transition = (first.get("transition_tokens", 0.0), first.get("transition_width", 1.0))
        self.gpus = np.array([tp for tp, _ in points], np.float64)
        self.kv_tokens = np.array([float(profile.kv_capacity_tokens(tp)) for tp, _ in points])
        self.one_token_ms = self.prefill_ms(np.ones(1), np.ones(1))

    def prefill_ms(self, tokens: Floats, squared: Floats) -> Floats:
        """Return the time of a step of prompts alone, without the host's; see `Profile.prefill_ms`."""
        c = self.c
        if self.curves:
            middle, width = self.transition
            long = 1.0 / (1.0 + np.exp(-np.clip((squared / tokens - middle) / width, -50.0, 50.0)))
            work = (c["short_ms"] * (1.0 - long) + c["long_ms"] * long) * tokens
            curve: Floats = (c["prefill_floor_power"] + work**self.exponent) ** self.inverse + c["prefill_fixed_ms"]
            return curve
        both = ((c["compute_ms"] * tokens) ** self.exponent + c["memory_power"]) ** self.inverse
        line: Floats = c["fixed_ms"] + both + tokens * c["token_ms"] + squared * c["square_ms"]
        return line

    def tokens_with_slope(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Return the time of a step of prompts alone without what they look back at, and its derivative by the tokens."""
        c = self.c
        if self.curves:
            now, after = (self.prefill_ms(some, 0.0 * some) for some in (tokens, tokens * (1 + _STEP)))
            return now, (after - now) / (tokens * _STEP)
        compute = (c["compute_ms"] * tokens) ** self.exponent
        power = compute + c["memory_power"]
        both = power**self.inverse
        return c["fixed_ms"] + both + tokens * c["token_ms"], both * compute / (power * tokens) + c["token_ms"]

    def decode_ms(self, batch: Floats, context: Floats) -> Floats:
        """Return the time of a decode step, the host's included; see `Profile.decode_ms`."""
        c = self.c
        if self.curves:
            curve: Floats = (
                c["decode_fixed_ms"] + c["decode_sequence_ms"] * batch + c["decode_square_ms"] * batch * batch
            )
            return curve
        both = ((c["compute_ms"] * batch) ** self.exponent + c["memory_power"]) ** self.inverse
        line: Floats = (
            c["fixed_ms"] + both + batch * c["token_ms"] + context * c["context_ms"]
            + c["host_ms"] + c["host_sequence_ms"] * batch
        )  # fmt: skip
        return line

    def at(self, points: NDArray[np.int64], dtype: type[np.floating] = np.float64) -> "StepTable":
        """Return the table at some of its points, in this order, as often as they are named."""
        some = copy(self)
        some.c = _Picked(self.c, points, dtype)
        some.gpus, some.one_token_ms, some.kv_tokens = (
            of.astype(dtype).take(points) for of in (self.gpus, self.one_token_ms, self.kv_tokens)
        )
        return some

    def decoding(self, context: Floats) -> "DecodeSteps":
        """Return the decode steps of sequences that hold so many tokens each, [point]."""
        c = self.c
        if self.curves:
            return DecodeSteps(self, c["decode_fixed_ms"], c["decode_sequence_ms"])
        each = c["token_ms"] + c["host_sequence_ms"] + context * c["context_ms"]
        return DecodeSteps(self, c["fixed_ms"] + c["host_ms"], each)

    def power_w(self, duration_ms: Floats, tokens: Floats, squared: Floats, batch: Floats, context: Floats) -> Floats:
        """Return the watts of each GPU while such a step runs; see `Profile.step`."""
        c = self.c
        bandwidth = np.minimum(1.0, (c["weights_share"] + context * c["context_share"]) / duration_ms)
        operations = ((tokens + batch) * c["token_share"] + squared * c["square_share"]) / duration_ms
        memory, tensor = c["on_chip_w"] * bandwidth, c["tensor_w"] * np.minimum(1.0, operations)
        mixed = (memory**self.power_exponent + tensor**self.power_exponent) ** self.power_inverse
        watts: Floats = np.minimum(
            c["limit_w"], c["static_w"] + c["hbm_w"] * bandwidth + c["volt"] * (mixed + c["clock_w"])
        )
        return watts


@dataclass(frozen=True, slots=True)
class DecodeSteps:
    """Decode steps as a function of the batch alone: what does not depend on it is worked out."""

    table: StepTable
    fixed_ms: Floats
    each_ms: Floats
    """What every sequence adds, beside the smooth maximum or the square."""

    def ms(self, batch: Floats) -> Floats:
        """Return the time of a step."""
        c, table = self.table.c, self.table
        if table.curves:
            curve: Floats = self.fixed_ms + batch * (self.each_ms + batch * c["decode_square_ms"])
            return curve
        both = ((c["compute_ms"] * batch) ** table.exponent + c["memory_power"]) ** table.inverse
        line: Floats = self.fixed_ms + both + batch * self.each_ms
        return line

    def with_slope(self, batch: Floats) -> tuple[Floats, Floats]:
        """Return the time of a step, and its derivative by the batch."""
        c, table = self.table.c, self.table
        if table.curves:
            square = batch * c["decode_square_ms"]
            return self.fixed_ms + batch * (self.each_ms + square), self.each_ms + 2 * square
        compute = (c["compute_ms"] * batch) ** table.exponent
        power = compute + c["memory_power"]
        both = power**table.inverse
        return self.fixed_ms + both + batch * self.each_ms, both * compute / (power * batch) + self.each_ms


@lru_cache(maxsize=64)
def step_table(profile: Profile, tensor_parallel: tuple[int, ...], clocks_mhz: tuple[int, ...]) -> StepTable:
    """Return the step costs at these points, worked out once: plans ask for the same ones over and over."""
    return StepTable(profile, tensor_parallel=tensor_parallel, clocks_mhz=clocks_mhz)
