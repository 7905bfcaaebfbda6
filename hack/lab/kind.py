"""A kind cluster for tests: real kubelets and containers, our image, simulated GPUs behind the real device-plugin API.

It takes the docker, kind, kubectl and helm that are on PATH. ``KIND_CLUSTER_NAME`` names a cluster to use, which stays;
where there is none of that name (or none is given) one is made, of ``KIND_NODE_IMAGE`` where that is set, and deleted
afterwards. ``KIND_BASE_IMAGE`` is the base of the image (python:3.11-slim).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from lab import nvml
from lab.backend import run_kubectl
from lab.binaries import ensure_binaries
from lab.errors import LabError
from lab.paths import HACK, REPOSITORY
from lab.progress import Progress
from lab.prometheus import NAMESPACE, configuration

IMAGE: Final = "localhost/dynamollm:e2e"
TEST_IMAGE: Final = "localhost/dynamollm-test:e2e"
BASE: Final = "python:3.11-slim"
STANDIN: Final = "/var/lib/dynamollm-standin"
"""Folder of a node with library and state of its GPUs."""

_OWN_NAME: Final = "dynamollm-e2e"
_FILES: Final = HACK / "kind"
_PLUGIN: Final = ("-n", "kube-system", "-l", "app=gpu-standin")
_IN_CONTAINER: Final = "/run/dynamollm-standin"
_PROXY_S: Final = 20.0
_DOCKER_S: Final = 10.0
_NODE_GPUS: Final = 8


def available() -> str:
    """Return what is missing for kind, as a sentence; empty where nothing is."""
    for program in ("docker", "kind", "kubectl", "helm"):
        if shutil.which(program) is None:
            return f"there is no {program} on PATH"
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False, timeout=_DOCKER_S)
    except subprocess.TimeoutExpired:
        return f"docker does not answer within {_DOCKER_S:g} s"
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else f"docker does not answer: {said[-1]}"


class KindCluster:
    """A kind cluster with simulated GPUs and Prometheus."""

    def __init__(self, *, name: str, kubeconfig: Path, time_scale: float) -> None:
        self.name, self.kubeconfig, self.time_scale = name, kubeconfig, time_scale
        self.prometheus_url = f"http://prometheus.{NAMESPACE}.svc:9090"
        self._proxy: subprocess.Popen[bytes] | None = None
        self._proxy_url = ""

    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment to talk to the cluster."""
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": os.environ["PATH"]}

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed.

        Raises:
            LabError: it failed; the message is kubectl's.
        """
        return run_kubectl("kubectl", self.environment(), *args, stdin=stdin)

    def logs(self, namespace: str, pod: str) -> str:
        """Return what a pod has printed so far."""
        return self.kubectl("logs", "--namespace", namespace, pod, "--all-containers")

    def values(self) -> dict[str, Any]:
        """Return the chart's values for this cluster: our image, and the GPUs where the NVIDIA toolkit would put them."""
        repository, tag = IMAGE.rsplit(":", 1)
        return {
            "image": {"repository": repository, "tag": tag},
            "prometheus": {"url": self.prometheus_url, "scrapeIntervalSeconds": 1},
            "simulation": {"timeScale": self.time_scale},
            "agent": {
                "extraEnv": [
                    {"name": "LD_LIBRARY_PATH", "value": _IN_CONTAINER},
                    {"name": "DYNAMOLLM_NVML_STATE", "value": f"{_IN_CONTAINER}/nvml.state"},
                ],
                "extraVolumes": [{"name": "standin", "hostPath": {"path": STANDIN}}],
                "extraVolumeMounts": [{"name": "standin", "mountPath": _IN_CONTAINER}],
            },
        }

    def gpu_states(self) -> list[nvml.NodeState]:
        """Return the GPUs of every node."""
        pods = self.kubectl("get", "pods", *_PLUGIN, "-o", "name").split()
        show = ("/opt/dynamollm/bin/python", "-m", "lab.nvml", "show", "--json", "--file", f"{STANDIN}/nvml.state")
        return [
            nvml.parsed(json.loads(self.kubectl("exec", "-n", "kube-system", pod, "--", *show))) for pod in sorted(pods)
        ]

    def pod_url(self, pod: Mapping[str, Any], port: int) -> str:
        """Return where this machine reaches a pod's port: through the API server, since pod addresses are the cluster's own."""
        if self._proxy is None or self._proxy.poll() is not None:
            self._proxy, self._proxy_url = self._start_proxy()
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        return f"{self._proxy_url}/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy"

    @contextmanager
    def forwarded(self, pod: Mapping[str, Any], port: int) -> Iterator[str]:
        """Give the address at which `kubectl port-forward` offers a pod's port.

        Raises:
            LabError: it offers none.
        """
        metadata = pod["metadata"]
        process = subprocess.Popen(
            ["kubectl", "port-forward", "--namespace", metadata["namespace"], f"pod/{metadata['name']}", f":{port}"],
            env=os.environ | self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            try:
                said = process.stdout.readline() if process.stdout else ""
                if not (found := re.match(r"Forwarding from (\S+) ->", said)):
                    raise LabError(f"kubectl port-forward to {metadata['name']}:{port} says {said!r}")
                yield f"http://{found[1]}"
            finally:
                process.terminate()

    def _start_proxy(self) -> tuple["subprocess.Popen[bytes]", str]:
        local = _free_port()
        process = subprocess.Popen(
            ["kubectl", "proxy", f"--port={local}"],
            env=os.environ | self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _PROXY_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", local), timeout=1):
                return process, f"http://127.0.0.1:{local}"
            time.sleep(0.1)
        process.kill()
        process.wait()
        raise LabError("kubectl proxy does not come up")

    def close(self) -> None:
        """End the proxy."""
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait()
            self._proxy = None


@contextmanager
def kind_cluster(*, time_scale: float, progress: Progress | None = None) -> Iterator[KindCluster]:
    """Give a kind cluster with our images, simulated GPUs and Prometheus.

    Raises:
        LabError: a program is missing, or the cluster does not come up.
    """
    if missing := available():
        raise LabError(f"kind cannot be used: {missing}")
    progress = progress or Progress()
    name = os.environ.get("KIND_CLUSTER_NAME") or _OWN_NAME
    own = name not in _run("kind", "get", "clusters").split()
    with tempfile.TemporaryDirectory(prefix="dynamollm-kind-") as scratch:
        folder = Path(scratch)
        with progress.step("building the images"):
            _build_images(folder)
        try:
            if own:
                with progress.step(f"creating kind cluster {name!r}"):
                    _create(name)
            kubeconfig = folder / "kubeconfig"
            kubeconfig.write_text(_run("kind", "get", "kubeconfig", "--name", name))
            kubeconfig.chmod(0o600)
            cluster = KindCluster(name=name, kubeconfig=kubeconfig, time_scale=time_scale)
            with progress.step("loading the images"):
                _run("kind", "load", "docker-image", IMAGE, TEST_IMAGE, "--name", name)
            with progress.step("starting GPUs and Prometheus"):
                _equip(cluster)
            try:
                yield cluster
            finally:
                cluster.close()
        finally:
            if own:
                with suppress(LabError):
                    _run("kind", "delete", "cluster", "--name", name)


def _create(name: str) -> None:
    image = os.environ.get("KIND_NODE_IMAGE")
    _run(
        *("kind", "create", "cluster", "--name", name, "--config", str(_FILES / "cluster.yaml"), "--wait", "300s"),
        *(("--image", image) if image else ()),
    )


def _build_images(folder: Path) -> None:
    base = os.environ.get("KIND_BASE_IMAGE") or BASE
    _run("docker", "build", "-q", "--build-arg", f"BASE={base}", "-t", IMAGE, str(REPOSITORY))
    context = folder / "image"
    ignore = shutil.ignore_patterns("__pycache__", "demo", "podrunner")
    shutil.copytree(HACK / "lab", context / "lab", ignore=ignore)
    shutil.copytree(nvml.ensure_library(), context / "standin")
    shutil.copyfile(ensure_binaries(Progress())["prometheus"], context / "prometheus")
    (context / "prometheus").chmod(0o755)
    shutil.copyfile(_FILES / "Dockerfile", context / "Dockerfile")
    _run("docker", "build", "-q", "--build-arg", f"IMAGE={IMAGE}", "-t", TEST_IMAGE, str(context))


def _equip(cluster: KindCluster) -> None:
    """Label the workers as GPU feature discovery would, and start the device plugin and Prometheus."""
    workers = cluster.kubectl("get", "nodes", "-l", "!node-role.kubernetes.io/control-plane", "-o", "name").split()
    if not workers:
        raise LabError(f"kind cluster {cluster.name!r} has no workers: make it of hack/kind/cluster.yaml")
    labels = ("nvidia.com/gpu.present=true", "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3")
    for worker in workers:
        cluster.kubectl("label", "--overwrite", worker, *labels)
    # Whatever an earlier run left is of another image, and its GPUs of another time scale.
    cluster.kubectl("delete", "daemonset", "gpu-standin", "-n", "kube-system", "--ignore-not-found", "--wait")
    _apply(cluster, "prometheus.yaml")
    config = yaml.safe_dump(configuration(scrape_interval_s=1.0), sort_keys=False)
    cluster.kubectl(
        *("apply", "-f", "-"),
        stdin=json.dumps(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "prometheus", "namespace": NAMESPACE},
                "data": {"prometheus.yml": config},
            }
        ),
    )
    _apply(cluster, "device-plugin.yaml")
    cluster.kubectl("rollout", "status", "-n", "kube-system", "daemonset/gpu-standin", "--timeout=300s")
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/prometheus", "--timeout=300s")
    allocatable = "jsonpath={.status.allocatable.nvidia\\.com/gpu}"
    for worker in workers:
        cluster.kubectl("wait", worker, f"--for={allocatable}={_NODE_GPUS}", "--timeout=300s")


def _apply(cluster: KindCluster, file: str) -> None:
    text = (_FILES / file).read_text()
    text = text.replace("$(IMAGE)", TEST_IMAGE).replace("$(TIME_SCALE)", f"{cluster.time_scale:g}")
    cluster.kubectl("apply", "-f", "-", stdin=text)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"there is no {command[0]} on PATH: install it") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise LabError(f"{' '.join(command[:4])} …: {' | '.join(said)}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
