"""What kopf's indexes hold: the operator's picture of the cluster, kept by watches, read by every cycle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dynamollm.api import names
from dynamollm.controller.budget import Key

Object = Mapping[str, Any]

INDEXES: Final = ("services", "pods", "deployments", "config_maps", "nodes", "profiles", "policies")
"""Names of the index functions in ``handlers``."""


@dataclass(slots=True)
class ClusterView:
    """Reads the indexes; kopf gives them to handlers only, and ``bind`` takes them from there."""

    _indexes: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)

    def bind(self, indexes: Mapping[str, Any]) -> None:
        """Take the indexes out of a handler's keyword arguments."""
        if not self._indexes:
            self._indexes = {name: indexes[name] for name in INDEXES}

    def services(self) -> dict[Key, Object]:
        """Return all InferenceServices."""
        return {key: values[-1] for key, values in self._all("services")}

    def pods(self, key: Key) -> list[Object]:
        """Return a service's pods, engines and routers."""
        return self._at("pods", key)

    def all_pods(self) -> list[Object]:
        """Return the pods of all services."""
        return [pod for _, pods in self._all("pods") for pod in pods]

    def deployments(self, key: Key) -> list[Object]:
        """Return a service's Deployments."""
        return self._at("deployments", key)

    def config_map(self, key: Key, name: str) -> Object | None:
        """Return one of a service's ConfigMaps."""
        return next((body for body in self._at("config_maps", key) if body["metadata"]["name"] == name), None)

    def nodes(self) -> list[Object]:
        """Return the nodes."""
        return [values[-1] for _, values in self._all("nodes")]

    def profile(self, name: str) -> Object | None:
        """Return a PerformanceProfile."""
        values = self._at("profiles", name)
        return values[-1] if values else None

    def policy(self) -> Object | None:
        """Return the ClusterPolicy."""
        values = self._at("policies", "default")
        return values[-1] if values else None

    def _at(self, index: str, key: Any) -> list[Object]:
        return list(self._indexes.get(index, {}).get(key, ()))

    def _all(self, index: str) -> Iterator[tuple[Any, list[Object]]]:
        for key, values in list(self._indexes.get(index, {}).items()):
            if found := list(values):
                yield key, found


def service_of(body: Object) -> Key | None:
    """Return the service that an object belongs to, by its label."""
    metadata = body["metadata"]
    name = (metadata.get("labels") or {}).get(names.LABEL_SERVICE)
    return (metadata["namespace"], name) if name else None
