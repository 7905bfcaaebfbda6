"""The steps from what is to what should be: what ``core.actions.steps`` gives and the controller carries out."""

from collections.abc import Mapping
from dataclasses import dataclass

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Ladder


@dataclass(frozen=True, slots=True)
class SetClocks:
    """Publish the ladders of these groups to the agents: (pool, TP) → ladder."""

    ladders: Mapping[tuple[str, int], Ladder]


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Make the Deployment of a shard group this large; creates it when it is missing."""

    pool: str
    tensor_parallel: int
    replicas: int


@dataclass(frozen=True, slots=True)
class RemoveGroup:
    """Delete the Deployment of a shard group that has no pods left and no place in the plan."""

    pool: str
    tensor_parallel: int


@dataclass(frozen=True, slots=True)
class Unroute:
    """Give an instance no new requests."""

    instance: str


@dataclass(frozen=True, slots=True)
class Reroute:
    """Take an instance back into service that was being drained."""

    instance: str


@dataclass(frozen=True, slots=True)
class RemoveInstance:
    """Let a drained instance go: its group loses one replica, and this pod is the one."""

    instance: str
    pool: str
    tensor_parallel: int
    replicas: int
    """Replicas of the group afterwards."""


@dataclass(frozen=True, slots=True)
class SetRouting:
    """Publish the class → pool map to the router."""

    routing: Mapping[RequestClass, str]


Action = SetClocks | SetReplicas | RemoveGroup | Unroute | Reroute | RemoveInstance | SetRouting
