"""GPUs of the nodes: what is there, what pods hold, and what is free for a service. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dynamollm.api import names
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.inferenceservice_pods import Toleration
from dynamollm.controller.observe import ended
from dynamollm.core.records import NodeGpus

Object = Mapping[str, Any]

_REPELS: Final = ("NoSchedule", "NoExecute")


def node_gpus(nodes: Iterable[Object], *, spec: InferenceServiceSpec, held: Mapping[str, int]) -> tuple[NodeGpus, ...]:
    """Return the GPUs of the nodes that the service's engines may run on, by name.

    ``held`` is what pods hold of the service's GPU resource, by node. A node that takes no new pods now (cordoned, not
    ready, tainted) has nothing free.
    """
    found = []
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        wanted = {**spec.engine.pod_template.node_selector, names.LABEL_GPU_PRODUCT: spec.gpu.product}
        if any(labels.get(key) != value for key, value in wanted.items()):
            continue
        allocatable = _quantity((node.get("status", {}).get("allocatable") or {}).get(spec.gpu.resource))
        name = node["metadata"]["name"]
        free = max(0, allocatable - held.get(name, 0)) if _takes_pods(node, spec.engine.pod_template.tolerations) else 0
        found.append(NodeGpus(name=name, allocatable=allocatable, free=free))
    return tuple(sorted(found, key=lambda node: node.name))


def held_gpus(pods: Iterable[Object], *, resource: str) -> dict[str, int]:
    """Return how many GPUs pods hold, by node: every pod that has a node and has not ended, those that end included."""
    held: dict[str, int] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and not ended(pod):
            held[node] = held.get(node, 0) + pod_gpus(pod, resource=resource)
    return held


def pod_gpus(pod: Object, *, resource: str) -> int:
    """Return how many GPUs a pod requests: its containers together, or its largest init container."""
    spec = pod["spec"]
    together = sum(_container_gpus(container, resource) for container in spec.get("containers") or ())
    before = max((_container_gpus(container, resource) for container in spec.get("initContainers") or ()), default=0)
    return max(together, before)


def _container_gpus(container: Object, resource: str) -> int:
    resources = container.get("resources") or {}
    # A limit alone is a request too; for extended resources both are the same.
    return _quantity((resources.get("requests") or {}).get(resource, (resources.get("limits") or {}).get(resource)))


def _quantity(value: Any) -> int:
    """Extended resources are whole numbers; the API server writes thousands as ``1k``."""
    text = str(value or 0)
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def _takes_pods(node: Object, tolerations: Iterable[Toleration]) -> bool:
    spec = node.get("spec") or {}
    if spec.get("unschedulable") or not _node_ready(node):
        return False
    taints = [taint for taint in spec.get("taints") or () if taint.get("effect") in _REPELS]
    return all(any(_tolerates(toleration, taint) for toleration in tolerations) for taint in taints)


def _node_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _tolerates(toleration: Toleration, taint: Object) -> bool:
    if toleration.effect not in (None, taint.get("effect")):
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or "")
