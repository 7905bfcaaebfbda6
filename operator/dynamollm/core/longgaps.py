"""Which share of all gaps between tokens is above a limit, in closed form; see `core.stream` for shapes and units.

A gap is long where prompts beside it fill what the batch leaves of the limit, or the batch alone does.
"""

from typing import Final

import numpy as np

from dynamollm.core.cells import Singles
from dynamollm.core.normal import above_normal
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import LEAST_CHUNK, Stream

_TINY: Final = 1e-9


def long_gaps(stream: Stream, s: State, *, limits_ms: Floats, own_ms: Singles) -> Floats:
    """Return the share of the gaps between a class's tokens that are above its limit, [member].

    Args:
        stream: cells.
        s: their state.
        limits_ms: [member]
        own_ms: [member] mean time that a class's own prompts take, without waiting.
    """
    chunked = stream.grid.chunked
    fluctuation = stream.fluctuation(s)
    spread = fluctuation.more_ms * np.sqrt(fluctuation.variance)
    window = s.token_ms if chunked else s.decode_ms
    count = _long_steps if chunked else _long_stalls
    found = np.zeros(limits_ms.size)
    for limit in np.unique(limits_ms):
        slack = limit - s.decode_ms
        alone = above_normal(slack / np.maximum(spread, _TINY))
        # The batch that a prompt meets is one deviation larger or smaller.
        long = (count(stream, s, slack - spread) + count(stream, s, slack + spread)) / 2
        above = stream.each(alone + 1 - np.exp(-s.per_ms * window * long))
        if not chunked:
            # Prompts that come during one's own are made before one's second token.
            gaps = np.maximum(1.0, stream.grid.mixes.output_tokens - 1)[stream.class_of]
            above += (1 - np.exp(-own_ms * stream.each(s.per_ms * long))) / gaps
        found = np.where(limits_ms == limit, np.minimum(above, 1.0), found)
    return found


def _long_steps(stream: Stream, s: State, room_ms: Floats) -> Floats:
    """Return in how many steps a prompt that rides with decoding fills more than the room, [cell].

    Later parts of a long prompt take longer, since they look back at all before.
    """
    grid = stream.grid
    chunk = np.maximum(grid.budget - s.batch, LEAST_CHUNK)
    full_ms, square_ms = stream.part_ms(chunk), grid.table.c["square_ms"].astype(stream.dtype)[stream.point_of]
    # From which token on a full part takes too long, and how many parts there are after it.
    begin = np.maximum((room_ms - full_ms) / (2 * square_ms * chunk) - chunk / 2, 0.0)
    parts = grid.weights.astype(stream.dtype) @ np.maximum(stream.prompt_tokens - stream.each(chunk + begin), 0.0)
    parts /= stream.each(chunk)
    # Or less than a full part does already, and all parts.
    several = np.maximum(stream.added_ms / stream.each(full_ms), 1.0)
    partly = _longer(stream, room_ms / (1 + np.minimum(s.prompt_share, 0.5))) * several
    found: Floats = stream.sums(stream.share * np.where(stream.each(room_ms > full_ms), parts, partly))
    return found


def _long_stalls(stream: Stream, s: State, room_ms: Floats) -> Floats:
    """Return the probability that a whole prompt, with those that follow it before the next token, fills more, [cell]."""
    base = stream.base_ms
    room = room_ms - base
    usual = np.clip(room, 0.0, stream.added[0])

    def longer(left: Floats) -> Floats:
        return np.where(left > 0, stream.sums(stream.share * _longer(stream, left)), 1.0)

    one = longer(room)
    # Another comes in time to share its step, or while that is made.
    shared = (1 - np.exp(-s.per_ms * s.decode_ms / 2)) * longer(room - usual)
    after = (1 - np.exp(-s.per_ms * (base + usual))) * longer(room - base - usual)
    found: Floats = one + (1 - one) * np.minimum(shared + after, 1.0)
    return found


def _longer(stream: Stream, room_ms: Floats) -> Floats:
    """Return the probability that a class's prompt adds more than so much, [cell], to steps: log-normal by two moments, [member]."""
    mean, deviation = stream.added_logs
    return above_normal((stream.each(np.log(np.maximum(room_ms, _TINY))) - mean) / deviation)
