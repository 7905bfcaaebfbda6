"""What first tokens wait for on engines that make whole prompts, in closed form; see `core.stream` for shapes and units.

All who wait when a step ends share the next one, whatever the order of service. So nobody waits for more than what is left of the
step under way, and for the prompts of those who share one's own step: all that come with one in the step under way.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from dynamollm.core.residual import OneAhead
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import Stream
from dynamollm.core.wait import Wait

_TINY: Final = 1e-12

Moments: TypeAlias = tuple[Floats, Floats, Floats]
"""The first three, [cell]."""


@dataclass(frozen=True, slots=True)
class WholeWaits:
    """Waits for whole prompts."""

    queued: Wait
    """For any."""
    more: Wait
    """For more than one."""
    one: OneAhead
    """For one."""


def whole_waits(stream: Stream, s: State) -> WholeWaits:
    """Return what first tokens wait for beyond their own prompts and the decode step under way."""
    base, alone, beside = stream.base_ms, stream.added, _beside(stream)
    one_step = _sum((base, base * base, base * base * base), alone)
    two_step = _sum(one_step, beside)
    in_prompts = s.prompt_share
    decoding = (1 - np.exp(-s.batch)) * (1 - in_prompts)
    # Others who come in the decode step under way, and in a step with one prompt or two.
    with_decode, with_one, with_two = (
        s.per_ms * along for along in (s.decode_ms, one_step[1] / one_step[0], two_step[1] / two_step[0])
    )
    single = np.exp(-(decoding * with_decode + in_prompts * with_one))
    of_one = np.minimum(s.per_ms * single * one_step[0], in_prompts)
    nobody, nobody_yet = np.exp(-with_one), np.exp(-with_decode)
    left_of_one, left_of_two = _left(one_step), _left(two_step)
    left_of_decode = s.decode_ms / 2, s.decode_ms * s.decode_ms / 3
    several = np.maximum(1 - nobody_yet * (1 + with_decode), _TINY)
    more = Wait.any_of(
        Wait(of_one * (1 - nobody), *_with(left_of_one, *_at_least_one(with_one, nobody), beside)),
        Wait(in_prompts - of_one, *_with(left_of_two, with_two, with_two * with_two, beside)),
        Wait(
            decoding * several,
            *_with(
                left_of_decode,
                with_decode * (1 - nobody_yet) / several,
                with_decode * with_decode / several,
                beside,
            ),
        ),
    )
    one = OneAhead(
        per_ms=s.per_ms * single * nobody,
        step_ms=base,
        decoding=decoding * nobody_yet / (single * nobody),
        decode_ms=s.decode_ms,
        beside=stream.beside,
    )
    soon = Wait(of_one * nobody, *left_of_one)
    shared = Wait(decoding * with_decode * nobody_yet, *_with(left_of_decode, np.ones(1), np.zeros(1), beside))
    return WholeWaits(Wait.any_of(more, soon, shared), more, one)


def _beside(stream: Stream) -> Moments:
    """Return the moments of what a prompt adds beside another."""
    factor, (first, second, third) = stream.beside, stream.added
    return factor * first, factor**2 * second, factor**3 * third


def _sum(one: Moments, other: Moments) -> Moments:
    """Return the moments of the sum of two times that do not depend on each other."""
    (a1, a2, a3), (b1, b2, b3) = one, other
    return a1 + b1, a2 + 2 * a1 * b1 + b2, a3 + 3 * (a2 * b1 + a1 * b2) + b3


def _left(step: Moments) -> tuple[Floats, Floats]:
    """Return mean and mean square of what is left of a step for those who come while it runs."""
    first, second, third = step
    return second / (2 * first), third / (3 * first)


def _at_least_one(mean: Floats, nobody: Floats) -> tuple[Floats, Floats]:
    """Return the mean, and that of the ordered pairs, of a Poisson count that is not zero."""
    some = np.maximum(1 - nobody, _TINY)
    return mean / some, mean * mean / some


def _with(left: tuple[Floats, Floats], count: Floats, pairs: Floats, each: Moments) -> tuple[Floats, Floats]:
    """Return mean and mean square of what is left and the prompts of so many others."""
    mean, square = left
    added, added_square = count * each[0], count * each[1] + pairs * each[0] * each[0]
    return mean + added, square + 2 * mean * added + added_square
