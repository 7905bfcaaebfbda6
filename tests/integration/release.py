"""A release of the chart on a cluster, and what the tests of its life look at."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests
import yaml

from dynamollm.api import names
from integration.waiting import eventually
from lab.cluster import LocalCluster
from lab.errors import LabError
from lab.helm import CHART, RELEASE, Helm
from lab.kind import KindCluster
from lab.paths import REPOSITORY

SYSTEM: Final = names.SYSTEM_NAMESPACE
SERVICE: Final = "inferenceservices.dynamollm.io"
KEPT: Final = {
    "clusterrole.rbac.authorization.k8s.io/dynamollm-router",
    "customresourcedefinition.apiextensions.k8s.io/clusterpolicies.dynamollm.io",
    "customresourcedefinition.apiextensions.k8s.io/inferenceservices.dynamollm.io",
    "customresourcedefinition.apiextensions.k8s.io/performanceprofiles.dynamollm.io",
}
"""What an uninstall that keeps services leaves of the chart."""
_KINDS: Final = "deployments,daemonsets,jobs,pods,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
_CLUSTER_KINDS: Final = (
    "clusterroles,clusterrolebindings,priorityclasses,customresourcedefinitions,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)


@dataclass(frozen=True, slots=True)
class Release:
    """The chart on one cluster."""

    cluster: LocalCluster | KindCluster
    helm: Helm

    def values(self, **more: Any) -> dict[str, Any]:
        """Return the values that the cluster needs, and some."""
        return {**self.cluster.values(), **more}

    # -------------------------------------------------------------- what is there
    def json(self, *args: str) -> Any:
        return json.loads(self.cluster.kubectl(*args, "-o", "json"))

    def items(self, kind: str, *args: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.json("get", kind, *args)["items"]
        return items

    def ours(self) -> set[str]:
        """Return what there is of the chart, hooks and tests included."""
        label = ("-l", "app.kubernetes.io/part-of=dynamollm", "-o", "name")
        text = self.cluster.kubectl("get", _KINDS, "-n", SYSTEM, *label)
        return {*text.split(), *self.cluster.kubectl("get", _CLUSTER_KINDS, *label).split()}

    def engines(self, namespace: str) -> dict[str, tuple[str, int]]:
        """Return the serving engine pods: name → what tells whether it is still the same process."""
        pods = self.items("pods", "-n", namespace, "-l", f"{names.LABEL_COMPONENT}=engine")
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and ready(pod)
        }

    def router(self, namespace: str) -> str:
        """Return the address of a router that is ready."""
        pods = self.items("pods", "-n", namespace, "-l", f"{names.LABEL_COMPONENT}=router")
        serving = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and ready(pod)]
        return self.cluster.pod_url(serving[0], names.ROUTER_PORT) if serving else ""

    def locks(self) -> list[tuple[int, int]]:
        """Return the locked clocks of all GPUs of the cluster, MHz."""
        return [gpu.lock_mhz for state in self.cluster.gpu_states() for gpu in state.gpus if gpu.lock_mhz is not None]

    def finalizers(self, namespace: str) -> list[str]:
        found: list[str] = self.json("get", SERVICE, "chat", "-n", namespace)["metadata"].get("finalizers", [])
        return found

    # -------------------------------------------------------------- what users do
    def check(self) -> None:
        """Run `helm test`; where it fails, say what the check found."""
        try:
            self.helm.test()
        except LabError as error:
            raise LabError(f"{error}\n{self.cluster.logs(SYSTEM, 'dynamollm-check')}") from error

    def serve(self, namespace: str, **spec: Any) -> None:
        """Apply a profile and a small service, and wait until it serves with locked clocks."""
        if namespace not in {body["metadata"]["name"] for body in self.items("namespaces")}:
            self.cluster.kubectl("create", "namespace", namespace)
        self.cluster.kubectl("apply", "-f", str(REPOSITORY / "manifests/profiles"))
        body = yaml.safe_load((REPOSITORY / "manifests/samples/demo.yaml").read_text())
        body["metadata"]["namespace"] = namespace
        # One instance of TP4, whatever the load: what changes then was changed by somebody else.
        body["spec"]["gpu"] |= {"tensorParallel": [4]}
        body["spec"] |= {"limits": {"maxGPUs": 4}} | spec
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        self.converged(namespace)
        eventually(self.locks, why="no clock is locked")

    def converged(self, namespace: str) -> None:
        wait = ("wait", f"{SERVICE}/chat", "-n", namespace, "--timeout=240s")
        self.cluster.kubectl(*wait, "--for=condition=Ready")
        self.cluster.kubectl(*wait, "--for=condition=Converged")

    def ask(self, namespace: str, *, tokens: int = 8) -> requests.Response:
        """Send a streamed request to the service; the answer's body is yet to come."""
        url = eventually(lambda: self.router(namespace), why="no router is ready")
        question = {"model": "meta-llama/Llama-2-70b-chat-hf", "prompt": "hello", "max_tokens": tokens, "stream": True}
        return requests.post(f"{url}/v1/completions", json=question, stream=True, timeout=60)

    def remove_services(self) -> None:
        """Delete every service, with whatever is left of the operator."""
        if f"customresourcedefinition.apiextensions.k8s.io/{SERVICE}" not in self.ours():
            return
        self.cluster.kubectl("delete", SERVICE, "--all", "--all-namespaces", "--timeout=240s", "--ignore-not-found")

    def killed(self, *args: str, values: Mapping[str, Any] | None, when: Callable[[], object]) -> None:
        """Run helm and kill it as soon as something is so."""
        options = ["--values", "-"] if values is not None else []
        helm = subprocess.Popen(
            [str(self.helm.program), *args, *options],
            env=os.environ | self.helm.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert helm.stdin is not None
        helm.stdin.write(json.dumps(values or {}).encode())
        helm.stdin.close()
        try:
            eventually(lambda: helm.poll() is not None or when(), why="nothing to kill helm for")
            assert helm.poll() is None, "helm was faster"
        finally:
            helm.send_signal(signal.SIGKILL)
            helm.wait()


def ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def another_version(folder: Path) -> Path:
    """Return a copy of the chart, one version on: its definition of services has a field more."""
    chart = folder / "dynamollm"
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(re.sub(r"^version: .*$", "version: 9.9.9", about.read_text(), flags=re.MULTILINE))
    path = chart / f"files/crds/{names.GROUP}_{names.SERVICES}.yaml"
    crd = yaml.safe_load(path.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["addedLater"] = {"type": "string", "maxLength": 10}
    path.write_text(yaml.safe_dump(crd, sort_keys=False))
    return chart


__all__ = ["KEPT", "RELEASE", "SERVICE", "SYSTEM", "Release", "another_version", "ready"]
