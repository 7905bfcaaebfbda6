"""Installs dynamollm into a local cluster as a user would: crds/ and manifests/base unchanged, one ConfigMap patched."""

import json
import os
import tempfile
from pathlib import Path
from typing import Final, Protocol

import yaml

from dynamollm.api.names import SYSTEM_NAMESPACE
from lab.paths import REPOSITORY

CRDS: Final = REPOSITORY / "crds"
BASE: Final = REPOSITORY / "manifests/base"


class Cluster(Protocol):
    """A cluster that kubectl reaches."""

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed."""


def install(
    cluster: Cluster,
    *,
    prometheus_url: str,
    time_scale: float = 1.0,
    time_anchor: float = 0.0,
    scrape_interval_s: float = 1.0,
) -> None:
    """Apply everything and return; nobody waits for the operator to be up.

    Raises:
        LabError: kubectl refused.
    """
    cluster.kubectl("apply", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(CRDS))
    settings = {
        "PROMETHEUS_URL": prometheus_url,
        "SCRAPE_INTERVAL_SECONDS": f"{scrape_interval_s:g}",
        "DYNAMOLLM_TIME_SCALE": repr(time_scale),
        "DYNAMOLLM_TIME_ANCHOR": repr(time_anchor),
    }
    with tempfile.TemporaryDirectory(prefix="dynamollm-install-") as folder:
        _write_overlay(Path(folder), settings)
        cluster.kubectl("apply", "-k", folder)


def _write_overlay(folder: Path, settings: dict[str, str]) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "dynamollm-config", "namespace": SYSTEM_NAMESPACE},
        "data": settings,
    }
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # kustomize takes no absolute path here.
        "resources": [os.path.relpath(BASE, folder.resolve())],
        "patches": [{"patch": json.dumps(config)}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
