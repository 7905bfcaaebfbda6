"""What `core.stream` knows of instances at one mean batch each; times are ms."""

from dataclasses import dataclass

from dynamollm.core.steptable import Floats


@dataclass(frozen=True, slots=True)
class State:
    """Instances at one mean batch each; [..., cell]."""

    batch: Floats
    decode_ms: Floats
    """A decode step at the batch that a request meets."""
    per_ms: Floats
    """Requests/ms."""
    prompt_share: Floats
    """Share of time that prompts add to steps."""
    token_ms: Floats
    """Mean time between two tokens, prompts beside them included."""


@dataclass(frozen=True, slots=True)
class Fluctuation:
    """How batches fluctuate; [..., cell]."""

    more_ms: Floats
    """What one sequence more adds to a decode step."""
    variance: Floats
    """Of the batch."""
