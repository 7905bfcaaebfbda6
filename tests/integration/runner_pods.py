"""Pods for the pod runner, and a namespace to look at them in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from lab.cluster import LocalCluster
from lab.errors import LabError

IMAGE: Final = "dynamollm/dynamollm:0.1.0"
Json = dict[str, Any]


class Namespace:
    """One test's namespace."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.name, *args, stdin=stdin)

    def apply(self, *manifests: Json) -> None:
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.kubectl("apply", "-f", "-", stdin=items)

    def status(self, name: str) -> Json:
        status: Json = json.loads(self.kubectl("get", "pod", name, "-o", "json"))["status"]
        return status

    def state(self, name: str) -> Json:
        """Return the status of a pod's first container, empty before there is one."""
        status: Json = next(iter(self.status(name).get("containerStatuses", [])), {})
        return status

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase"))

    def uid(self, name: str) -> str:
        return self.kubectl("get", "pod", name, "-o", "jsonpath={.metadata.uid}")

    def ended(self, name: str) -> bool:
        return self.phase(name) in {"Succeeded", "Failed"}

    def log(self, name: str) -> str:
        try:
            return self.cluster.logs(self.name, name)
        except LabError:
            return ""

    def ready(self, name: str, value: str = "True") -> Json | None:
        status = self.status(name)
        found = {one["type"]: one["status"] for one in status.get("conditions", [])}
        return status if found.get("Ready") == value else None


@contextmanager
def of_test(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Give a namespace called after the test."""
    name = request.node.name.replace("_", "-").lower()[:60].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def pod(name: str, code: str, *, container: Json | None = None, **spec: Any) -> Json:
    main = {"name": "main", "image": IMAGE, "command": ["python", "-c", code], **(container or {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [main], "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, **spec},
    }
