"""The local cluster itself: what it offers, and that it leaves nothing behind."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from integration.local_clusters import apply, command, our_pod, pods
from integration.waiting import eventually
from lab import nvml
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster
from lab.errors import LabError
from lab.nodes import node_name
from lab.paths import REPOSITORY, nvml_state

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="about the local cluster, and another one was asked for"),
]


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
