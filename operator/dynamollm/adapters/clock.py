"""Simulated time: the one place that knows how wall seconds become the seconds that everything else counts in.

On a user's cluster the scale is 1 and simulated time is real time. A demo runs ``scale`` times faster: each process
maps the wall clock by the same line, so all agree without talking.
"""

import asyncio
import os
import time
from dataclasses import dataclass

from dynamollm.core.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Clock:
    """Maps wall time to simulated time: ``sim = anchor + (wall - anchor) * scale``."""

    scale: float = 1.0
    anchor_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            msg = f"DYNAMOLLM_TIME_SCALE is {self.scale}: give a number above 0 (1 is real time)"
            raise InvalidInputError(msg)

    @classmethod
    def from_env(cls) -> "Clock":
        """Read DYNAMOLLM_TIME_SCALE and DYNAMOLLM_TIME_ANCHOR (unix seconds, wall)."""
        values = []
        for name, default in (("DYNAMOLLM_TIME_SCALE", "1"), ("DYNAMOLLM_TIME_ANCHOR", "0")):
            text = os.environ.get(name) or default
            try:
                values.append(float(text))
            except ValueError:
                msg = f"{name} is {text!r}: give a number, or leave it out for real time"
                raise InvalidInputError(msg) from None
        return cls(scale=values[0], anchor_s=values[1] if values[0] != 1 else 0.0)

    def now_s(self) -> float:
        """Return simulated unix seconds."""
        return self.at_wall(time.time())

    def at_wall(self, wall_s: float) -> float:
        """Return the simulated unix seconds of a wall-clock instant (unix seconds)."""
        return self.anchor_s + (wall_s - self.anchor_s) * self.scale

    def to_wall(self, sim_s: float) -> float:
        """Return the wall-clock instant (unix seconds) of a simulated one."""
        return self.anchor_s + (sim_s - self.anchor_s) / self.scale

    def wall(self, duration_s: float) -> float:
        """Return how many wall seconds a simulated duration takes."""
        return duration_s / self.scale

    def sim(self, wall_duration_s: float) -> float:
        """Return how many simulated seconds a wall duration is."""
        return wall_duration_s * self.scale

    async def sleep(self, duration_s: float) -> None:
        """Sleep for a simulated duration."""
        await asyncio.sleep(max(0.0, self.wall(duration_s)))
