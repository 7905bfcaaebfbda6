"""From Kubernetes objects to the core's records. Pure: what is there comes in, one coherent look goes out."""

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from dynamollm.adapters.clock import Clock
from dynamollm.api import names
from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Group, Instance, InstanceState

_LOG: Final = logging.getLogger(__name__)

Object = Mapping[str, Any]


def timestamp_s(text: str) -> float:
    """Return an RFC 3339 time as unix seconds, wall."""
    return datetime.fromisoformat(text).timestamp()


def instances(pods: Iterable[Object], *, clock: Clock, in_flight: Mapping[str, int]) -> tuple[Instance, ...]:
    """Return the engine pods that exist, by name; those that have ended (evicted, failed) hold no GPUs and are none."""
    found = []
    for pod in pods:
        key = _shard_group(pod)
        if key is None or ended(pod):
            continue
        metadata = pod["metadata"]
        unrouted = (metadata.get("annotations") or {}).get(names.ANNOTATION_UNROUTED_AT)
        found.append(
            Instance(
                name=metadata["name"],
                pool=key[0],
                tensor_parallel=key[1],
                state=_state(pod),
                created_s=clock.at_wall(timestamp_s(metadata["creationTimestamp"])),
                unrouted_s=None if unrouted is None else clock.at_wall(_unrouted_s(unrouted, pod)),
                in_flight=in_flight.get(metadata["name"]),
                waits_for=_waits_for(pod),
            )
        )
    return tuple(sorted(found, key=lambda instance: instance.name))


def groups(deployments: Iterable[Object]) -> tuple[Group, ...]:
    """Return the shard groups that have a Deployment which is not being deleted."""
    found = []
    for deployment in deployments:
        key = _shard_group(deployment)
        if key is not None and "deletionTimestamp" not in deployment["metadata"]:
            replicas = deployment["spec"].get("replicas", 1)
            found.append(Group(pool=key[0], tensor_parallel=key[1], replicas=replicas))
    return tuple(sorted(found, key=lambda group: (group.pool, group.tensor_parallel)))


def routing(config_map: Object | None) -> dict[RequestClass, str]:
    """Return the class → pool map that the router has; empty where there is none that can be read."""
    if config_map is None:
        return {}
    try:
        classes = json.loads(config_map["data"][names.ROUTING_KEY])["classes"]
        return {RequestClass(name): str(pool) for name, pool in classes.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Somebody else wrote it; the next SetRouting puts it right.
        _LOG.warning("ConfigMap %s is not readable: %r", config_map["metadata"]["name"], error)
        return {}


def ended(pod: Object) -> bool:
    """Tell whether a pod's containers are gone for good, and its GPUs free."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Tell whether a pod is Ready and stays."""
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _state(pod: Object) -> InstanceState:
    if "deletionTimestamp" in pod["metadata"]:
        return InstanceState.TERMINATING
    if not pod["spec"].get("nodeName"):
        return InstanceState.PENDING
    return InstanceState.READY if is_ready(pod) else InstanceState.STARTING


def _waits_for(pod: Object) -> str:
    conditions = pod.get("status", {}).get("conditions") or ()
    told = (one.get("message") for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False")
    return next(told, None) or ""


def _unrouted_s(text: str, pod: Object) -> float:
    try:
        return timestamp_s(text)
    except ValueError:
        # The router heeds the annotation whatever it says; without a time, the pod's whole life counts as drained.
        return timestamp_s(pod["metadata"]["creationTimestamp"])


def _shard_group(body: Object) -> tuple[str, int] | None:
    labels = body["metadata"].get("labels") or {}
    pool, tensor_parallel = labels.get(names.LABEL_POOL), labels.get(names.LABEL_TENSOR_PARALLEL, "")
    if labels.get(names.LABEL_COMPONENT) != "engine" or not pool or not tensor_parallel.isdigit():
        return None
    return pool, int(tensor_parallel)
