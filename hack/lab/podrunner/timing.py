"""How the durations in a pod's spec, which are simulated seconds, become wall seconds."""

from dataclasses import dataclass
from typing import Final

_GRACE_FLOOR_S: Final = 5.0
"""Real work is not faster in a faster time: a process gets this long to end, or what its spec gives if that is less."""
_PERIOD_FLOOR_S: Final = 0.25
"""Probes more often than this would only burn the CPU that the demo needs."""
_READY_PERIOD_FLOOR_S: Final = 1.0
"""The same for a container that is ready, where no one waits for the answer: the shortest period that the API takes."""
_BACKOFF_S: Final = (10.0, 300.0)
_FORGIVEN_S: Final = 600.0
"""A container that ran this long starts a new series of back-offs, as with the kubelet."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds at one time scale."""

    scale: float = 1.0

    def grace_s(self, seconds: float) -> float:
        """Return the wall seconds between SIGTERM and SIGKILL."""
        return max(seconds / self.scale, min(seconds, _GRACE_FLOOR_S))

    def period_s(self, seconds: float, *, ready: bool = False) -> float:
        """Return the wall seconds between two probes of readiness or start-up."""
        return max(seconds / self.scale, min(seconds, _READY_PERIOD_FLOOR_S if ready else _PERIOD_FLOOR_S))

    def backoff_s(self, failures: int) -> float:
        """Return the wall seconds between an end and the next start, by the ends in a row.

        None after the first, then 10 s, doubled up to five minutes, as the kubelet does.
        """
        if failures <= 1:
            return 0.0
        first, longest = _BACKOFF_S
        return min(first * 2.0 ** min(failures - 2, 16), longest) / self.scale

    def forgiven(self, ran_s: float) -> bool:
        """Return whether a run of so many wall seconds ends a row of failures."""
        return ran_s >= _FORGIVEN_S / self.scale
