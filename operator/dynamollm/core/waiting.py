"""What first tokens wait for beyond their own prompt, in closed form; see `core.stream` for shapes and units.

Prompts are the customers of an M/G/1 queue: each takes what it adds to steps, and its part of the decode steps that it
fills. Those that come within one step share the next one, where they fit: a step that they do not fill makes others wait, and
takes nothing from what can be served. Three cases, each a gamma-distributed time by mean and variance:

- Prompts are ahead: in order of arrival all that came before; in order of deadline those whose limit is not later, a
  preemptive priority, since each step chooses anew. Who has a later deadline is delayed by those who overtake.
- Only prompts of later deadlines are there: what is left of those, but never more than two full steps.
- None: the decode step under way, uniformly.

Who comes later fills up one's last step as far as the budget has room.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.records import Order
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import LEAST_CHUNK, Indices, State, Stream

_STEPS_TO_FIRST: Final = 1.5
"""Full steps that prompts of later deadlines hold up a first token for: the one under way, half of it on average, and one's own."""
_STEPS_TO_END: Final = 10.0
"""The same until an answer's end, where it is so short that it matters."""
_MOST_LOAD: Final = 0.999
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Ahead:
    """Whom requests wait for: a group has the classes of one TTFT limit, or all where deadlines do not matter."""

    group: Indices
    """[class]"""
    share: Floats
    """[group, cell] of the requests whose deadlines are not later than the group's."""
    added: Floats
    """[moment, group, cell] of what their prompts add to steps."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of the groups, [group, cell]."""

    queued: Floats
    """Probability that prompts are ahead; with mean and variance of the wait then."""
    queued_mean: Floats
    queued_variance: Floats
    later: Floats | None
    """Probability that only prompts of later deadlines are there; None: never."""
    later_mean: Floats
    later_variance: Floats
    """Mean and variance of the wait then."""
    quiet_ms: Floats
    """Length of the decode step under way, [cell]."""


def ahead(stream: Stream, limits_ms: Floats, order: Order) -> Ahead:
    """Return whom requests wait for, with these TTFT limits by class."""
    if order is Order.FIRST_COME_FIRST_SERVED or np.ptp(limits_ms) == 0:
        one = np.zeros(limits_ms.size, dtype=np.int64)
        return Ahead(one, np.ones((1, 1)), stream.added[:, None])
    grid, cells = stream.grid, (stream.mix_of, stream.point_of)
    distinct, group = np.unique(limits_ms, return_inverse=True)
    # Shares by group: of the classes whose deadlines are not later, the others' are zero.
    shares = grid.shares * (limits_ms <= distinct[:, None])[:, None, :]
    return Ahead(group, shares.sum(axis=-1)[:, cells[0]], (shares @ grid.class_added[:, None])[:, :, *cells])


def waits(stream: Stream, s: State, ahead: Ahead, *, to_end: bool = False) -> Waits:
    """Return what first tokens wait for; ``to_end``: and the tokens after it, which prompts of later deadlines hold up too."""
    base, whole, chunked = stream.step_base_ms(s), stream.added[0], stream.grid.chunked
    chunk = np.maximum(stream.grid.budget - (s.batch if chunked else 0.0), LEAST_CHUNK)
    # Prompts that come within one step share the next one's decoding, as far as they do not fill it.
    together = np.maximum(1.0, s.per_ms * (base + whole))
    scale, beside = np.ones(1), base
    if chunked:
        filled = stream.inputs / chunk
        scale, beside = 1 + base * filled / whole, base * np.maximum(1 - together * filled, 0.0)
    behind = 1 + np.minimum(s.per_ms * whole, 1.0) * chunk / (chunk + stream.inputs)
    queued, mean, square = _queue(s, scale, _Shared(beside, together, free=chunked), ahead)
    quiet_ms = (1 - np.exp(-s.batch)) * s.decode_ms
    if len(queued) == 1:
        queued_mean, nothing = mean * behind, np.zeros(1)
        queued_variance = np.maximum(square * (behind * behind) - queued_mean * queued_mean, _TINY)
        return Waits(queued, queued_mean, queued_variance, None, nothing, nothing, quiet_ms)
    # Those of earlier deadlines overtake.
    stretch = np.concatenate([behind[None], behind / (1 - queued[:-1])])
    queued_mean = mean * stretch
    queued_variance = np.maximum(square * (stretch * stretch) - queued_mean * queued_mean, _TINY)
    later = np.clip(queued[-1] - queued, 0.0, 1.0)
    some = np.maximum(later, _TINY)
    first = np.maximum(queued[-1] * mean[-1] - queued * mean, _TINY) / some * behind
    second = np.maximum(queued[-1] * square[-1] - queued * square, _TINY) / some * (behind * behind)
    if chunked:
        # Of an exponential time no more than so much.
        most = (_STEPS_TO_END if to_end else _STEPS_TO_FIRST) * (s.decode_ms + stream.full_ms)
        share = most / first
        beyond = np.exp(-share)
        second = 2 * first * first * (1 - beyond * (1 + share))
        first = first * (1 - beyond)
    return Waits(
        queued, queued_mean, queued_variance, later, first, np.maximum(second - first * first, _TINY), quiet_ms
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """Steps that prompts do not fill."""

    beside: Floats
    """What such a step takes besides them, ms."""
    together: Floats
    """How many prompts share one, 1 or more."""
    free: bool
    """Whether decoding goes on in it."""


def _queue(s: State, scale: Floats, shared: _Shared, ahead: Ahead) -> tuple[Floats, Floats, Floats]:
    """Return load, and mean and square of the wait where there is one, of M/G/1 queues (Takács), [group, cell]."""
    square, beside = scale * scale, shared.beside
    e1, e2, e3 = scale * ahead.added[0], square * ahead.added[1], square * scale * ahead.added[2]
    # The moments of what prompts add × scale, and of the steps that they share.
    w1 = e1 + beside * (ahead.share / shared.together)
    w2 = e2 + beside * (e1 + w1)
    w3 = e3 + beside * (3 * e2 + beside * (2 * e1 + w1))
    load = np.clip(s.per_ms * w1, _TINY, _MOST_LOAD)
    half = s.per_ms / (1 - (np.clip(s.per_ms * e1, _TINY, _MOST_LOAD) if shared.free else load))
    first = half * w2 / 2
    second = 2 * first**2 + half * w3 / 3
    return load, first / load, second / load
