"""What first tokens wait for beyond their own prompt, in closed form; see `core.stream` for shapes and units.

Prompts are the customers of an M/G/1 queue: each takes what it adds to steps, and its part of the decode steps that it fills
(its last step it shares with whoever comes before that begins). Whole prompts that come within one step share the next one;
before theirs the decode step under way has to end, which those who come later wait for too. Three cases, each a
gamma-distributed time by mean and variance:

- Prompts are ahead: in order of arrival all that came before; in order of deadline those whose limit is not later, a
  preemptive priority, since each step chooses anew. Who has a later deadline is delayed by those who overtake.
- Only prompts of later deadlines are there: what is left of those, but never more than two full steps.
- None: the decode step under way, uniformly.

Who comes later fills up one's last step as far as the budget has room.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.cells import Indices
from dynamollm.core.records import Order
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import LEAST_CHUNK, Stream

_STEPS_OF_LATER: Final = 1.5
"""Full steps that prompts of later deadlines hold up a first token for: the one under way, half of it on average, and one's own."""
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
        return Ahead(one, np.ones((1, 1), stream.dtype), stream.added[:, None])
    grid, cells = stream.grid, (stream.mix_of, stream.point_of)
    distinct, group = np.unique(limits_ms, return_inverse=True)
    # Shares by group: of the classes whose deadlines are not later, the others' are zero.
    shares = grid.shares * (limits_ms <= distinct[:, None])[:, None, :]
    added = (shares @ grid.class_added[:, None])[:, :, *cells]
    return Ahead(group, shares.sum(axis=-1)[:, cells[0]].astype(stream.dtype), added.astype(stream.dtype))


def waits(stream: Stream, s: State, ahead: Ahead) -> Waits:
    """Return what first tokens wait for."""
    base, whole, chunked = stream.step_base_ms(s), stream.added[0], stream.grid.chunked
    chunk = np.maximum(stream.grid.budget - (s.batch if chunked else 0.0), LEAST_CHUNK)
    quiet_ms = (1 - np.exp(-s.batch)) * s.decode_ms
    if chunked:
        # Whole steps of their own tokens take more than the same tokens in steps by themselves: see `Stream`.
        shared = s.prompt_share / np.maximum(s.per_ms, _TINY)
        scale, steps = (shared + base * stream.inputs / chunk) / whole, None
    else:
        scale = np.ones(1)
        steps = _Steps(base, base + quiet_ms / 2, np.maximum(1.0, s.per_ms * (base + whole)))
    behind = 1 + np.minimum(s.per_ms * whole, 1.0) * chunk / (chunk + stream.inputs)
    queued, mean, square = _queue(s, scale, steps, ahead)
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
        most = _STEPS_OF_LATER * (s.decode_ms + stream.full_ms)
        share = most / first
        beyond = np.exp(-share)
        second = 2 * first * first * (1 - beyond * (1 + share))
        first = first * (1 - beyond)
    return Waits(
        queued, queued_mean, queued_variance, later, first, np.maximum(second - first * first, _TINY), quiet_ms
    )


@dataclass(frozen=True, slots=True)
class _Steps:
    """Steps of whole prompts; what prompts that ride with decoding take is counted as theirs."""

    own_ms: Floats
    """What such a step takes besides them."""
    seen_ms: Floats
    """The same with what is left of the decode step before it, as those see it who come later."""
    together: Floats
    """How many prompts share one, 1 or more."""


def _queue(s: State, scale: Floats, steps: _Steps | None, ahead: Ahead) -> tuple[Floats, Floats, Floats]:
    """Return load, and mean and square of the wait where there is one, of M/G/1 queues (Takács), [group, cell]."""
    square = scale * scale
    # The moments of what prompts add × scale, and of the steps that they share.
    w1, w2, w3 = scale * ahead.added[0], square * ahead.added[1], square * scale * ahead.added[2]
    load = np.clip(s.per_ms * w1, _TINY, _MOST_LOAD)
    free = 1 - load
    if steps is not None:
        seen, share = steps.seen_ms, ahead.share / steps.together
        free = 1 - np.clip(s.per_ms * (w1 + steps.own_ms * share), _TINY, _MOST_LOAD)
        with_step = w1 + seen * share
        w3 = w3 + seen * (3 * w2 + seen * (2 * w1 + with_step))
        w2 = w2 + seen * (w1 + with_step)
        w1 = with_step
        load = np.clip(s.per_ms * w1, _TINY, _MOST_LOAD)
    half = s.per_ms / free
    first = half * w2 / 2
    second = 2 * first**2 + half * w3 / 3
    return load, first / load, second / load
