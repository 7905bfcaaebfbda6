"""Every manifest that we ship, applied to a real API server as a user does it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.backend import Cluster
from lab.install import CRDS
from lab.paths import REPOSITORY

pytestmark = pytest.mark.integration

SAMPLES = REPOSITORY / "manifests/samples"
FILES = sorted([*SAMPLES.glob("*.yaml"), *(REPOSITORY / "manifests/profiles").glob("*.yaml")])


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("apply", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(CRDS))
    cluster.kubectl("apply", "-f", str(SAMPLES / "namespace.yaml"))
    yield
    cluster.kubectl("delete", "-f", str(SAMPLES / "namespace.yaml"), "--wait=false", "--ignore-not-found")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_accepted_and_nothing_of_it_is_lost(cluster: Cluster, path: Path) -> None:
    wanted = list(yaml.safe_load_all(path.read_text()))
    cluster.kubectl("apply", "-f", str(path))
    try:
        answer = json.loads(cluster.kubectl("get", "-f", str(path), "-o", "json"))
        found = answer["items"] if answer["kind"] == "List" else [answer]
        for body, got in zip(wanted, found, strict=True):
            assert (got["kind"], got["metadata"]["name"]) == (body["kind"], body["metadata"]["name"])
            assert lost(body.get("spec", {}), got.get("spec", {})) == []
    finally:
        if path.name != "namespace.yaml":
            cluster.kubectl("delete", "-f", str(path), "--timeout=120s")


def lost(wanted: Any, got: Any, path: str = "spec") -> list[str]:
    """Return where what was applied is not what is there; defaults may have come to it."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [line for key, value in wanted.items() for line in lost(value, got.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = enumerate(zip(wanted, got, strict=True))
        return [line for index, (value, one) in pairs for line in lost(value, one, f"{path}[{index}]")]
    return [] if wanted == got else [path]
