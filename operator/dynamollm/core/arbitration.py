"""What each of several services may hold of what they share, by priority: GPUs of a kind, or a cluster's budget.

Services of one priority never take from each other: who was first keeps what it holds. What one of higher priority
wants beyond what is free, those of lower priority give back, the lowest first, down to their floors. What is granted
beyond the total (a budget that was lowered) is given back in the same order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str, str]
"""Namespace and name of a service."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one service has of the shared thing and what it would have; GPUs or watts."""

    key: Key
    priority: int
    held: float
    """Held now or granted, whichever is more."""
    wanted: float = 0.0
    """What its load needs, if that is more than what it holds: nobody would ask for less."""
    floor: float = 0.0
    """What it keeps in any case."""

    @property
    def unmet(self) -> float:
        """What it wants beyond what it holds."""
        return max(0.0, self.wanted - self.held)

    @property
    def spare(self) -> float:
        """What it can be asked to give back."""
        return max(0.0, self.held - self.floor)


def share(mine: Claim, others: Iterable[Claim], *, free: float) -> float:
    """Return what a service may hold in all.

    Args:
        mine: its claim.
        others: those of all other services that share.
        free: what nobody holds or was granted; negative where more is held than there is.
    """
    known = tuple(others)
    wanted_above = sum(other.unmet for other in known if other.priority > mine.priority)
    asked_back = max(0.0, wanted_above - free)
    from_below = sum(other.spare for other in known if _gives_before(other, mine))
    give = min(mine.spare, max(0.0, asked_back - from_below))
    return mine.held + max(0.0, free - wanted_above) - give


def _gives_before(other: Claim, mine: Claim) -> bool:
    """Lower priority gives first; within one the later name, so that no two give for the same need."""
    return other.priority < mine.priority or (other.priority == mine.priority and other.key > mine.key)
