"""Install, upgrade, rollback and uninstall with the real helm, with a service that runs: nothing of its user's is lost."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dynamollm.api import names
from integration.release import KEPT, RELEASE, SERVICE, SYSTEM, Release, another_version
from integration.waiting import eventually
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.errors import LabError
from lab.helm import CHART, Helm
from lab.install import BASE, CRDS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="installs and uninstalls all the time, and looks at GPUs"),
]

SCALE: Final = 20.0
NODES: Final = 2
OF_RELEASE: Final = (RELEASE, "--namespace", SYSTEM)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster of its own: one has one release at a time."""
    options = LocalClusterOptions(name=f"chart-{os.getpid()}", nodes=NODES, time_scale=SCALE)
    with LocalCluster.start(options) as local:
        yield local


@pytest.fixture
def release(cluster: LocalCluster) -> Iterator[Release]:
    """The chart, not installed; afterwards everything of it and of its users is removed."""
    release = Release(cluster=cluster, helm=Helm.on(cluster))
    yield release
    if "deployment.apps/dynamollm-operator" in release.ours():
        release.remove_services()
    release.helm.run("uninstall", *OF_RELEASE, "--ignore-not-found", "--wait", "--no-hooks", "--timeout", "240s")
    release.remove_services()
    cluster.kubectl("delete", "crds,clusterroles", "-l", "app.kubernetes.io/part-of=dynamollm")
    cluster.kubectl("delete", "namespace", SYSTEM, "llm", "--ignore-not-found", "--timeout=240s")


def field_of_the_later_version(release: Release) -> bool:
    crd = release.json("get", "crd", SERVICE)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return "addedLater" in schema["spec"]["properties"]


# ------------------------------------------------------------------ the usual life
def test_install_upgrade_rollback_and_uninstall(release: Release, tmp_path: Path) -> None:
    notes = release.helm.install(release.values())
    assert "WARNING: simulation.timeScale is 20" in notes
    assert notes.count("WARNING") == 1
    release.check()
    release.serve("llm")
    engines = release.engines("llm")
    assert engines

    later = another_version(tmp_path)
    release.helm.run("upgrade", RELEASE, str(later), "--namespace", SYSTEM, "--wait", "--timeout", "240s",
                     values=release.values(operator={"replicas": 2}))  # fmt: skip
    assert field_of_the_later_version(release)
    # What the operator wrote on the agents' DaemonSet is still there.
    agents = release.json("get", "daemonset", names.AGENT_DAEMONSET, "-n", SYSTEM)
    assert "llm/chat/" in agents["metadata"]["annotations"][names.ANNOTATION_CLOCK_PLAN]
    assert release.json("get", "deployment", "dynamollm-operator", "-n", SYSTEM)["status"]["readyReplicas"] == 2
    release.converged("llm")

    release.helm.run("rollback", RELEASE, "1", "--namespace", SYSTEM, "--wait", "--timeout", "240s")
    assert not field_of_the_later_version(release)
    release.converged("llm")
    # No engine was restarted or replaced by any of it.
    assert release.engines("llm") == engines

    release.helm.uninstall()
    assert release.ours() == KEPT


def test_what_is_installed_is_what_is_rendered(release: Release) -> None:
    values = release.values()
    release.helm.install(values)
    rendered = {
        (body["kind"], body["metadata"]["name"]): body
        for body in release.helm.template(values)
        if "helm.sh/hook" not in body["metadata"].get("annotations", {})
    }
    for (kind, name), body in rendered.items():
        if kind == "CustomResourceDefinition":
            continue
        live = release.json("get", kind, name, "-n", body["metadata"].get("namespace", "default"))
        assert contains(live, body) == [], (kind, name)


def contains(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Return where what is there is not what was wanted; more may be there."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return [path]
        return [line for key, value in wanted.items() for line in contains(live.get(key), value, f"{path}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(live) != len(wanted):
            return [path]
        pairs = zip(live, wanted, strict=True)
        return [line for index, pair in enumerate(pairs) for line in contains(*pair, f"{path}[{index}]")]
    return [] if live == wanted else [f"{path}: {live!r}, not {wanted!r}"]


# ------------------------------------------------------------------ uninstall with a service that runs
def test_an_uninstall_keeps_what_serves_and_an_install_takes_over(release: Release) -> None:
    release.helm.install(release.values())
    release.serve("llm")
    engines = release.engines("llm")
    with release.ask("llm", tokens=2000) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        next(lines)
        release.helm.uninstall()
        # Nothing is locked, nothing waits for an operator, nothing of the chart is left but what services need.
        assert release.locks() == []
        assert release.finalizers("llm") == []
        assert release.ours() == KEPT
        assert [line for line in lines if line][-1] == b"data: [DONE]"
    assert release.engines("llm") == engines

    # Even a router that starts anew: its role has stayed.
    release.cluster.kubectl("delete", "pods", "-n", "llm", "-l", "dynamollm.io/component=router", "--wait=false")
    eventually(lambda: not release.router("llm"), why="the router does not go")
    with release.ask("llm") as answer:
        assert answer.status_code == 200
        assert b"[DONE]" in answer.content

    release.helm.install(release.values())
    release.converged("llm")
    eventually(release.locks, why="no clock is locked again")
    assert release.finalizers("llm") == ["dynamollm.io/operator"]
    assert release.engines("llm") == engines

    # And whoever does not want a service any more needs no operator to be rid of it.
    release.helm.uninstall()
    release.cluster.kubectl("delete", SERVICE, "chat", "-n", "llm", "--timeout=120s")
    left = ("deployments,services,pods,configmaps", "-n", "llm", "-l", "dynamollm.io/service")
    eventually(lambda: not release.items(*left), why="objects of the service are left")


def test_an_uninstall_that_is_told_so_deletes_services_and_no_more(release: Release) -> None:
    release.helm.install(release.values(uninstall={"services": "Delete"}))
    release.serve("llm")
    release.helm.uninstall()
    assert release.items(SERVICE, "--all-namespaces") == []
    assert release.locks() == []
    assert release.ours() == KEPT - {"clusterrole.rbac.authorization.k8s.io/dynamollm-router"}
    assert release.items("performanceprofiles.dynamollm.io")
    eventually(lambda: not release.items("deployments", "-n", "llm"), why="Deployments are left")


def test_a_dead_operator_holds_no_uninstall_up(release: Release) -> None:
    release.helm.install(release.values(uninstall={"services": "Delete", "timeoutSeconds": 2}))
    release.serve("llm")
    release.cluster.kubectl("scale", "deployment/dynamollm-operator", "-n", SYSTEM, "--replicas=0")
    release.helm.uninstall()
    assert release.locks() == []
    assert release.items(SERVICE, "--all-namespaces") == []


# ------------------------------------------------------------------ half-way
def test_an_upgrade_that_was_killed_is_done_again(release: Release, tmp_path: Path) -> None:
    release.helm.install(release.values())
    release.serve("llm")
    engines = release.engines("llm")
    later = another_version(tmp_path)
    # Its pods can run nowhere, so helm waits.
    nowhere = release.values(operator={"nodeSelector": {"no": "where"}})
    release.killed(
        *("upgrade", RELEASE, str(later), "--namespace", SYSTEM, "--wait", "--timeout", "600s"),
        values=nowhere,
        when=lambda: (
            field_of_the_later_version(release)
            and release.json("get", "deployment", "dynamollm-operator", "-n", SYSTEM)["metadata"]["generation"] > 1
        ),
    )
    # The old operator goes on meanwhile.
    release.converged("llm")
    assert release.engines("llm") == engines
    with pytest.raises(LabError, match="another operation"):
        release.helm.install(release.values())
    release.helm.run("rollback", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "240s")
    release.helm.run("upgrade", RELEASE, str(later), "--namespace", SYSTEM, "--wait", "--timeout", "240s",
                     values=release.values())  # fmt: skip
    assert field_of_the_later_version(release)
    release.converged("llm")
    assert release.engines("llm") == engines
    assert release.finalizers("llm") == ["dynamollm.io/operator"]


def test_an_uninstall_that_was_killed_is_done_again(release: Release) -> None:
    release.helm.install(release.values())
    release.serve("llm")
    engines = release.engines("llm")
    release.killed(
        *("uninstall", *OF_RELEASE, "--wait"),
        values=None,
        when=lambda: "job.batch/dynamollm-uninstall" in release.ours(),
    )
    release.helm.uninstall()
    assert release.locks() == []
    assert release.finalizers("llm") == []
    assert release.ours() == KEPT
    assert release.engines("llm") == engines


def test_who_thinks_better_of_an_uninstall_rolls_back(release: Release) -> None:
    release.helm.install(release.values())
    release.serve("llm")
    engines = release.engines("llm")
    release.killed(
        *("uninstall", *OF_RELEASE, "--wait"),
        values=None,
        when=lambda: "deployment.apps/dynamollm-operator" not in release.ours(),
    )
    eventually(lambda: release.finalizers("llm") == [], timeout_s=120.0, why="the job did not end")
    release.helm.run("rollback", RELEASE, "1", "--namespace", SYSTEM, "--wait", "--timeout", "240s")
    release.converged("llm")
    eventually(lambda: release.finalizers("llm") == ["dynamollm.io/operator"], why="the operator is not back")
    assert release.engines("llm") == engines


# ------------------------------------------------------------------ what else is in the cluster
def test_a_second_install_is_refused_and_changes_nothing(release: Release) -> None:
    release.helm.install(release.values())
    before = release.json("get", "clusterrole", "dynamollm-operator")["metadata"]["resourceVersion"]
    for name, namespace in (("dynamollm", "other"), ("second", SYSTEM)):
        with pytest.raises(LabError, match=f"has dynamollm already, as release dynamollm in namespace {SYSTEM}"):
            release.helm.run("install", name, str(CHART), "--namespace", namespace, "--create-namespace",
                             "--take-ownership", values=release.values())  # fmt: skip
    assert release.json("get", "clusterrole", "dynamollm-operator")["metadata"]["resourceVersion"] == before
    release.check()
    release.cluster.kubectl("delete", "namespace", "other", "--ignore-not-found", "--wait=false")


def test_what_was_applied_by_kubectl_becomes_a_release(release: Release) -> None:
    release.cluster.kubectl("apply", "-f", str(CRDS))
    release.cluster.kubectl("apply", "-k", str(BASE))
    with pytest.raises(LabError, match="cannot be imported"):
        release.helm.install(release.values())
    release.helm.install(release.values(), "--take-ownership", "--force-conflicts")
    release.check()


def test_kserve_is_warned_of_and_is_no_hindrance(release: Release) -> None:
    kserve = release.json("create", "--dry-run=client", "-f", str(CRDS / "dynamollm.io_inferenceservices.yaml"))
    kserve["metadata"] = {"name": "inferenceservices.serving.kserve.io"}
    kserve["spec"] |= {"group": "serving.kserve.io"}
    kserve["spec"]["names"] |= {"shortNames": ["isvc"]}
    kserve["spec"]["names"].pop("categories", None)
    version = {"name": "v1beta1", "served": True, "storage": True}
    version["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    kserve["spec"]["versions"] = [version]
    release.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(kserve))
    try:
        notes = release.helm.install(release.values())
        assert "WARNING: KServe is here too" in notes
        release.serve("llm")
        release.helm.uninstall()
        assert release.finalizers("llm") == []
    finally:
        release.cluster.kubectl("delete", "crd", "inferenceservices.serving.kserve.io")


def test_nodes_without_labels_and_a_prometheus_that_is_not_there_are_warned_of(release: Release) -> None:
    release.cluster.kubectl("create", "service", "clusterip", "prometheus-server", "-n", "monitoring", "--tcp=80:9090")
    nodes = release.cluster.kubectl("get", "nodes", "-o", "name").split()
    labels = {name: release.json("get", name)["metadata"]["labels"] for name in nodes}
    try:
        for name in nodes:
            release.cluster.kubectl("label", name, "nvidia.com/gpu.product-", "nvidia.com/gpu.present-")
        notes = release.helm.run("install", *OF_RELEASE[:1], str(CHART), *OF_RELEASE[1:], "--create-namespace",
                                 "--wait", "--timeout", "240s")  # fmt: skip
        assert "WARNING: no node has the label nvidia.com/gpu.product" in notes
        assert 'WARNING: no node matches agent.nodeSelector {"nvidia.com/gpu.present":"true"}' in notes
        assert "WARNING: there is no Service prometheus in namespace monitoring" in notes
        assert "Candidates: http://prometheus-server.monitoring.svc:80." in notes
        with pytest.raises(LabError):
            release.helm.test()
        said = release.cluster.logs(SYSTEM, "dynamollm-check").splitlines()
        assert [line for line in said if line.startswith("problem")] == [
            line for line in said if "PrometheusUnreachable: http://prometheus.monitoring.svc:9090" in line
        ]
        assert len([line for line in said if line.startswith("warning")]) == 2
    finally:
        for name, found in labels.items():
            kept = [f"{key}={value}" for key, value in found.items() if key.startswith("nvidia.com/gpu.pr")]
            release.cluster.kubectl("label", "--overwrite", name, *kept)
        release.cluster.kubectl("delete", "service", "prometheus-server", "-n", "monitoring")


def test_a_namespace_that_refuses_agents_is_refused(release: Release) -> None:
    release.cluster.kubectl("create", "namespace", SYSTEM)
    for level in ("baseline", "restricted"):
        label = f"pod-security.kubernetes.io/enforce={level}"
        release.cluster.kubectl("label", "--overwrite", "namespace", SYSTEM, label)
        with pytest.raises(LabError, match=f"enforces the Pod Security Standard {level}.*kubectl label namespace"):
            release.helm.install(release.values())
    # Everything but the agent fits even the strictest.
    release.helm.install(release.values(agent={"enabled": False}))
    release.check()
    release.helm.uninstall()
    assert release.ours() == KEPT
