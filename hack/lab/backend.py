"""The kinds of cluster behind one command and one fixture; DYNAMOLLM_CLUSTER selects one."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from dynamollm.core.errors import InvalidInputError
from lab.errors import LabError

LOCAL: Final = "local"
KUBECONFIG: Final = "kubeconfig"


class Cluster(Protocol):
    """What tests, the demo and the command line need of a cluster, whatever kind it is."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    @property
    def prometheus_url(self) -> str:
        """Prometheus, as a process on this machine reaches it."""

    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment to talk to the cluster."""

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed; its complaint is a LabError."""

    def logs(self, namespace: str, pod: str) -> str:
        """Return what a pod has printed so far."""


def kind_of_cluster() -> str:
    """Return which kind the user wants.

    Raises:
        InvalidInputError: there is no such kind.
    """
    kind = os.environ.get("DYNAMOLLM_CLUSTER") or LOCAL
    if kind not in (LOCAL, KUBECONFIG):
        raise InvalidInputError(f"DYNAMOLLM_CLUSTER is {kind!r}: give {LOCAL} (the default) or {KUBECONFIG}")
    return kind


def run_kubectl(program: str, environment: Mapping[str, str], *args: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed.

    Raises:
        LabError: it failed; the message is kubectl's.
    """
    try:
        result = subprocess.run(
            [program, *args],
            env=os.environ | environment,
            input=stdin if stdin is not None else "",
            text=True,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise LabError(f"there is no {program} on PATH: install it, or use the local cluster") from None
    if result.returncode != 0:
        raise LabError(f"kubectl {' '.join(args)}: {result.stderr.strip() or f'exit code {result.returncode}'}")
    return result.stdout


class ExistingCluster:
    """A cluster of the user's, named by KUBECONFIG; nothing here starts or ends it."""

    def __init__(self) -> None:
        """Check that it answers.

        Raises:
            LabError: KUBECONFIG names no file, or nobody answers there.
        """
        named = os.environ.get("KUBECONFIG")
        self.kubeconfig = Path(named or Path.home() / ".kube" / "config")
        if not self.kubeconfig.is_file():
            raise LabError(
                f"there is no kubeconfig at {self.kubeconfig}: set KUBECONFIG to one, or leave DYNAMOLLM_CLUSTER out"
            )
        self.version = self.kubectl("version", "--request-timeout=10s").strip().splitlines()[-1]

    @property
    def prometheus_url(self) -> str:
        """Return PROMETHEUS_URL.

        Raises:
            LabError: it is not set.
        """
        url = os.environ.get("PROMETHEUS_URL")
        if not url:
            raise LabError("PROMETHEUS_URL is not set: set it to the Prometheus of the cluster that KUBECONFIG names")
        return url

    def environment(self) -> dict[str, str]:
        """Return KUBECONFIG alone: the rest of the user's environment is the user's."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run the user's kubectl.

        Raises:
            LabError: it failed; the message is kubectl's.
        """
        return run_kubectl("kubectl", self.environment(), *args, stdin=stdin)

    def logs(self, namespace: str, pod: str) -> str:
        """Return what a pod has printed so far."""
        return self.kubectl("logs", "--namespace", namespace, pod, "--all-containers")


@contextmanager
def existing_cluster() -> Iterator[ExistingCluster]:
    """Give the user's cluster where one is started and stopped otherwise."""
    yield ExistingCluster()
