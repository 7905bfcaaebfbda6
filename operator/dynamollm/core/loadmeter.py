"""The load of one engine from its own counters: what a clock is chosen by."""

import math
from dataclasses import dataclass
from typing import Final

TIME_CONSTANT_S: Final = 30.0
"""Of the mean over past load, in simulated seconds: a few seconds of pause between two requests is no lull."""


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One reading of an engine, summed over its labels (data-parallel ranks are labels)."""

    tokens: float
    """Prompt and generated tokens since its start."""
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of one instance."""

    tokens_per_s: float | None
    """Prompt and generated tokens per simulated second; None: not known yet."""
    waiting: int
    running: int


class LoadMeter:
    """Turns readings of one engine into tokens per second: an exponentially weighted mean over about 30 s.

    Weighted sums of tokens and of time rather than of rates: unbiased from the first interval on, and right for
    intervals of unequal length.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, sample: EngineSample, *, now_s: float) -> EngineLoad:
        """Take a reading; ``now_s`` is of a steady clock, in simulated seconds."""
        if self._last is None or sample.tokens < self._last[1]:
            # The first reading, or the engine has started anew: nothing to compare with.
            self._tokens = self._seconds = 0.0
        elif now_s > self._last[0]:
            elapsed_s = now_s - self._last[0]
            decay = math.exp(-elapsed_s / TIME_CONSTANT_S)
            self._tokens = self._tokens * decay + sample.tokens - self._last[1]
            self._seconds = self._seconds * decay + elapsed_s
        self._last = (now_s, sample.tokens)
        rate = self._tokens / self._seconds if self._seconds > 0 else None
        return EngineLoad(tokens_per_s=rate, waiting=sample.waiting, running=sample.running)
