"""What first tokens wait for beyond their own prompt, in closed form; see `core.stream` for shapes and units.

Prompts are the customers of an M/G/1 queue: each takes what it adds to steps, and its part of the decode steps that it
fills. Three cases, each a gamma-distributed time by mean and variance:

- Prompts are ahead: in order of arrival all that came before; in order of deadline those whose limit is not later, a
  preemptive priority, since each step chooses anew. Who has a later deadline is delayed by those who overtake.
- Only prompts of later deadlines are there: the same wait, but never more than two full steps of them.
- None: the decode step under way, uniformly.

Who comes later fills up one's last step as far as the budget has room.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.records import Order
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import LEAST_CHUNK, State, Stream

_MOST_LOAD: Final = 0.999
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Waits:
    """[mix, point, group]; a group has the classes of one TTFT limit, or all where deadlines do not matter."""

    group: tuple[int, ...]
    """Of each class."""
    queued: Floats
    """Probability that prompts are ahead; with mean and variance of the wait then."""
    queued_mean: Floats
    queued_variance: Floats
    later: Floats | None
    """Probability that only prompts of later deadlines are there; None: never."""
    later_mean: Floats
    later_variance: Floats
    quiet_ms: Floats
    """Length of the decode step under way, [mix, point]."""


def waits(stream: Stream, s: State, limits_ms: Floats, order: Order) -> Waits:
    """Return what first tokens wait for.

    Args:
        stream: the mixes.
        s: their state.
        limits_ms: TTFT limit of each class, [class].
        order: of service.
    """
    base = stream.step_base_ms(s)
    tokens = stream.inputs
    chunk = np.maximum(stream.budget - (s.batch if stream.chunked else 0.0), LEAST_CHUNK)
    whole = stream.added[0]
    # Prompts that come within one step share the next one's decoding.
    together = np.maximum(1.0, s.per_ms * (base + whole))
    filled = tokens / chunk if stream.chunked else 0.0 * s.batch
    scale = 1 + base * filled / whole
    beside = base * np.maximum(1 / together - filled, 0.0)
    behind = 1 + np.minimum(s.per_ms * whole, 1.0) * chunk / (chunk + tokens)
    all_load, all_mean, all_square = _queue(s, scale, beside, np.ones(1), stream.added)
    working = 1 - np.exp(-s.batch)
    if order is Order.FIRST_COME_FIRST_SERVED or np.ptp(limits_ms) == 0:
        mean = all_mean * behind
        variance = np.maximum(all_square * behind**2 - mean**2, _TINY)
        one = slice(None), slice(None), None
        nothing = np.zeros((1, 1, 1))
        return Waits(
            (0,) * limits_ms.size,
            all_load[one],
            mean[one],
            variance[one],
            None,
            nothing,
            nothing,
            working * s.decode_ms,
        )
    distinct = np.unique(limits_ms)
    loads, means, variances = [], [], []
    before = 0.0 * s.batch
    for limit in distinct:
        members = limits_ms <= limit
        share = stream.shares[:, members].sum(axis=1)[:, None]
        moments = np.stack([stream.shares[:, members] @ moment[:, members].T for moment in stream.class_added])
        load, mean, square = _queue(s, scale, beside, share, moments)
        stretch = behind / (1 - before)
        loads.append(load)
        means.append(mean * stretch)
        variances.append(np.maximum((square - mean**2) * stretch**2, _TINY))
        before = load
    queued = np.stack(loads, axis=-1)
    full = s.decode_ms + stream.full_ms
    # A full step under way, uniformly, and a full one of one's own.
    later_mean = np.minimum(all_mean * behind, 1.5 * full)
    later_square = np.minimum(all_square * behind**2, 7 / 3 * full**2)
    return Waits(
        tuple(int(np.searchsorted(distinct, limit)) for limit in limits_ms),
        queued,
        np.stack(means, axis=-1),
        np.stack(variances, axis=-1),
        np.clip(all_load[..., None] - queued, 0.0, 1.0),
        later_mean[..., None],
        np.maximum(later_square - later_mean**2, _TINY)[..., None],
        working * s.decode_ms,
    )


def _queue(s: State, scale: Floats, beside: Floats, share: Floats, moments: Floats) -> tuple[Floats, Floats, Floats]:
    """Return load, and mean and square of the wait where there is one, of an M/G/1 queue (Takács), [mix, point]."""
    e1, e2, e3 = scale * moments[0], scale**2 * moments[1], scale**3 * moments[2]
    w1 = e1 + beside * share
    w2 = e2 + 2 * e1 * beside + beside**2 * share
    w3 = e3 + 3 * e2 * beside + 3 * e1 * beside**2 + beside**3 * share
    load = np.clip(s.per_ms * w1, _TINY, _MOST_LOAD)
    first = s.per_ms * w2 / (2 * (1 - load))
    second = 2 * first**2 + s.per_ms * w3 / (3 * (1 - load))
    return load, first / load, second / load
