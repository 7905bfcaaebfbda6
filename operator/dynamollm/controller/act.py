"""Actions of the core, carried out: each one is a write or two, and none decides anything."""

import logging
from datetime import UTC, datetime
from typing import Final, assert_never

from dynamollm.adapters.kube import NOT_FOUND, Kube, KubeError, path
from dynamollm.api import names
from dynamollm.controller.children import Children
from dynamollm.controller.objects.engine import engine_deployment
from dynamollm.controller.objects.router import routing_config_map
from dynamollm.controller.subject import Subject
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
from dynamollm.core.records import Plan

_LOG: Final = logging.getLogger(__name__)

FIRST_TO_GO: Final = "-1000"
"""Deletion cost of a pod that its ReplicaSet must choose; others have 0."""


async def act(action: Action, subject: Subject, plan: Plan, *, kube: Kube, children: Children) -> None:
    """Carry out one action; SetClocks is published by the clock plan, from the same ladders, in every cycle.

    Raises:
        KubeError: refused or no answer; the next cycle looks again.
    """
    match action:
        case SetClocks():
            return
        case SetReplicas(pool, tensor_parallel, replicas):
            await _scale(subject, children, pool=pool, tensor_parallel=tensor_parallel, replicas=replicas)
        case RemoveGroup(pool, tensor_parallel):
            name = names.group_name(service=subject.owner.name, pool=pool, tensor_parallel=tensor_parallel)
            await kube.delete(path("apps/v1", "Deployment", namespace=subject.owner.namespace, name=name))
        case Unroute(instance):
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            await _annotate(subject, kube, instance, names.ANNOTATION_UNROUTED_AT, now)
        case Reroute(instance):
            await _annotate(subject, kube, instance, names.ANNOTATION_UNROUTED_AT, None)
        case RemoveInstance(instance, pool, tensor_parallel, replicas):
            # First the mark, then the number: a pod that is gone by now was replaced, and nobody else may go for it.
            if await _annotate(subject, kube, instance, names.ANNOTATION_POD_DELETION_COST, FIRST_TO_GO):
                await _scale(subject, children, pool=pool, tensor_parallel=tensor_parallel, replicas=replicas)
        case SetRouting(routing):
            await children.apply(routing_config_map(subject.owner, subject.service, routing, pools=plan.pools))
        case _:
            assert_never(action)


async def _scale(subject: Subject, children: Children, *, pool: str, tensor_parallel: int, replicas: int) -> None:
    body = engine_deployment(
        subject.owner,
        subject.profile_spec,
        pool=pool,
        tensor_parallel=tensor_parallel,
        replicas=replicas,
    )
    await children.apply(body)


async def _annotate(subject: Subject, kube: Kube, pod: str, annotation: str, value: str | None) -> bool:
    """Set or remove an annotation of a pod; return whether the pod was there."""
    where = path("v1", "Pod", namespace=subject.owner.namespace, name=pod)
    try:
        await kube.patch(where, {"metadata": {"annotations": {annotation: value}}})
    except KubeError as error:
        if error.status != NOT_FOUND:
            raise
        _LOG.info("pod %s is gone already", pod)
        return False
    return True
