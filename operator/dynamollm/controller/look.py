"""One cycle's look at the world: the core's observation with what else the report needs. Pure but for its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dynamollm.adapters.clock import Clock
from dynamollm.api import names
from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.controller import observe
from dynamollm.controller.budget import GpuBook, Key, committed_gpus
from dynamollm.controller.claims import budget_left, has_givers, holdings, nodes_left, watts_left
from dynamollm.controller.inventory import held_gpus, node_gpus
from dynamollm.controller.objects.router import routing_name
from dynamollm.controller.subject import Subject, validated
from dynamollm.controller.view import ClusterView
from dynamollm.core.protocols import Reading
from dynamollm.core.records import InstanceState, NodeGpus, Observation, Plan

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What a cycle knows."""

    observation: Observation
    reading: Reading
    policy: ClusterPolicySpec
    available_gpus: int
    """What the service may hold in all now."""
    limit_gpus: int
    """The lower of its own limit and what the ClusterPolicy leaves it."""
    available_watts: float | None
    """What the ClusterPolicy leaves it to draw; None: it has no budget of watts."""
    others_would_give: bool
    """Whether services of lower priority hold what this one may ask for."""
    routers_ready: int


def look(
    subject: Subject,
    *,
    view: ClusterView,
    book: GpuBook,
    reading: Reading,
    foreign: Mapping[str, int],
    plan: Plan | None,
    clock: Clock,
) -> Look:
    """Return what is there now; ``foreign`` is what pods of others hold of the GPU resource, by node."""
    key, spec = subject.key, subject.owner.spec
    pods = view.pods(key)
    instances = observe.instances(pods, clock=clock, in_flight=reading.in_flight)
    observation = Observation(
        load=reading.load,
        groups=observe.groups(view.deployments(key)),
        instances=instances,
        nodes=_nodes(subject, view=view, foreign=foreign),
        routing=observe.routing(view.config_map(key, routing_name(subject.owner.name))),
        plan=plan,
        attainment=reading.recent_attainment,
        settled_attainment=reading.attainment,
    )
    policy = cluster_policy(view.policy())
    held = holdings(
        {**view.services(), key: {"spec": spec.to_resource()}}, book=book, held=held_by_service(view, clock=clock)
    )
    available = nodes_left(
        key,
        held,
        own_gpus=sum(i.tensor_parallel for i in instances if i.state is not InstanceState.PENDING),
        free_gpus=sum(node.free for node in observation.nodes),
    )
    limit = spec.limits.max_gpus
    if policy.max_gpus is not None:
        left = budget_left(key, held, total_gpus=policy.max_gpus)
        available, limit = min(available, left), min(limit, left)
    available_watts = None
    if policy.max_watts is not None:
        available_watts = watts_left(key, held, total_watts=policy.max_watts)
    return Look(
        observation=observation,
        reading=reading,
        policy=policy,
        available_gpus=available,
        limit_gpus=limit,
        available_watts=available_watts,
        others_would_give=has_givers(key, held),
        routers_ready=sum(1 for pod in pods if _is_router(pod) and observe.is_ready(pod)),
    )


def unshared(observation: Observation) -> Observation:
    """Return the same load on the same nodes as if nobody had anything there: what a plan from nothing is made on."""
    nodes = tuple(replace(node, free=node.allocatable) for node in observation.nodes)
    return replace(observation, plan=None, groups=(), instances=(), nodes=nodes)


def cluster_policy(body: Object | None) -> ClusterPolicySpec:
    """Return the ClusterPolicy; none, or one that this version does not know, has no budget and no price."""
    policy = None if body is None else validated(ClusterPolicySpec, body)
    return policy if isinstance(policy, ClusterPolicySpec) else ClusterPolicySpec()


def held_by_service(view: ClusterView, *, clock: Clock) -> dict[Key, int]:
    """Return the GPUs that each service's Deployments ask for and its pods hold."""
    return {
        key: committed_gpus(
            observe.groups(view.deployments(key)), observe.instances(view.pods(key), clock=clock, in_flight={})
        )
        for key in view.services()
    }


def _nodes(subject: Subject, *, view: ClusterView, foreign: Mapping[str, int]) -> tuple[NodeGpus, ...]:
    spec = subject.owner.spec
    held = held_gpus(view.all_pods(), resource=spec.gpu.resource)
    for node, gpus in foreign.items():
        held[node] = held.get(node, 0) + gpus
    return node_gpus(view.nodes(), spec=spec, held=held)


def _is_router(pod: Object) -> bool:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(names.LABEL_COMPONENT) == "router"
