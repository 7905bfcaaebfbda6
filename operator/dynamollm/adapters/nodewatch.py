"""What an agent sees of the Kubernetes API: the clock plan on its DaemonSet, and the engine pods on its node.

Two small watches on plain aiohttp (``podwatch.ObjectWatch``, which finds out watches that died silently):
``kubernetes.aio`` costs 1.5 s of CPU and 50 MB at import, on every GPU node. While the API is away the last known state
stands; a clock plan ends by its lease anyway.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamollm.adapters.podwatch import ApiAccess, Objects, ObjectWatch
from dynamollm.api import names


@dataclass(frozen=True, slots=True)
class EnginePod:
    """An engine pod of ours on this node."""

    namespace: str
    name: str
    service: str
    pool: str
    tensor_parallel: int
    ip: str | None
    """None until the pod has a network."""
    metrics_path: str = "/metrics"


class NodeWatch:
    """Keeps the clock plan's text and the engine pods of one node up to date."""

    def __init__(self, api: ApiAccess, *, node: str, namespace: str) -> None:
        self._daemonset = ObjectWatch(
            api,
            path=f"/apis/apps/v1/namespaces/{namespace}/daemonsets",
            selector={"fieldSelector": f"metadata.name={names.AGENT_DAEMONSET}"},
            on_change=self._daemonset_changed,
        )
        self._pod_list = ObjectWatch(
            api,
            path="/api/v1/pods",
            selector={
                "fieldSelector": f"spec.nodeName={node}",
                "labelSelector": f"{names.LABEL_COMPONENT}=engine",
            },
            on_change=self._pods_changed,
        )
        self._plan_known = asyncio.Event()
        self._pods_known = asyncio.Event()
        self.clock_plan: str | None = None
        """The annotation's text; None: there is none, or nothing is known yet."""
        self.pods: Mapping[tuple[str, str], EnginePod] = {}
        """By (namespace, name)."""

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._daemonset.run())
            tasks.create_task(self._pod_list.run())

    async def known(self) -> None:
        """Return once both lists have been read."""
        await self._plan_known.wait()
        await self._pods_known.wait()

    def _daemonset_changed(self, objects: Objects) -> None:
        daemonset = objects.get(names.AGENT_DAEMONSET, {})
        annotations = daemonset.get("metadata", {}).get("annotations") or {}
        self.clock_plan = annotations.get(names.ANNOTATION_CLOCK_PLAN)
        self._plan_known.set()

    def _pods_changed(self, objects: Objects) -> None:
        found = (_engine_pod(item) for item in objects.values())
        self.pods = {(pod.namespace, pod.name): pod for pod in found if pod is not None}
        self._pods_known.set()


def _engine_pod(item: Mapping[str, Any]) -> EnginePod | None:
    metadata = item["metadata"]
    labels = metadata.get("labels") or {}
    try:
        return EnginePod(
            namespace=metadata["namespace"],
            name=metadata["name"],
            service=labels[names.LABEL_SERVICE],
            pool=labels[names.LABEL_POOL],
            tensor_parallel=int(labels[names.LABEL_TENSOR_PARALLEL]),
            ip=(item.get("status") or {}).get("podIP"),
            metrics_path=(metadata.get("annotations") or {}).get(names.ANNOTATION_METRICS_PATH, "/metrics"),
        )
    except (KeyError, ValueError):
        # Somebody else's pod that carries one of our labels: its GPUs are not ours to touch.
        return None
