"""The image and the chart on a real kind cluster: real kubelets, containers, capabilities, device plugin and PodResources."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest
import requests

from dynamollm.api import names
from integration.release import KEPT, RELEASE, SERVICE, SYSTEM, Release, another_version, ready
from integration.waiting import eventually
from lab import nvml
from lab.helm import Helm
from lab.kind import KindCluster, available, kind_cluster

# Without kind one line says why; a run that is about kind fails instead (docs/e2e.md).
if (missing := available()) and os.environ.get("KIND_REQUIRED") != "1":
    pytest.skip(f"kind cannot be used: {missing}", allow_module_level=True)

# The first test waits for images, cluster and chart too.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

SCALE: Final = 10.0
"""A start-up of two minutes takes twelve seconds."""
NAMESPACE: Final = "llm"
HIGHEST_MHZ: Final = 1980
"""The highest clock of the H100 that the profile describes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KindCluster]:
    with kind_cluster(time_scale=SCALE) as kind:
        yield kind


@pytest.fixture(scope="module")
def release(cluster: KindCluster) -> Iterator[Release]:
    """The chart, installed as README says, and removed with everything of its users."""
    release = Release(cluster=cluster, helm=Helm.on(cluster))
    release.helm.install(release.values())
    yield release
    # With its hooks: a test that failed half-way leaves services whose finalizers somebody has to release.
    uninstall = ("uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait", "--timeout", "240s")
    release.helm.run(*uninstall)
    release.remove_services()
    cluster.kubectl("delete", "crds,clusterroles", "-l", "app.kubernetes.io/part-of=dynamollm")
    cluster.kubectl("delete", "namespace", SYSTEM, NAMESPACE, "--ignore-not-found", "--timeout=240s")


def status(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = release.json("get", SERVICE, "chat", "-n", NAMESPACE).get("status", {})
    return found


def instances(release: Release) -> list[int]:
    """Return the TP degrees of the engine pods that are ready, ascending."""
    pods = release.items("pods", "-n", NAMESPACE, "-l", f"{names.LABEL_COMPONENT}=engine")
    serving = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and ready(pod)]
    return sorted(int(pod["metadata"]["labels"][names.LABEL_TENSOR_PARALLEL]) for pod in serving)


def change(release: Release, **spec: Any) -> None:
    release.cluster.kubectl(
        *("patch", SERVICE, "chat", "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": spec}))
    )


class Clients:
    """Streams, one after the other on a few threads, and how each ended."""

    def __init__(self, release: Release, *, threads: int = 3) -> None:
        self._release, self._over = release, threading.Event()
        self.ended: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with self._release.ask(NAMESPACE, tokens=64) as answer:
                    whole = answer.status_code == 200 and b"data: [DONE]" in answer.content
                    self.ended.append("whole" if whole else f"{answer.status_code}: {answer.content[-200:]!r}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the test's finding
                self.ended.append(repr(error))

    def some_more(self, count: int = 10) -> None:
        goal = len(self.ended) + count
        eventually(lambda: len(self.ended) >= goal, timeout_s=120, why="streams do not end")

    def failed(self) -> list[str]:
        return [how for how in self.ended if how != "whole"]


def busy(release: Release) -> list[nvml.GpuState]:
    """Return the GPUs that an engine holds, of all nodes."""
    return [gpu for state in release.cluster.gpu_states() for gpu in state.gpus if gpu.context_pid is not None]


def watts(release: Release, clients: Clients) -> float:
    """Return the mean power of the GPUs that serve while these clients get some answers, by the GPUs' own meters, W."""
    started = time.monotonic()
    before = {gpu.uuid: gpu.energy_j for gpu in busy(release)}
    clients.some_more(60)
    after = {gpu.uuid: gpu.energy_j for gpu in busy(release)}
    simulated_s = (time.monotonic() - started) * SCALE
    assert before.keys() == after.keys()
    return sum(after[uuid] - before[uuid] for uuid in after) / simulated_s


# ------------------------------------------------------------------ in the order of a service's life
def test_every_node_has_an_agent_that_sees_its_gpus(release: Release) -> None:
    states = release.cluster.gpu_states()
    assert [len(state.gpus) for state in states] == [8] * len(states)
    agents = release.items("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=dynamollm-agent")
    assert len(agents) == len(states)
    assert all(ready(pod) for pod in agents)
    for pod in agents:
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["capabilities"] == {"add": ["SYS_ADMIN"], "drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    release.check()


def test_a_service_gets_gpus_of_the_kubelet_and_answers(release: Release) -> None:
    release.serve(NAMESPACE)
    assert instances(release) == [4]
    # The lock is on the GPUs that the kubelet gave the pod, which only PodResources tells the agent.
    states = release.cluster.gpu_states()
    held = {gpu.uuid for state in states for gpu in state.gpus if gpu.context_pid is not None}
    assert len(held) == 4
    assert {gpu.uuid for state in states for gpu in state.gpus if gpu.lock_mhz is not None} == held
    with release.ask(NAMESPACE) as answer:
        assert answer.status_code == 200
        assert b"data: [DONE]" in answer.content


ENDS: Final = [
    (f"{SYSTEM}/app.kubernetes.io/name=dynamollm-operator", names.OPERATOR_HEALTH_PORT, "/healthz"),
    (f"{SYSTEM}/app.kubernetes.io/name=dynamollm-agent", names.AGENT_METRICS_PORT, "/healthz"),
    (f"{NAMESPACE}/{names.LABEL_COMPONENT}=router", names.ROUTER_PORT, "/readyz"),
    (f"{NAMESPACE}/{names.LABEL_COMPONENT}=engine", names.ENGINE_PORT, "/health"),
]


@pytest.mark.parametrize(("pods", "port", "path"), ENDS, ids=[case[0] for case in ENDS])
def test_a_port_forward_reaches_every_part(
    cluster: KindCluster, release: Release, pods: str, port: int, path: str
) -> None:
    namespace, _, label = pods.partition("/")
    pod = release.items("pods", "-n", namespace, "-l", label)[0]
    with cluster.forwarded(pod, port) as url:
        assert requests.get(f"{url}{path}", timeout=30).status_code == 200


def test_clocks_go_down_with_little_load_and_watts_with_them(release: Release) -> None:
    with Clients(release) as clients:
        change(release, pins={"clockMHz": HIGHEST_MHZ})
        eventually(
            lambda: release.locks() and {high for _, high in release.locks()} == {HIGHEST_MHZ},
            timeout_s=120,
            why="the pinned clock is not locked",
        )
        at_highest = watts(release, clients)
        change(release, pins=None)
        eventually(
            lambda: release.locks() and max(high for _, high in release.locks()) < HIGHEST_MHZ,
            timeout_s=120,
            why="no clock goes down",
        )
        assert watts(release, clients) < at_highest
        for gpu in busy(release):
            assert gpu.lock_mhz is not None
            assert gpu.sm_clock_mhz <= gpu.lock_mhz[1]
        eventually(
            lambda: status(release).get("energyWattHours", 0) > 0, timeout_s=120, why="no energy reaches the status"
        )
    assert clients.failed() == []


def test_another_tensor_parallel_degree_replaces_the_instances_under_streams(release: Release) -> None:
    with Clients(release) as clients:
        clients.some_more()
        change(release, gpu={"tensorParallel": [8]}, limits={"maxGPUs": 16})
        eventually(lambda: instances(release) == [8], timeout_s=300, why="no re-sharding")
        release.converged(NAMESPACE)
        clients.some_more()
    assert clients.failed() == []


def test_more_instances_are_started_and_go_again(release: Release) -> None:
    change(release, limits={"minInstances": 2, "maxGPUs": 16})
    eventually(lambda: instances(release) == [8, 8], timeout_s=180, why="no second instance")
    with Clients(release) as clients:
        clients.some_more()
        change(release, limits={"minInstances": 1, "maxGPUs": 16}, behavior={"scaleDownStabilizationSeconds": 0})
        eventually(lambda: instances(release) == [8], timeout_s=300, why="the second instance does not go")
    assert clients.failed() == []


def test_an_upgrade_that_was_killed_is_done_again_and_disturbs_nobody(release: Release, tmp_path: Path) -> None:
    engines = release.engines(NAMESPACE)
    later = another_version(tmp_path)
    upgrade = ("upgrade", RELEASE, str(later), "--namespace", SYSTEM, "--wait", "--timeout", "120s")
    before = release.json("get", "deployment", "dynamollm-operator", "-n", SYSTEM)["metadata"]["generation"]
    release.killed(
        *upgrade,
        values=release.values(operator={"nodeSelector": {"no": "where"}}),
        when=lambda: (
            release.json("get", "deployment", "dynamollm-operator", "-n", SYSTEM)["metadata"]["generation"] > before
        ),
    )
    release.helm.run("rollback", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "120s")
    release.helm.run(*upgrade, values=release.values())
    release.converged(NAMESPACE)
    assert release.engines(NAMESPACE) == engines


def test_an_uninstall_leaves_no_lock_and_no_finalizer_and_streams_go_on(release: Release) -> None:
    engines = release.engines(NAMESPACE)
    with Clients(release) as clients:
        clients.some_more(3)
        release.helm.uninstall()
        clients.some_more(3)
    assert clients.failed() == []
    assert release.locks() == []
    assert release.finalizers(NAMESPACE) == []
    assert release.ours() == KEPT
    assert release.engines(NAMESPACE) == engines
