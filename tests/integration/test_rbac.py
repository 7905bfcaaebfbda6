"""Every right that the chart grants is used, and none is missing: from the API server's audit log of a service's life."""

import json
import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from integration.release import Release
from integration.rights import granted, used
from integration.waiting import eventually
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.controlplane import audit_log
from lab.helm import Helm
from lab.paths import REPOSITORY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="needs an API server that writes an audit log"),
]

SCALE: Final = 20.0
SERVICE: Final = "inferenceservices.dynamollm.io"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose API server writes down who asks for what."""
    options = LocalClusterOptions(name=f"rbac-{os.getpid()}", time_scale=SCALE, audit=True)
    with LocalCluster.start(options) as local:
        local.kubectl("create", "namespace", "llm")
        yield local


def apply(cluster: LocalCluster, **spec: Any) -> None:
    """Apply a service that fills the cluster; kwok plays its engines."""
    body = yaml.safe_load((REPOSITORY / "manifests/samples/demo.yaml").read_text())
    body["spec"] |= {
        "engine": {"type": "VLLM", "image": "engine:1"},
        "intervals": {"scaleSeconds": 60, "shardSeconds": 60, "clockSeconds": 5},
        **spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def names(cluster: LocalCluster, kind: str) -> set[str]:
    items = json.loads(cluster.kubectl("get", kind, "-n", "llm", "-o", "json"))["items"]
    return {body["metadata"]["name"] for body in items}


def converged(cluster: LocalCluster) -> None:
    cluster.kubectl("wait", f"{SERVICE}/chat", "-n", "llm", "--for=condition=Converged", "--timeout=240s")


def test_every_right_is_used_and_none_is_missing(cluster: LocalCluster) -> None:
    helm = Helm.on(cluster)
    values: dict[str, Any] = {
        "prometheus": {"url": cluster.prometheus_url, "scrapeIntervalSeconds": 1},
        "simulation": {"timeScale": SCALE},
    }
    deleting = values | {"uninstall": {"services": "Delete"}}
    helm.install(values)
    Release(cluster, helm).check()

    cluster.kubectl("apply", "-f", str(REPOSITORY / "manifests/profiles"))
    apply(cluster, forecast={"initialRequestsPerMinute": 900}, pins={"pools": 2})
    converged(cluster)
    eventually(lambda: len(names(cluster, "poddisruptionbudgets")) > 1, timeout_s=180.0, why="there is but one pool")
    # One pool at TP8: instances are unrouted and drained, groups and pools go, others come.
    apply(cluster, policy="SinglePool")
    eventually(
        lambda: (
            names(cluster, "poddisruptionbudgets") == {"chat-ll"}
            and not any(name.endswith("-tp2") for name in names(cluster, "deployments"))
        ),
        timeout_s=180.0,
        why="other pools and groups are left",
    )

    helm.uninstall()  # Keep: the service stays
    helm.install(deleting)
    converged(cluster)
    helm.uninstall()
    assert names(cluster, SERVICE) == set()

    rights, refused = used(audit_log(cluster.dir))
    assert refused == []
    allowed = {*granted(helm.template(values)), *granted(helm.template(deleting))}
    assert [str(right) for right in sorted(allowed) if not any(right.covers(one) for one in rights)] == []
