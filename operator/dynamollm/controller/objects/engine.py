"""The Deployment of a shard group, the PodDisruptionBudget of a pool, the profile for simulated engines."""

import json
import math
from typing import Any, Final

from dynamollm.api import names
from dynamollm.api.inferenceservice_pods import PodTemplate, Volume
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.controller.objects.common import (
    CONFINED_POD,
    POD_IP_ENV,
    RESTRICTED,
    RESTRICTED_POD,
    WITHOUT_PRIVILEGES,
    Owner,
    scraped,
    stamped,
)
from dynamollm.controller.objects.engine_start import PROFILE_KEY, Start, by_deadline, engine_start

CONTAINER: Final = "engine"
STARTUP_MARGIN_S: Final = 1800
"""Seconds that an engine may take to start beyond its measured start-up time: a first download of 140 GB of
weights at 1 Gbit/s takes 19 minutes, and a liveness probe must not end it."""
STARTUP_PERIOD_S: Final = 5


def engine_deployment(
    owner: Owner, profile: PerformanceProfileSpec, *, pool: str, tensor_parallel: int, replicas: int
) -> dict[str, Any]:
    """Return the Deployment of a shard group, its engines started with the limits that the profile holds for.

    A change of its template replaces pods one at a time without surge: a pod more would need GPUs that no budget
    has counted, and would wait for them for ever on a full cluster.
    """
    labels = {
        names.LABEL_SERVICE: owner.name,
        names.LABEL_COMPONENT: "engine",
        names.LABEL_POOL: pool,
        names.LABEL_TENSOR_PARALLEL: str(tensor_parallel),
    }
    start = engine_start(owner, profile.engine, tensor_parallel=tensor_parallel)
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "template": {
            "metadata": {
                "labels": labels,
                "annotations": {**scraped(names.ENGINE_PORT, path=start.metrics_path), **_order(owner)},
            },
            "spec": _pod(owner, start, tensor_parallel=tensor_parallel, startup_s=float(profile.startup_seconds)),
        },
    }
    name = names.group_name(service=owner.name, pool=pool, tensor_parallel=tensor_parallel)
    metadata = owner.metadata(name, labels=labels)
    return stamped({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def disruption_budget(owner: Owner, *, pool: str) -> dict[str, Any]:
    """Return the PodDisruptionBudget of a pool: drains of nodes take one instance at a time.

    Not minAvailable: a share of a pool that the operator makes smaller would block a drain for no reason.
    """
    labels = {names.LABEL_SERVICE: owner.name, names.LABEL_COMPONENT: "engine", names.LABEL_POOL: pool}
    return stamped(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": owner.metadata(budget_name(owner.name, pool), labels=labels),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        }
    )


def budget_name(service: str, pool: str) -> str:
    """Return the name of a pool's PodDisruptionBudget."""
    return f"{service}-{pool}"


def profile_config_map(owner: Owner, profile: PerformanceProfileSpec) -> dict[str, Any]:
    """Return the ConfigMap from which simulated engines read their profile."""
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owner.metadata(f"{owner.name}-profile"),
            "data": {PROFILE_KEY: json.dumps(profile.to_resource(), sort_keys=True)},
        }
    )


def _pod(owner: Owner, start: Start, *, tensor_parallel: int, startup_s: float) -> dict[str, Any]:
    spec, simulated = owner.spec, owner.spec.engine.type == "Simulated"
    template = spec.engine.pod_template
    resources = template.resources.to_resource()
    gpus = {spec.gpu.resource: str(tensor_parallel)}
    engine = {
        "name": CONTAINER,
        "image": spec.engine.image or owner.image,
        "imagePullPolicy": spec.engine.image_pull_policy,
        **({"command": list(start.command)} if start.command else {}),
        # The user's own last.
        "args": [*start.args, *spec.engine.args],
        "env": [
            *([dict(POD_IP_ENV), *owner.time_env] if simulated else []),
            *(variable.to_resource() for variable in spec.engine.env),
        ],
        "ports": [{"name": "http", "containerPort": names.ENGINE_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {**resources.get("requests", {}), **gpus},
            "limits": {**resources.get("limits", {}), **gpus},
        },
        **_probes(startup_s=startup_s),
        "securityContext": dict(RESTRICTED) if simulated else dict(WITHOUT_PRIVILEGES),
        "volumeMounts": [
            *([start.mount] if start.mount else []),
            *([] if simulated else [{"name": "shm", "mountPath": "/dev/shm"}]),  # noqa: S108 - NCCL's, between the processes of GPUs
            *(_mount(volume) for volume in template.volumes),
        ],
    }
    return {
        # Engines never talk to the Kubernetes API, and a Service called vllm must not give them a VLLM_PORT.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": owner.grace_period_s,
        "nodeSelector": {**template.node_selector, names.LABEL_GPU_PRODUCT: spec.gpu.product},
        "tolerations": [toleration.to_resource() for toleration in template.tolerations],
        "securityContext": _users(template, simulated=simulated),
        **_from_template(template),
        "containers": [engine],
        "volumes": [
            *([start.volume] if start.volume else []),
            *([] if simulated else [{"name": "shm", "emptyDir": {"medium": "Memory"}}]),
            *(_volume(volume) for volume in template.volumes),
        ],
    }


def _from_template(template: PodTemplate) -> dict[str, Any]:
    """Return what pods have only where the user asks for it: a field more in the others would replace them all."""
    found: dict[str, Any] = {}
    if template.image_pull_secrets:
        found["imagePullSecrets"] = [secret.to_resource() for secret in template.image_pull_secrets]
    if template.priority_class_name is not None:
        found["priorityClassName"] = template.priority_class_name
    return found


def _users(template: PodTemplate, *, simulated: bool) -> dict[str, Any]:
    """Return the pod's security context."""
    context = dict(RESTRICTED_POD) if simulated else dict(CONFINED_POD)
    if template.run_as_user is not None:
        context |= {"runAsNonRoot": True, "runAsUser": template.run_as_user}
    if template.run_as_group is not None:
        context["runAsGroup"] = template.run_as_group
    if template.fs_group is not None:
        # Not at each start: a pod would wait until every file of the weights has changed its group.
        context |= {"fsGroup": template.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}
    return context


def _volume(volume: Volume) -> dict[str, Any]:
    if volume.config_map is not None:
        return {"name": volume.name, "configMap": volume.config_map.to_resource()}
    assert volume.persistent_volume_claim is not None  # noqa: S101 - one of both, by a rule
    # Said of the claim too: a disk that many nodes may read, and one write, is else attached to write.
    claim = {**volume.persistent_volume_claim.to_resource(), **_read_only(volume)}
    return {"name": volume.name, "persistentVolumeClaim": claim}


def _mount(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "mountPath": volume.mount_path, **_read_only(volume)}


def _read_only(volume: Volume) -> dict[str, bool]:
    return {"readOnly": True} if volume.read_only else {}


def _order(owner: Owner) -> dict[str, str]:
    """Return the annotation by which the router knows whom it may send priorities.

    On the pod and not in the routing: while a change of order replaces pods one by one, both kinds are there.
    """
    return {names.ANNOTATION_SCHEDULING: names.EARLIEST_DEADLINE_FIRST} if by_deadline(owner) else {}


def _probes(*, startup_s: float) -> dict[str, Any]:
    check = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 2}
    attempts = math.ceil((startup_s + STARTUP_MARGIN_S) / STARTUP_PERIOD_S)
    return {
        # Until it succeeds once, the others wait: loading weights is not being dead.
        "startupProbe": {**check, "periodSeconds": STARTUP_PERIOD_S, "failureThreshold": attempts},
        "readinessProbe": {**check, "periodSeconds": 2, "failureThreshold": 3},
        # A minute of silence: a long prefill must not look like death.
        "livenessProbe": {**check, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
    }
