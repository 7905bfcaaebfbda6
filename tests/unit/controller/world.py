"""A cluster in a dictionary: what the controller's unit tests start from, and what they look at afterwards."""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import CONFLICT, NOT_FOUND, KubeError, path, path_of
from dynamollm.api import names
from dynamollm.controller.clock_plan import ClockPlanPublisher
from dynamollm.controller.foreign import ForeignPods
from dynamollm.controller.reconcile_service import Reconciler
from dynamollm.controller.shared import Shared
from dynamollm.core.classes import RequestClass
from dynamollm.core.protocols import Reading
from dynamollm.core.records import LoadHistory, Service

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILE = yaml.safe_load((REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm.yaml").read_text())
SAMPLE = yaml.safe_load((REPOSITORY / "manifests/samples/inferenceservice-chat.yaml").read_text())
KEY = ("llm", "chat")
AGENTS = path("apps/v1", "DaemonSet", namespace=names.SYSTEM_NAMESPACE, name=names.AGENT_DAEMONSET)


def merge(target: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386, as the API server does it."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, Mapping):
            before = target.get(key)
            target[key] = merge(dict(before) if isinstance(before, Mapping) else {}, value)
        else:
            target[key] = value
    return target


def place(body: Mapping[str, Any]) -> str:
    watched_only = ("Node", "PerformanceProfile", "ClusterPolicy")
    return f"/{body['kind']}/{body['metadata']['name']}" if body["kind"] in watched_only else path_of(body)


@dataclass
class FakeKube:
    """Keeps objects by path and every write by verb."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    failing: str = ""
    """Requests whose path matches this fail."""
    versions: Any = field(default_factory=lambda: itertools.count(1000))

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        stored = copy.deepcopy(dict(body))
        stored["metadata"]["resourceVersion"] = str(next(self.versions))
        stored["metadata"].setdefault("generation", 1)
        stored["metadata"].setdefault("uid", f"uid-{stored['metadata']['name']}")
        stored["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self.objects[place(body)] = stored
        return copy.deepcopy(stored)

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        return {body["metadata"]["name"]: body for body in self.objects.values() if body["kind"] == kind}

    def _check(self, where: str) -> None:
        if self.failing and re.search(self.failing, where):
            raise KubeError(f"{where}: no", status=500)

    async def get(self, where: str) -> dict[str, Any] | None:
        self._check(where)
        return copy.deepcopy(self.objects.get(where))

    async def list(self, where: str, **_selectors: str) -> list[dict[str, Any]]:
        self._check(where)
        kind = where.rsplit("/", 1)[1]
        if kind == "pods":  # the pods of others are the only ones that are listed
            return [body for body in self.of("Pod").values() if not body["metadata"].get("labels")]
        return [body for body in self.of("PodDisruptionBudget").values() if kind == "poddisruptionbudgets"]

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._check(path_of(body))
        if path_of(body) in self.objects:
            raise KubeError("exists", status=CONFLICT)
        self.writes.append(("create", path_of(body)))
        return self.put(body)

    async def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._check(path_of(body))
        self.writes.append(("apply", path_of(body)))
        return self.put(body)

    async def patch(self, where: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._check(where)
        stored = self.objects.get(where.removesuffix("/status"))
        if stored is None:
            raise KubeError(f"{where} is not there", status=NOT_FOUND)
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != stored["metadata"]["resourceVersion"]:
            raise KubeError(f"{where} has changed", status=CONFLICT)
        self.writes.append(("patch", where))
        return self.put(merge(copy.deepcopy(stored), body))

    async def delete(self, where: str) -> bool:
        self._check(where)
        self.writes.append(("delete", where))
        return self.objects.pop(where, None) is not None


@dataclass
class FakeSource:
    """A source of load that says what a test wants."""

    reading: Reading = field(
        default_factory=lambda: Reading(load=None, reason="RouterNotScraped", problem="No router.")
    )

    async def read(self, service: Service, *, created_s: float) -> Reading:
        assert (service.namespace, service.name) == KEY
        assert created_s > 0
        return self.reading

    def forget(self, *, namespace: str, name: str) -> None:
        """Nothing to forget."""


class Indexes(dict[str, Any]):
    """kopf's indexes, computed from the objects whenever one is read."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__()
        self._kube = kube

    def get(self, name: str, _default: Any = None) -> Any:
        kinds = {
            "services": "InferenceService",
            "pods": "Pod",
            "deployments": "Deployment",
            "config_maps": "ConfigMap",
            "nodes": "Node",
            "profiles": "PerformanceProfile",
            "policies": "ClusterPolicy",
        }
        index: dict[Any, list[Any]] = {}
        for body in self._kube.of(kinds[name]).values():
            metadata = body["metadata"]
            if name == "services":
                key: Any = (metadata["namespace"], metadata["name"])
            elif name in ("pods", "deployments", "config_maps"):
                if names.LABEL_SERVICE not in metadata.get("labels", {}):
                    continue
                key = (metadata["namespace"], metadata["labels"][names.LABEL_SERVICE])
            else:
                key = metadata["name"]
            index.setdefault(key, []).append(body)
        return index


@dataclass
class World:
    """Two nodes of eight GPUs, a profile, one service, and an operator's cycles for it."""

    kube: FakeKube = field(default_factory=FakeKube)
    source: FakeSource = field(default_factory=FakeSource)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        for name in ("node-a", "node-b"):
            self.put_node(name)
        self.kube.put(PROFILE)
        self.kube.put({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {
            "name": names.AGENT_DAEMONSET, "namespace": names.SYSTEM_NAMESPACE}})  # fmt: skip
        self.put_service()
        kube: Any = self.kube
        self.shared = Shared(
            kube=kube,
            source=self.source,
            clock=self.clock,
            image="dynamollm/dynamollm:test",
            clock_plan=ClockPlanPublisher(kube=kube, clock=self.clock, namespace=names.SYSTEM_NAMESPACE),
            foreign=ForeignPods(kube=kube),
        )
        self.shared.view._indexes = Indexes(self.kube)
        self.reconciler = Reconciler(shared=self.shared, key=KEY)
        self.kube.writes.clear()

    def put_node(self, name: str, *, gpus: int = 8, **spec: Any) -> None:
        self.kube.put(node(name, gpus=gpus, **spec))

    def put_service(self, name: str = "chat", **spec: Any) -> None:
        body = copy.deepcopy(SAMPLE)
        before = self.kube.of("InferenceService").get(name, {"metadata": {"generation": 0}})
        body["metadata"] |= {"name": name, "generation": before["metadata"]["generation"] + 1}
        merge(body["spec"], spec)
        self.kube.put(body)

    @property
    def service(self) -> dict[str, Any]:
        return self.kube.of("InferenceService")["chat"]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.service.get("status", {})
        return status

    def condition(self, name: str) -> tuple[str, str]:
        found = next(one for one in self.status["conditions"] if one["type"] == name)
        return found["status"], found["reason"]

    def events(self) -> list[str]:
        return [body["reason"] for body in self.kube.of("Event").values()]

    async def cycle(self) -> str:
        self.kube.writes.clear()
        return await self.reconciler.cycle(copy.deepcopy(self.service))

    def run_pods(self, *, ready: bool = True) -> None:
        """Play ReplicaSets, scheduler and kubelet: as many pods as the Deployments want, on the first node with room."""
        for name, deployment in self.kube.of("Deployment").items():
            mine = [n for n in self.kube.of("Pod") if n.startswith(f"{name}-")]
            doomed = sorted(mine, key=self._deletion_cost)[: max(0, len(mine) - deployment["spec"]["replicas"])]
            for pod in doomed:
                del self.kube.objects[path("v1", "Pod", namespace="llm", name=pod)]
            for index in range(len(mine) - len(doomed), deployment["spec"]["replicas"]):
                template = deployment["spec"]["template"]
                self.kube.put(
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "metadata": {
                            "name": f"{name}-{next(self.kube.versions)}{index}",
                            "namespace": "llm",
                            "labels": template["metadata"]["labels"],
                        },
                        "spec": {**template["spec"], "nodeName": "node-a" if index == 0 else "node-b"},
                        "status": {
                            "phase": "Running",
                            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                        },
                    }
                )

    def _deletion_cost(self, pod: str) -> int:
        annotations = self.kube.of("Pod")[pod]["metadata"].get("annotations", {})
        return int(annotations.get(names.ANNOTATION_POD_DELETION_COST, 0))

    async def settle(self, cycles: int = 6) -> None:
        """Cycle and let pods follow, until nothing is to be done."""
        for _ in range(cycles):
            await self.cycle()
            self.run_pods()

    def load(self, per_s: float, *, minutes: int = 60) -> None:
        """Let the source say that this many requests/s of class MM came for this long."""
        samples = (per_s,) * minutes
        rates: dict[RequestClass, tuple[float | None, ...]] = dict.fromkeys(RequestClass, (0.0,) * minutes)
        rates[RequestClass.MM] = samples
        history = LoadHistory(
            end_s=self.clock.now_s(),
            step_s=60.0,
            rate_per_s=rates,
            input_tokens={RequestClass.MM: 600.0},
            output_tokens={RequestClass.MM: 200.0},
        )
        engines = [n for n, b in self.kube.of("Pod").items() if names.LABEL_POOL in b["metadata"].get("labels", {})]
        self.source.reading = Reading(load=history, in_flight=dict.fromkeys(engines, 0), attainment={}, power_w=1000.0)


def node(name: str, *, gpus: int = 8, product: str = "NVIDIA-H100-80GB-HBM3", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {names.LABEL_GPU_PRODUCT: product}},
        "spec": spec,
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
