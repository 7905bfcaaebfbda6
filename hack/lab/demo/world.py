"""What the demo sees of the cluster while it runs: the service's status, its Deployments, the energy meter.

Polled in a thread every wall second. Reconfigurations are counted here from the Deployments themselves, not from what the
operator says of itself.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, Self

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException

from dynamollm.api import names
from dynamollm.core.records import Service
from lab.demo.api import Api

POLL_S: Final = 1.0

Groups = dict[tuple[str, int], int]
"""(pool, TP) → desired replicas."""


@dataclass(slots=True)
class Reconfigurations:
    """Counts changes between settled states of the shard groups' desired replicas.

    A change takes several steps (new instances first, old ones drained one by one), so a state counts once the service
    has converged and it has stood for ``settled_looks``. Pool by pool it is a re-sharding where one TP degree gained and another lost instances, else
    a scaling where anything changed.
    """

    settled_looks: int = 3
    scalings: int = 0
    reshardings: int = 0
    _settled: Groups = field(default_factory=dict)
    _last: Groups = field(default_factory=dict)
    _stood: int = 0

    def look(self, groups: Groups, *, converged: bool = True) -> None:
        """Take in the desired replicas, and whether the operator says that everything is as planned."""
        groups = {group: replicas for group, replicas in groups.items() if replicas}
        self._stood = self._stood + 1 if groups == self._last and converged else int(converged)
        self._last = groups
        if self._stood < self.settled_looks or groups == self._settled:
            return
        before, self._settled = self._settled, groups
        if before:
            self._count(before, groups)

    def finish(self) -> None:
        """Take the last state as settled."""
        self._stood = self.settled_looks
        self.look(self._last)

    def _count(self, before: Groups, after: Groups) -> None:
        for pool in {pool for pool, _ in before.keys() | after.keys()}:
            changes = {
                tp: after.get((pool, tp), 0) - before.get((pool, tp), 0)
                for name, tp in before.keys() | after.keys()
                if name == pool
            }
            if min(changes.values()) < 0 < max(changes.values()):
                self.reshardings += 1
            elif any(changes.values()):
                self.scalings += 1


@dataclass(slots=True)
class Look:
    """The last look."""

    service: dict[str, Any] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    energy_j: float | None = None
    power_w: float | None = None
    pool_power_w: dict[str, float] = field(default_factory=dict)
    pool_clocks_mhz: dict[str, list[float]] = field(default_factory=dict)
    clock_changes: float | None = None
    events: list[str] = field(default_factory=list)


class World:
    """Polls until it is stopped; `look` is the newest whole look."""

    def __init__(self, *, api: Api, prometheus_url: str, service: Service) -> None:
        self._api = api
        self._prometheus = PrometheusConnect(url=prometheus_url)
        self._namespace, self._service = service.namespace, service.name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="world", daemon=True)
        self.look = Look()
        self.changes = Reconfigurations()
        self._looked_s = time.monotonic()
        self.held_gpu_s = 0.0
        """GPUs that pods of the service held, integrated over wall seconds."""

    def __enter__(self) -> Self:
        """Begin to poll."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the polling."""
        self.stop()

    def stop(self) -> None:
        """End the polling, and take the last state as settled."""
        self._stopped.set()
        self._thread.join(timeout=10)
        self.changes.finish()

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_S):
            try:
                self._look_once()
            except (requests.RequestException, PrometheusApiClientException):
                continue  # the next look is a second away, and the old one stays on the screen

    def _look_once(self) -> None:
        base = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{self._namespace}/{names.SERVICES}/{self._service}"
        selector = f"{names.LABEL_SERVICE}={self._service},{names.LABEL_COMPONENT}=engine"
        service = self._api.get(base)
        deployments = self._api.items(f"/apis/apps/v1/namespaces/{self._namespace}/deployments", selector)
        groups = {
            (
                deployment["metadata"]["labels"][names.LABEL_POOL],
                int(deployment["metadata"]["labels"][names.LABEL_TENSOR_PARALLEL]),
            ): deployment["spec"]["replicas"]
            for deployment in deployments
        }
        self.changes.look(groups, converged=_holds(service, "Converged"))
        pods = self._api.items(f"/api/v1/namespaces/{self._namespace}/pods", selector)
        now_s = time.monotonic()
        self.held_gpu_s += held_gpus(self.look.pods) * (now_s - self._looked_s)
        self._looked_s = now_s
        events = self._api.items(f"/api/v1/namespaces/{self._namespace}/events")
        match = f'{{namespace="{self._namespace}",service="{self._service}"}}'
        self.look = Look(
            service=service,
            pods=pods,
            energy_j=self._value(f"sum(dynamollm_service_energy_joules_total{match})"),
            power_w=self._value(f"sum(dynamollm_service_power_watts{match})"),
            pool_power_w={
                pool: sum(values) for pool, values in self._by_pool(f"dynamollm_service_power_watts{match}").items()
            },
            pool_clocks_mhz=self._by_pool(
                f"dynamollm_gpu_sm_clock_mhz * on (gpu) group_left (pool) dynamollm_gpu_held{match}"
            ),
            clock_changes=self._value("sum(dynamollm_gpu_clock_changes_total)"),
            events=[
                f"{event['reason']}: {event['message']}"
                for event in sorted(events, key=_event_time)
                if event["involvedObject"].get("kind") == "InferenceService"
            ],
        )

    def _by_pool(self, query: str) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        for series in self._prometheus.custom_query(query, timeout=5):
            values.setdefault(series["metric"].get("pool", ""), []).append(float(series["value"][1]))
        return values

    def _value(self, query: str) -> float | None:
        answer = self._prometheus.custom_query(query, timeout=5)
        return float(answer[0]["value"][1]) if answer else None


def _holds(service: dict[str, Any], kind: str) -> bool:
    conditions = service.get("status", {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def held_gpus(pods: list[dict[str, Any]]) -> int:
    """Return how many GPUs engine pods hold: those that have a node and have not ended."""
    return sum(
        int(pod["metadata"]["labels"][names.LABEL_TENSOR_PARALLEL])
        for pod in pods
        if pod["spec"].get("nodeName") and pod["status"].get("phase") not in {"Succeeded", "Failed"}
    )


def _event_time(event: dict[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])
