"""What first tokens wait for beyond their own prompt, in closed form; see `core.stream` for shapes and units.

Prompts in chunks are the customers of an M/G/1 queue: each takes what it adds to steps, and its part of the decode steps that it
fills (its last step it shares with whoever comes before that begins). Three cases, each a gamma-distributed time by mean and
variance:

- Prompts are ahead: in order of arrival all that came before; in order of deadline those whose limit is not later, a
  preemptive priority, since each step chooses anew. Who has a later deadline is delayed by those who overtake.
- Only prompts of later deadlines are there: what is left of those, but never more than two full steps.
- None: the decode step under way, uniformly.

Who comes later fills up one's last step as far as the budget has room. `core.wholewaits` has the waits for whole prompts.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.cells import Indices
from dynamollm.core.records import Order
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import LEAST_CHUNK, Stream
from dynamollm.core.wait import Wait
from dynamollm.core.wholewaits import WholeWaits, whole_waits

_STEPS_OF_LATER: Final = 1.5
"""Full steps that prompts of later deadlines hold up a first token for: the one under way, half of it on average, and one's own."""
_MOST_LOAD: Final = 0.999
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Ahead:
    """Whom requests wait for: a group has the classes of one TTFT limit, or all where deadlines do not matter."""

    group: Indices
    """[class]"""
    added: Floats
    """[moment, group, cell] of what prompts add to steps whose deadlines are not later than the group's."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of the groups, [group, cell]."""

    queued: Wait
    """Prompts are ahead."""
    quiet_ms: Floats
    """Length of the decode step under way, [cell]."""
    later: Wait | None = None
    """Only prompts of later deadlines are there; None: never."""
    whole: WholeWaits | None = None
    """The first case in two; None: where prompts are made in chunks."""


def ahead(stream: Stream, limits_ms: Floats, order: Order) -> Ahead:
    """Return whom requests wait for, with these TTFT limits by class."""
    if order is Order.FIRST_COME_FIRST_SERVED or np.ptp(limits_ms) == 0 or not stream.grid.chunked:
        one = np.zeros(limits_ms.size, dtype=np.int64)
        return Ahead(one, stream.added[:, None])
    grid, cells = stream.grid, (stream.mix_of, stream.point_of)
    distinct, group = np.unique(limits_ms, return_inverse=True)
    # Shares by group: of the classes whose deadlines are not later, the others' are zero.
    shares = grid.shares * (limits_ms <= distinct[:, None])[:, None, :]
    added = (shares @ grid.class_added[:, None])[:, :, *cells]
    return Ahead(group, added.astype(stream.dtype))


def waits(stream: Stream, s: State, ahead: Ahead) -> Waits:
    """Return what first tokens wait for."""
    quiet_ms = (1 - np.exp(-s.batch)) * s.decode_ms
    if not stream.grid.chunked:
        whole = whole_waits(stream, s)
        return Waits(whole.queued, quiet_ms, whole=whole)
    chunk = np.maximum(stream.grid.budget - s.batch, LEAST_CHUNK)
    # Whole steps of their own tokens take more than the same tokens in steps by themselves: see `Stream`.
    shared = s.prompt_share / np.maximum(s.per_ms, _TINY)
    scale = (shared + s.decode_ms * stream.inputs / chunk) / stream.added[0]
    behind = 1 + np.minimum(s.per_ms * stream.added[0], 1.0) * chunk / (chunk + stream.inputs)
    queued, mean, square = _queue(s, scale, ahead)
    if len(queued) == 1:
        return Waits(Wait(queued, mean * behind, square * (behind * behind)), quiet_ms)
    # Those of earlier deadlines overtake.
    stretch = np.concatenate([behind[None], behind / (1 - queued[:-1])])
    later = np.clip(queued[-1] - queued, 0.0, 1.0)
    some = np.maximum(later, _TINY)
    first = np.maximum(queued[-1] * mean[-1] - queued * mean, _TINY) / some * behind
    # Of an exponential time no more than so much.
    most = _STEPS_OF_LATER * (s.decode_ms + stream.full_ms)
    share = most / first
    beyond = np.exp(-share)
    second = 2 * first * first * (1 - beyond * (1 + share))
    return Waits(
        Wait(queued, mean * stretch, square * (stretch * stretch)),
        quiet_ms,
        later=Wait(later, first * (1 - beyond), second),
    )


def _queue(s: State, scale: Floats, ahead: Ahead) -> tuple[Floats, Floats, Floats]:
    """Return load, and mean and square of the wait where there is one, of M/G/1 queues (Takács), [group, cell]."""
    square = scale * scale
    w1, w2, w3 = scale * ahead.added[0], square * ahead.added[1], square * scale * ahead.added[2]
    load = np.clip(s.per_ms * w1, _TINY, _MOST_LOAD)
    half = s.per_ms / (1 - load)
    first = half * w2 / 2
    second = 2 * first**2 + half * w3 / 3
    return load, first / load, second / load
