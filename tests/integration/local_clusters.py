"""What tests of the local cluster share."""

import json
import os
import subprocess
import sys
from typing import Any

from lab.cluster import LocalCluster, LocalClusterOptions
from lab.paths import HACK


def small(name: str) -> LocalClusterOptions:
    """Return a cluster that is up soon, named after this process."""
    return LocalClusterOptions(name=f"{name}-{os.getpid()}", nodes=2, gpus_per_node=4)


def command(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lab", *args],
        env=os.environ | {"PYTHONPATH": str(HACK)} | env,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )


def pods(cluster: LocalCluster, *args: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster.kubectl("get", "pods", "-o", "json", *args))["items"]
    return items


def our_pod(name: str, script: str) -> dict[str, Any]:
    container = {"name": "own", "image": "dynamollm/dynamollm:0.1.0", "command": ["sh", "-c", script]}
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def apply(cluster: LocalCluster, namespace: str, *manifests: dict[str, Any]) -> None:
    text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
    cluster.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=text)
