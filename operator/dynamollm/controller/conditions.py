"""Conditions of a service: pure bookkeeping of what holds since when, and which changes are worth an Event."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from dynamollm.api.common import Condition
from dynamollm.api.inferenceservice_status import CONDITIONS

Status = Literal["True", "False", "Unknown"]

GOOD: Final = {name: "False" if name in ("CapacityUnavailable", "Paused") else "True" for name in CONDITIONS}
"""What each condition is when all is well."""
_MESSAGE_LENGTH: Final = 4096


@dataclass(slots=True)
class Conditions:
    """The conditions of one cycle, begun with those before it.

    Args:
        previous: as the status has them.
        now: RFC 3339.
        generation: of the spec that this cycle looked at.
    """

    previous: Iterable[Condition]
    now: str
    generation: int
    _current: dict[str, Condition] = field(init=False)

    def __post_init__(self) -> None:
        self._current = {condition.type: condition for condition in self.previous if condition.type in CONDITIONS}

    def set(self, name: str, status: Status, reason: str, message: str) -> None:
        """Set one; its transition time moves only when its status changes."""
        if name not in CONDITIONS:
            raise ValueError(f"{name} is no condition of an InferenceService: it has {', '.join(CONDITIONS)}")
        before = self._current.get(name)
        since = before.last_transition_time if before is not None and before.status == status else self.now
        self._current[name] = Condition(
            type=name,
            status=status,
            reason=reason,
            message=message[:_MESSAGE_LENGTH],
            last_transition_time=since,
            observed_generation=self.generation,
        )

    def result(self) -> tuple[Condition, ...]:
        """Return them in the order of their documentation."""
        return tuple(self._current[name] for name in CONDITIONS if name in self._current)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a condition that somebody should hear of."""

    reason: str
    message: str
    warning: bool


def transitions(before: Iterable[Condition], after: Iterable[Condition]) -> tuple[Transition, ...]:
    """Return the conditions that changed status; of new ones only those that are not well.

    Unknown is what a service begins with, and no news on its own.
    """
    known = {condition.type: condition.status for condition in before}
    found = []
    for condition in after:
        old, good = known.get(condition.type), GOOD[condition.type]
        if condition.status in (old, "Unknown") or (old is None and condition.status == good):
            continue
        warning = condition.status != good and condition.type not in ("Converged", "Paused")
        found.append(
            Transition(
                reason=condition.reason,
                message=f"{condition.type} is {condition.status}: {condition.message}",
                warning=warning,
            )
        )
    return tuple(found)
