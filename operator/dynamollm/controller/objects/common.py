"""What all objects of a service have in common: owner, labels, the hash by which an unchanged one is told."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dynamollm.adapters.address import ALL_IPV4
from dynamollm.adapters.clock import Clock
from dynamollm.api import names
from dynamollm.api.inferenceservice import InferenceServiceSpec

ANNOTATION_APPLIED: Final = "dynamollm.io/applied"
"""Hash of what was applied last: an object that carries the right one needs no write."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
DRAIN_MARGIN_S: Final = 30
"""Seconds that a pod may live beyond its drain timeout before SIGKILL."""


@dataclass(frozen=True, slots=True)
class Owner:
    """An InferenceService with what its objects are made of."""

    namespace: str
    name: str
    uid: str
    spec: InferenceServiceSpec
    image: str
    """Image of our own parts."""
    clock: Clock = field(default_factory=Clock)
    every_address: str = ALL_IPV4
    """All addresses of a pod, in the family of the cluster's."""

    @property
    def reference(self) -> dict[str, Any]:
        """The owner reference: with the service, all its objects go."""
        return {
            "apiVersion": f"{names.GROUP}/{names.VERSION}",
            "kind": "InferenceService",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }

    @property
    def grace_period_s(self) -> int:
        """Seconds from a pod's deletion to its SIGKILL: its streams may last for the whole drain timeout.

        Simulated, as all that a kubelet is told: where time is simulated, so is the kubelet.
        """
        return self.spec.behavior.drain_timeout_seconds + DRAIN_MARGIN_S

    @property
    def time_env(self) -> list[dict[str, Any]]:
        """The environment that gives our own parts the operator's simulated time; none in real time."""
        if self.clock.scale == 1:
            return []
        return [
            {"name": "DYNAMOLLM_TIME_SCALE", "value": repr(self.clock.scale)},
            {"name": "DYNAMOLLM_TIME_ANCHOR", "value": repr(self.clock.anchor_s)},
        ]

    def metadata(self, name: str, *, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the metadata of one of the service's objects."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": {
                LABEL_MANAGED_BY: "dynamollm",
                names.LABEL_SERVICE: self.name,
                **(labels or {}),
            },
            "ownerReferences": [self.reference],
        }


POD_IP_ENV: Final[Mapping[str, Any]] = {
    "name": "POD_IP",
    "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
}

WITHOUT_PRIVILEGES: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
"""Security context of containers of others' images: published engines run as root and write caches into their home."""

CONFINED_POD: Final[Mapping[str, Any]] = {"seccompProfile": {"type": "RuntimeDefault"}}
"""Security context of the pods of others' images."""

RESTRICTED: Final[Mapping[str, Any]] = {**WITHOUT_PRIVILEGES, "readOnlyRootFilesystem": True}
"""Security context of the containers of our own image."""

RESTRICTED_POD: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    **CONFINED_POD,
}
"""Security context of the pods of our own image; the user is the image's."""


def scraped(port: int, *, path: str = "/metrics") -> dict[str, str]:
    """Return the annotations by which Prometheus, and the agent, find a pod's metrics."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), names.ANNOTATION_METRICS_PATH: path}


def stamped(body: dict[str, Any]) -> dict[str, Any]:
    """Return the object with the hash of its content in an annotation."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: digest}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def stamp(body: Mapping[str, Any]) -> str | None:
    """Return the hash that an object carries."""
    value: str | None = (body["metadata"].get("annotations") or {}).get(ANNOTATION_APPLIED)
    return value
