"""A cluster as the operator sees one: Deployments, pods, nodes of eight GPUs, the router's table; and what actions do to it.

It plays the API server, the scheduler, the Deployment controller and the kubelet as far as the core's records know
them. What is inside the pods is the kernel's business: the cluster tells a ``Listener`` who starts, serves and goes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from dynamollm.core.classes import RequestClass
from dynamollm.core.moves import (
    Action,
    RemoveGroup,
    RemoveInstance,
    Reroute,
    SetClocks,
    SetReplicas,
    SetRouting,
    Unroute,
)
from dynamollm.core.records import (
    Group,
    Instance,
    InstanceState,
    Ladder,
    NodeGpus,
    Plan,
)
from dynamollm.simulator.overheads import Overheads

Key = tuple[str, int]
"""A shard group: pool and TP."""


@dataclass(slots=True, eq=False)
class Pod:
    """One engine pod."""

    name: str
    key: Key
    created_s: float
    reshards: bool
    """Whether it replaces an instance of another TP degree of its pool."""
    node: int | None = None
    """None: waits for GPUs."""
    ready_s: float = float("inf")
    unrouted_s: float | None = None
    place: int = -1
    """Of the kernel's instances, while it is on a node."""
    is_ready: bool = False

    @property
    def tensor_parallel(self) -> int:
        """GPUs that it holds once it is on a node."""
        return self.key[1]


class Listener(Protocol):
    """What the pods are to the engines."""

    def started(self, pod: Pod, *, now_s: float) -> None:
        """A pod is on a node from now on, and serves from ``pod.ready_s``."""

    def ended(self, pod: Pod, *, now_s: float) -> None:
        """A pod that was on a node goes now, with whatever is inside."""

    def in_flight(self, pod: Pod) -> int:
        """Requests inside a pod that is on a node."""


@dataclass(slots=True)
class VirtualCluster:
    """Nodes, and one service on them."""

    node_gpus: list[int]
    """Free GPUs by node."""
    gpus_per_node: int
    overheads: Overheads
    listener: Listener
    replicas: dict[Key, int] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    routing: Mapping[RequestClass, str] = field(default_factory=dict)
    ladders: Mapping[Key, Ladder] = field(default_factory=dict)
    reconfigurations: dict[str, int] = field(default_factory=lambda: {"instances": 0, "reshards": 0, "routing": 0})
    """Instances started or removed, those of them that were a change of TP, and changes of the routing."""
    _created: int = 0

    # ------------------------------------------------------------------ what is seen
    def groups(self) -> tuple[Group, ...]:
        """Return the Deployments."""
        return tuple(Group(pool, degree, count) for (pool, degree), count in sorted(self.replicas.items()))

    def instances(self) -> tuple[Instance, ...]:
        """Return the pods, by name."""
        return tuple(
            Instance(
                name=pod.name,
                pool=pod.key[0],
                tensor_parallel=pod.tensor_parallel,
                state=_state(pod),
                created_s=pod.created_s,
                unrouted_s=pod.unrouted_s,
                in_flight=self.listener.in_flight(pod) if pod.is_ready else None,
            )
            for _, pod in sorted(self.pods.items())
        )

    def nodes(self) -> tuple[NodeGpus, ...]:
        """Return the nodes."""
        return tuple(NodeGpus(f"node-{i:03d}", self.gpus_per_node, free) for i, free in enumerate(self.node_gpus))

    def empty_nodes(self) -> tuple[NodeGpus, ...]:
        """Return the nodes as they would be without any pod."""
        return tuple(replace(node, free=node.allocatable) for node in self.nodes())

    @property
    def held_gpus(self) -> int:
        """GPUs that pods hold."""
        return sum(pod.tensor_parallel for pod in self.pods.values() if pod.node is not None)

    @property
    def free_gpus(self) -> int:
        """GPUs that nobody holds."""
        return sum(self.node_gpus)

    def serving(self) -> list[Pod]:
        """Return the pods that take new requests, by name."""
        return [pod for _, pod in sorted(self.pods.items()) if pod.is_ready and pod.unrouted_s is None]

    # ------------------------------------------------------------------ what happens
    def tick(self, now_s: float) -> bool:
        """Let pods find GPUs and become Ready; return whether any became Ready."""
        self._schedule(now_s)
        changed = False
        for pod in self.pods.values():
            if not pod.is_ready and pod.ready_s <= now_s:
                pod.is_ready = changed = True
        return changed

    def apply(self, actions: Iterable[Action], plan: Plan, *, now_s: float) -> None:
        """Do what the core asks."""
        for action in actions:
            self._apply(action, plan, now_s)
        self._schedule(now_s)

    def _apply(self, action: Action, plan: Plan, now_s: float) -> None:
        match action:
            case SetClocks(ladders=ladders):
                self.ladders = ladders
            case SetReplicas(pool=pool, tensor_parallel=degree, replicas=count):
                self._set_replicas((pool, degree), count, plan, now_s)
            case RemoveGroup(pool=pool, tensor_parallel=degree):
                self.replicas.pop((pool, degree), None)
            case Unroute(instance=name):
                self.pods[name].unrouted_s = now_s
            case Reroute(instance=name):
                self.pods[name].unrouted_s = None
            case RemoveInstance(instance=name, pool=pool, tensor_parallel=degree, replicas=count):
                self.replicas[pool, degree] = count
                self.remove(name, now_s=now_s)
            case SetRouting(routing=routing):
                self.routing = dict(routing)
                self.reconfigurations["routing"] += 1

    def _set_replicas(self, key: Key, count: int, plan: Plan, now_s: float) -> None:
        self.replicas[key] = count
        mine = [pod for pod in self.pods.values() if pod.key == key]
        for _ in range(count - len(mine)):
            self.create(key, now_s=now_s, reshards=self._reshards(key, plan))
        # A Deployment that shrinks takes who waits for GPUs, then who is not Ready, the youngest first.
        going = sorted(mine, key=lambda pod: (pod.node is not None, pod.is_ready, -pod.created_s, pod.name))
        for pod in going[: max(0, len(mine) - count)]:
            self.remove(pod.name, now_s=now_s)

    def _reshards(self, key: Key, plan: Plan) -> bool:
        """Whether the pool has more instances of another TP degree than it is to have: one of them is replaced."""
        wanted = {(pool.name, group.tensor_parallel): group.instances for pool in plan.pools for group in pool.groups}
        others = {pod.key for pod in self.pods.values() if pod.key[0] == key[0] and pod.key != key}
        return any(sum(pod.key == other for pod in self.pods.values()) > wanted.get(other, 0) for other in others)

    def create(self, key: Key, *, now_s: float, reshards: bool = False) -> None:
        """Add a pod, which waits for GPUs until the next ``tick``."""
        self._created += 1
        name = f"{key[0]}-tp{key[1]}-{self._created:06d}"
        self.pods[name] = Pod(name=name, key=key, created_s=now_s, reshards=reshards)
        self.reconfigurations["instances"] += 1
        self.reconfigurations["reshards"] += reshards

    def remove(self, name: str, *, now_s: float) -> None:
        """Delete a pod, with whatever is inside."""
        pod = self.pods.pop(name)
        self.reconfigurations["instances"] += 1
        if pod.node is not None:
            self.node_gpus[pod.node] += pod.tensor_parallel
            self.listener.ended(pod, now_s=now_s)

    def _schedule(self, now_s: float) -> None:
        """Place who waits, the eldest first, each on the fullest node that takes it."""
        for pod in self.pods.values():
            if pod.node is not None:
                continue
            fitting = [i for i, free in enumerate(self.node_gpus) if free >= pod.tensor_parallel]
            if not fitting:
                continue
            pod.node = min(fitting, key=lambda i: (self.node_gpus[i], i))
            self.node_gpus[pod.node] -= pod.tensor_parallel
            pod.ready_s = now_s + (self.overheads.reshard_s if pod.reshards else self.overheads.startup_s)
            self.listener.started(pod, now_s=now_s)


def cluster(*, nodes: int, gpus_per_node: int, overheads: Overheads, listener: Listener) -> VirtualCluster:
    """Return an empty cluster of this many nodes."""
    return VirtualCluster(
        node_gpus=[gpus_per_node] * nodes, gpus_per_node=gpus_per_node, overheads=overheads, listener=listener
    )


def _state(pod: Pod) -> InstanceState:
    if pod.node is None:
        return InstanceState.PENDING
    return InstanceState.READY if pod.is_ready else InstanceState.STARTING
