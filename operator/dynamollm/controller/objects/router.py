"""The router of a service: Deployment, Service, ServiceAccount, RoleBinding, and the ConfigMap that it watches."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dynamollm.api import names
from dynamollm.controller.objects.common import POD_IP_ENV, RESTRICTED, RESTRICTED_POD, Owner, scraped, stamped
from dynamollm.core.classes import RequestClass
from dynamollm.core.records import PoolPlan, Service


def router_name(service: str) -> str:
    """Return the name of the router's Deployment, ServiceAccount and RoleBinding."""
    return f"{service}-router"


def routing_name(service: str) -> str:
    """Return the name of the ConfigMap that the router watches."""
    return f"{service}-routing"


def router_objects(owner: Owner) -> tuple[dict[str, Any], ...]:
    """Return all objects of the router but its routing, in the order in which they are needed."""
    labels = {names.LABEL_SERVICE: owner.name, names.LABEL_COMPONENT: "router"}
    name = router_name(owner.name)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": owner.metadata(name, labels=labels)}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": owner.metadata(name, labels=labels),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": names.ROUTER_CLUSTER_ROLE,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": owner.namespace}],
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(owner.name, labels=labels),
        "spec": {
            "selector": labels,
            "ports": [{"name": "http", "port": names.ROUTER_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owner.metadata(name, labels=labels),
        "spec": {
            "replicas": owner.spec.router.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels, "annotations": scraped(names.ROUTER_PORT)},
                "spec": _pod(owner),
            },
        },
    }
    return tuple(stamped(body) for body in (account, binding, front, deployment))


def routing_config_map(
    owner: Owner, service: Service, routing: Mapping[RequestClass, str], *, pools: Iterable[PoolPlan]
) -> dict[str, Any]:
    """Return the ConfigMap that tells the router who serves what, all nine classes, and how much planned instances carry."""
    content = {
        "service": owner.name,
        "namespace": owner.namespace,
        "model": owner.spec.model.name,
        "classes": {request_class.value: routing[request_class] for request_class in RequestClass},
        "boundaries": {
            "input_short": service.boundaries.input_short,
            "input_medium": service.boundaries.input_medium,
            "output_short": service.boundaries.output_short,
            "output_medium": service.boundaries.output_medium,
        },
        "slo": {
            "ttft_ms": {request_class.value: service.slo.ttft_ms[request_class] for request_class in RequestClass},
            "tbt_ms": {request_class.value: service.slo.tbt_ms[request_class] for request_class in RequestClass},
        },
        "full_in_flight": {
            pool.name: {str(group.tensor_parallel): round(group.full_in_flight, 1) for group in known}
            for pool in pools
            if (known := [group for group in pool.groups if group.full_in_flight > 0])
        },
    }
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owner.metadata(routing_name(owner.name)),
            "data": {names.ROUTING_KEY: json.dumps(content)},
        }
    )


def _pod(owner: Owner) -> dict[str, Any]:
    container = {
        "name": "router",
        "image": owner.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "router",
            *("--service", owner.name, "--namespace", owner.namespace),
            *("--port", str(names.ROUTER_PORT)),
        ],
        "env": [dict(POD_IP_ENV), *owner.time_env],
        "ports": [{"name": "http", "containerPort": names.ROUTER_PORT, "protocol": "TCP"}],
        # One core is what the process can use; docs/router.md has the measurements.
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "securityContext": dict(RESTRICTED),
    }
    return {
        "serviceAccountName": router_name(owner.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": owner.grace_period_s,
        "securityContext": dict(RESTRICTED_POD),
        "containers": [container],
    }
