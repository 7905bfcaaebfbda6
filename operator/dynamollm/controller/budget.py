"""What services were granted of the GPUs and watts that they share: nobody gets what another was.

The book is kept in memory, since one process decides for all; after a restart it is filled from what is in the cluster.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dynamollm.core.records import Group, Instance

Key = tuple[str, str]
"""Namespace and name of a service."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plan takes once it is in place, and what it would take if there were enough."""

    gpus: int
    watts: float
    """Expected at the planned load."""
    wanted_gpus: int = 0
    wanted_watts: float = 0.0


@dataclass(slots=True)
class GpuBook:
    """What each service's plan was granted."""

    _granted: dict[Key, Grant] = field(default_factory=dict)

    def grant(self, key: Key, grant: Grant) -> None:
        """Note what a service's plan takes."""
        self._granted[key] = grant

    def release(self, key: Key) -> None:
        """Forget a service."""
        self._granted.pop(key, None)

    def of(self, key: Key) -> Grant | None:
        """Return what a service's plan takes; None: not planned yet by this process, or nothing."""
        return self._granted.get(key)


def committed_gpus(groups: Iterable[Group], instances: Iterable[Instance]) -> int:
    """Return the GPUs that a service's Deployments ask for and its pods hold, those that end included."""
    wanted = {(group.pool, group.tensor_parallel): group.replicas for group in groups}
    there: dict[tuple[str, int], int] = {}
    for instance in instances:
        key = (instance.pool, instance.tensor_parallel)
        there[key] = there.get(key, 0) + 1
    return sum(key[1] * max(wanted.get(key, 0), there.get(key, 0)) for key in wanted.keys() | there.keys())
