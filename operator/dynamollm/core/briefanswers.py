"""How often brief answers are slow since prompts fill all of their steps, in closed form; see `core.stream` for shapes and units.

A request with many tokens averages the steps that prompts fill over the others. One with two tokens has one step, and is slow
whenever a prompt fills it, where such a step is above the limit at all.
"""

from typing import Final

import numpy as np

from dynamollm.core.cells import Singles
from dynamollm.core.normal import above_normal
from dynamollm.core.state import State
from dynamollm.core.stream import LEAST_CHUNK, Stream

_NOTHING: Final = np.float32(0.0)
_TINY: Final = 1e-9


def held_up_throughout(stream: Stream, s: State, slack_ms: Singles) -> Singles:
    """Return the probability that a brief answer is slow on an engine whose prompts ride with decoding, [member].

    What is left of prompts when one's own is done is taken as an exponential time with the mean of an M/G/1 queue. It has to
    fill what the answer's steps leave of the limit, while other prompts go on coming. Whether a step that prompts fill is above
    the limit is up to the batch, which fluctuates.

    Args:
        stream: cells.
        s: their state.
        slack_ms: [member] what a decode step leaves of the limit.
    """
    slack_ms = np.maximum(slack_ms, _NOTHING)
    fluctuation = stream.fluctuation(s)
    spread_ms = np.maximum(fluctuation.more_ms * np.sqrt(fluctuation.variance), _TINY)
    full_ms = stream.part_ms(np.maximum(stream.grid.budget - s.batch, LEAST_CHUNK))
    filled = np.minimum(stream.filled(s), 1.0)
    left_ms = stream.added[1] / (2 * stream.added[0])
    cells = (filled / 2, (1 - filled) ** 2 / left_ms, full_ms, 1 / spread_ms)
    half, per_ms, full, per_spread = (stream.each(one.astype(np.float32)) for one in cells)
    long = above_normal((slack_ms - full) * per_spread)
    # Half of them have one step after the first token, and half have three.
    one = np.exp(-per_ms * slack_ms)
    found: Singles = (half * (one + one * one * one) * long).astype(np.float32)
    return found
