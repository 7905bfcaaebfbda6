"""The local cluster itself: what it offers, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from integration.waiting import eventually
from lab import nvml, record
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions, take_down
from lab.errors import LabError
from lab.nodes import node_name
from lab.paths import HACK, REPOSITORY, log_file, nvml_state, state_dir
from lab.processes import marked, started_ticks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="about the local cluster, and another one was asked for"),
]


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


@pytest.fixture
def namespace(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name.replace("_", "-").lower()[:60].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def gpu_pod(name: str, *, gpus: int, image: str = "example/engine:1") -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "engine", "image": image, "resources": {"limits": limits}}]},
    }


def our_pod(name: str, script: str) -> dict[str, Any]:
    container = {"name": "own", "image": "dynamollm/dynamollm:0.1.0", "command": ["sh", "-c", script]}
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def apply(cluster: LocalCluster, namespace: str, *manifests: dict[str, Any]) -> None:
    text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
    cluster.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=text)


# ------------------------------------------------------------------ what it offers
def test_twelve_nodes_of_eight_h100(cluster: LocalCluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == [node_name(index) for index in range(12)]
    for node in nodes:
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
        assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
        gpus = nvml.read(state_file=nvml_state(cluster.dir, node["metadata"]["name"])).gpus
        assert len(gpus) == 8


def test_the_thirteenth_pod_of_eight_gpus_stays_pending(cluster: LocalCluster, namespace: str) -> None:
    apply(cluster, namespace, *(gpu_pod(f"engine-{index}", gpus=8) for index in range(13)))

    def settled() -> list[dict[str, Any]] | None:
        found = pods(cluster, "-n", namespace)
        conditions = [one for pod in found for one in pod["status"].get("conditions", [])]
        running = sum(pod["status"]["phase"] == "Running" for pod in found)
        refused = [one for one in conditions if one.get("reason") == "Unschedulable"]
        return refused if running == 12 else None

    (refused,) = eventually(settled, why="not twelve pods running and one refused")
    assert "Insufficient nvidia.com/gpu" in refused["message"]


def test_kwok_leaves_pods_of_our_image_to_the_pod_runner(cluster: LocalCluster, namespace: str) -> None:
    # A command that is not there: a pod runner cannot make it ready, and kwok would at once.
    ours = gpu_pod("ours", gpus=1, image="dynamollm/dynamollm:0.1.0")
    ours["spec"]["containers"][0]["command"] = ["/does/not/exist"]
    apply(cluster, namespace, ours, gpu_pod("other", gpus=1, image="example/dynamollm/dynamollm-not:1"))

    def ready() -> set[str]:
        return {
            pod["metadata"]["name"]
            for pod in pods(cluster, "-n", namespace)
            for condition in pod["status"].get("conditions", [])
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }

    eventually(lambda: "other" in ready())
    assert ready() == {"other"}


def test_deployments_and_jobs_of_other_images_come_to_life(cluster: LocalCluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=example/web:1", "--replicas=3", "-n", namespace)
    cluster.kubectl("create", "job", "once", "--image=example/once:1", "-n", namespace, "--", "true")
    cluster.kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout=120s", "-n", namespace)
    cluster.kubectl("wait", "job/once", "--for=condition=Complete", "--timeout=120s", "-n", namespace)
    cluster.kubectl("delete", "deployment", "web", "-n", namespace, "--wait")
    eventually(lambda: not pods(cluster, "-n", namespace, "-l", "app=web"), why="pods of a deleted deployment stay")


def test_rbac_is_on(cluster: LocalCluster) -> None:
    nobody = "system:serviceaccount:default:default"
    with pytest.raises(LabError, match="forbidden"):
        cluster.kubectl("get", "pods", "--as", nobody)
    monitoring = "system:serviceaccount:monitoring:prometheus"
    cluster.kubectl("get", "pods", "-A", "--as", monitoring)
    with pytest.raises(LabError, match="forbidden"):
        cluster.kubectl("get", "secrets", "-A", "--as", monitoring)


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/stats"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b'answer{pod="mine"} 42\n' if found else b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


def test_prometheus_scrapes_annotated_pods_with_the_agreed_labels(cluster: LocalCluster, namespace: str) -> None:
    manifest = gpu_pod("engine-a", gpus=1)
    manifest["metadata"] |= {
        "labels": {
            "dynamollm.io/service": "chat",
            "dynamollm.io/pool": "ll",
            "dynamollm.io/component": "engine",
            "dynamollm.io/tensor-parallel": "4",
        }
    }
    apply(cluster, namespace, manifest)
    address = eventually(lambda: pods(cluster, "-n", namespace)[0]["status"].get("podIP"))
    with ThreadingHTTPServer((address, 0), _Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster.kubectl(
            *("annotate", "pod", "engine-a", "-n", namespace, "prometheus.io/scrape=true"),
            *(f"prometheus.io/port={server.server_port}", "prometheus.io/path=/stats"),
        )

        def sample() -> dict[str, Any] | None:
            query = {"query": f'answer{{namespace="{namespace}"}}'}
            answer = requests.get(f"{cluster.prometheus_url}/api/v1/query", params=query, timeout=30).json()
            return next(iter(answer["data"]["result"]), None)

        found = eventually(sample, why="Prometheus has no sample of the pod")
        server.shutdown()
    assert found["value"][1] == "42"
    labels = found["metric"]
    assert labels.pop("node").startswith("gpu-node-")
    assert labels.pop("instance") == f"{address}:{server.server_port}"
    assert labels == {
        "__name__": "answer",
        "job": "pods",
        "namespace": namespace,
        "pod": "mine",  # honor_labels: what the exporter says wins
        "service": "chat",
        "pool": "ll",
        "component": "engine",
        "tensor_parallel": "4",
    }


# ------------------------------------------------------------------ the command
def test_status_env_and_exec(cluster: LocalCluster) -> None:
    status = command("status", "--name", cluster.name)
    assert status.returncode == 0
    assert f"cluster {cluster.name}: ready, 12 nodes of 8 GPUs" in status.stdout
    for process in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "prometheus"):
        assert process in status.stdout

    script = (
        command("env", "--name", cluster.name).stdout
        + 'kubectl get nodes -o name; helm version --short; echo "$PROMETHEUS_URL"'
    )
    shell = subprocess.run(
        ["bash", "-c", script], env={"PATH": "/usr/bin:/bin"}, text=True, capture_output=True, check=True
    )
    assert shell.stdout.splitlines()[0] == "node/gpu-node-00"
    assert shell.stdout.splitlines()[-1] == cluster.prometheus_url

    executed = command("exec", "--name", cluster.name, "--", "kubectl", "get", "node", "nothing")
    assert executed.returncode == 1
    assert 'nodes "nothing" not found' in executed.stderr


def test_an_existing_cluster_is_used_and_never_taken_down(cluster: LocalCluster) -> None:
    theirs = {
        "DYNAMOLLM_CLUSTER": "kubeconfig",
        "KUBECONFIG": str(cluster.kubeconfig),
        "PATH": cluster.environment()["PATH"],
    }
    assert "answers: Server Version: v1.37" in command("up", **theirs).stdout
    assert "answers" in command("status", **theirs).stdout
    nodes = command("exec", "--", "kubectl", "get", "nodes", "-o", "name", **theirs)
    assert "node/gpu-node-11" in nodes.stdout
    refused = command("down", **theirs)
    assert refused.returncode == 2
    assert "is yours" in refused.stderr
    cluster.kubectl("get", "nodes")


def test_logs_of_a_pod_of_our_image(cluster: LocalCluster, namespace: str) -> None:
    apply(cluster, namespace, our_pod("talker", "echo first; echo second >&2; sleep 600"))

    def said() -> str | None:
        result = command("logs", "--name", cluster.name, "-n", namespace, "talker")
        return result.stdout if "second" in result.stdout else None

    assert eventually(said, why="the pod's words are not in its log").splitlines() == ["first", "second"]
    assert cluster.logs(namespace, "talker") == said()
    missing = command("logs", "--name", cluster.name, "-n", namespace, "nobody")
    assert missing.returncode == 2
    assert missing.stderr.startswith(f"hack/cluster: no log of pod {namespace}/nobody: ")


# ------------------------------------------------------------------ side by side, and the end
def test_two_clusters_side_by_side_do_not_meet(cluster: LocalCluster) -> None:
    with LocalCluster.start(small("beside")) as other:
        assert other.prometheus_url != cluster.prometheus_url
        other.kubectl("create", "namespace", "only-there")
        with pytest.raises(LabError, match="not found"):
            cluster.kubectl("get", "namespace", "only-there")
        addresses = []
        for one in (cluster, other):
            one.kubectl("run", "same", "--image=example/same:1")
            addresses.append(
                eventually(lambda one=one: pods(one, "--field-selector=metadata.name=same")[0]["status"].get("podIP"))
            )
            nodes = json.loads(one.kubectl("get", "nodes", "-o", "json"))["items"]
            addresses += [node["spec"]["podCIDR"] for node in nodes]
        assert len(set(addresses)) == len(addresses)
        cluster.kubectl("delete", "pod", "same", "--wait=false")
        with pytest.raises(LabError, match=f"cluster '{other.name}' is up already"):
            LocalCluster.start(small("beside"))
        other.kubectl("get", "nodes")  # the second start did not harm the first
    assert not state_dir(other.name).exists()
    assert not marked(other.dir)


def test_down_stops_everything_and_again_is_no_error() -> None:
    cluster = LocalCluster.start(small("down"))
    cluster.keep()
    assert marked(cluster.dir)
    assert command("down", "--name", cluster.name).returncode == 0
    cluster.stop()  # nothing is left for it to do
    assert not marked(cluster.dir)
    assert not cluster.dir.exists()
    again = command("down", "--name", cluster.name)
    assert (again.returncode, again.stderr) == (0, f"cluster '{cluster.name}' is not up\n")
    missing = command("env", "--name", cluster.name)
    assert missing.returncode == 2
    assert (
        missing.stderr == f"hack/cluster: cluster '{cluster.name}' is not up: hack/cluster up --name {cluster.name}\n"
    )


def _sleepers(state: Path) -> list[int]:
    """Return the processes of a cluster that sleep for ten minutes."""
    found = []
    for pid in marked(state):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x0060"):
                found.append(pid)
    return found


def test_nothing_runs_after_the_supervisor_is_killed() -> None:
    options = small("killed")
    cluster = LocalCluster.start(options)
    cluster.keep()
    # A pod that runs as a process, and one that will not hear of ending.
    apply(cluster, "default", our_pod("sleeper", "sleep 600"), our_pod("deaf", "trap '' TERM; echo deaf; sleep 601"))
    eventually(lambda: len(running := _sleepers(cluster.dir)) == 2 and running, why="the pods do not run")
    found = record.Record.read(options.name)
    assert found is not None
    os.kill(found.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not marked(cluster.dir), why="processes outlive their supervisor")
    eventually(lambda: all(started_ticks(one.pid) != one.started for one in found.processes.values()))

    status = command("status", "--name", options.name)
    assert status.returncode == 1
    assert f"cluster {options.name}: killed" in status.stdout
    with pytest.raises(LabError, match="its supervisor was killed"):
        cluster.kubectl("get", "nodes")
    cluster.stop()
    assert not cluster.dir.exists()


def test_a_new_cluster_clears_away_a_killed_one_of_its_name() -> None:
    options = small("anew")
    killed = LocalCluster.start(options)
    found = record.Record.read(options.name)
    assert found is not None
    os.kill(found.supervisor.pid, signal.SIGKILL)
    with LocalCluster.start(options) as anew:
        anew.kubectl("get", "nodes")
    killed.stop()


def test_a_cluster_ends_with_the_process_that_started_it() -> None:
    options = small("owner")
    code = (
        "import sys, time\n"
        "from lab.cluster import LocalCluster, LocalClusterOptions\n"
        f"cluster = LocalCluster.start(LocalClusterOptions(name={options.name!r}, nodes=2))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(HACK)}, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert marked(state_dir(options.name))
        owner.kill()
    eventually(lambda: not state_dir(options.name).exists(), why="the cluster outlives its owner")
    assert not marked(state_dir(options.name))


@pytest.mark.parametrize("after_s", [0.5, 2.0, 4.5])
def test_an_interrupt_on_the_way_up_leaves_nothing(after_s: float) -> None:
    name = small("ctrl-c").name
    with subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "--name", name, "--nodes", "2"],
        env=os.environ | {"PYTHONPATH": str(HACK)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(after_s)  # a moment on the way, not a condition
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    if process.returncode == 0:  # it was up before
        take_down(name)
    elif process.returncode == -signal.SIGINT:  # on a slow machine: it was still being imported
        assert said == ""
    else:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "hack/cluster: interrupted, nothing was left running"
    assert not marked(state_dir(name))
    assert not state_dir(name).exists()


def test_a_process_that_dies_takes_the_cluster_down_and_status_says_why() -> None:
    cluster = LocalCluster.start(small("dies"))
    try:
        found = record.Record.read(cluster.name)
        assert found is not None
        os.kill(found.processes["kube-scheduler"].pid, signal.SIGKILL)
        eventually(lambda: not marked(cluster.dir), why="a cluster without its scheduler stays up")
        with pytest.raises(LabError, match=r"kube-scheduler was killed by signal SIGKILL.*hack/cluster down --name"):
            cluster.kubectl("get", "nodes")
        status = command("status", "--name", cluster.name)
        assert status.returncode == 1
        assert "failed" in status.stdout
        assert log_file(cluster.dir, "kube-scheduler").read_text().splitlines()[-1] in status.stdout
    finally:
        cluster.stop()
    assert not cluster.dir.exists()


def test_a_program_that_does_not_start_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = tmp_path / "etcd"
    etcd.write_text("#!/bin/sh\necho the moon is full; exit 3\n")
    etcd.chmod(0o755)
    monkeypatch.setenv("DYNAMOLLM_BINARIES", str(tmp_path))
    options = small("broken")
    with pytest.raises(
        LabError, match=r"^etcd ended with exit code 3, so .* it said last: the moon is full \(/.*/etcd.log\)$"
    ):
        LocalCluster.start(options)
    assert not marked(state_dir(options.name))
    assert take_down(options.name) is True


def test_the_script_in_hack_finds_its_own_way(cluster: LocalCluster, tmp_path: Path) -> None:
    result = subprocess.run(
        [REPOSITORY / "hack" / "cluster", "status", "--name", cluster.name],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "ready" in result.stdout
