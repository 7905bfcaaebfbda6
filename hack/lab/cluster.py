"""The local cluster's face for tests, the demo and the command line.

    with LocalCluster.start(LocalClusterOptions(name="mine", nodes=2)) as cluster:
        cluster.kubectl("get", "nodes")

A cluster that is started so ends with the process that started it, however that ends.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from lab import nvml, podlogs
from lab.backend import run_kubectl
from lab.binaries import ensure_binaries
from lab.errors import LabError
from lab.nodes import node_name
from lab.options import LocalClusterOptions
from lab.paths import HACK, REPOSITORY, nvml_state, state_dir, state_root
from lab.processes import end_process, sweep, tail
from lab.progress import Progress
from lab.record import Phase, Record, claim

__all__ = ["LocalCluster", "LocalClusterOptions", "build", "take_down"]

_STOP_S: Final = 60.0
"""Seconds that a supervisor may take to stop everything: the pods' grace, then the processes one after the other."""

CLUSTER_BYTES: Final = 512 * 2**20
"""What a cluster may write: 134 MB after a start (etcd's log is 64 MB from the beginning), and an hour's metrics and logs."""


class LocalCluster:
    """A cluster that is up."""

    def __init__(self, record: Record, supervisor: "subprocess.Popen[bytes] | None" = None) -> None:
        self._record = record
        self._supervisor = supervisor
        self.name = record.options.name
        self.dir = state_dir(self.name)
        self.kubeconfig = self.dir / "kubeconfig"
        self.prometheus_url = record.prometheus_url

    @classmethod
    def start(cls, options: LocalClusterOptions, progress: Progress | None = None) -> Self:
        """Start a cluster that ends with this process at the latest; a first use builds its programs, which takes minutes.

        Raises:
            LabError: it cannot be built or does not come up; everything that was started has been stopped.
        """
        progress = progress or Progress()
        binaries = build(progress)
        with progress.step(f"starting cluster {options.name!r}") as tell:
            supervisor = _supervise(options, binaries)
            try:
                record = _wait_until_up(supervisor, options.name, tell)
            except BaseException:
                _end(supervisor)
                raise
        return cls(record, supervisor)

    @classmethod
    def running(cls, name: str) -> Self:
        """Return a cluster that somebody else started.

        Raises:
            LabError: it is not up; the message says what became of it.
        """
        record = Record.read(name)
        if record is None:
            raise LabError(f"cluster {name!r} is not up: hack/cluster up{_option(name)}")
        if record.phase is Phase.FAILED or not record.alive:
            why = record.reason or f"its supervisor was killed while it was {record.phase}"
            raise LabError(f"cluster {name!r} is not up any more: {why}. To clean up: hack/cluster down{_option(name)}")
        if record.phase is not Phase.READY:
            raise LabError(f"cluster {name!r} is {record.phase}: try again in a moment")
        return cls(record)

    def keep(self) -> None:
        """Let the cluster outlive this process."""
        if self._supervisor and self._supervisor.stdin and not self._supervisor.stdin.closed:
            self._supervisor.stdin.write(b"keep\n")
            self._supervisor.stdin.close()

    def stop(self) -> None:
        """Stop everything and remove the cluster's folder. Again is no error."""
        take_down(self.name)
        if self._supervisor is not None:
            _end(self._supervisor)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the cluster."""
        self.stop()

    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment to talk to the cluster."""
        tools = dict.fromkeys(str(Path(program).parent) for program in self._record.programs.values())
        path = [*tools, str(REPOSITORY / ".venv" / "bin"), os.environ.get("PATH", "")]
        return {
            "KUBECONFIG": str(self.kubeconfig),
            # What kubectl remembers is keyed by the address, which the next cluster of this name has again.
            "KUBECACHEDIR": str(self.dir / "kubectl-cache"),
            "PROMETHEUS_URL": self.prometheus_url,
            "DYNAMOLLM_TIME_SCALE": str(self._record.options.time_scale),
            "DYNAMOLLM_TIME_ANCHOR": str(self._record.options.time_anchor_s),
            "PATH": os.pathsep.join(part for part in path if part),
        }

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed.

        Raises:
            LabError: it failed, with kubectl's message; or the cluster is no longer up, with the reason.
        """
        try:
            return run_kubectl(self._record.programs["kubectl"], self.environment(), *args, stdin=stdin)
        except LabError as error:
            LocalCluster.running(self.name)  # says so where the cluster is to blame
            raise error from None

    def values(self) -> dict[str, Any]:
        """Return the chart's values for this cluster."""
        return {
            "prometheus": {"url": self.prometheus_url, "scrapeIntervalSeconds": self._record.options.scrape_interval_s},
            "simulation": {"timeScale": self._record.options.time_scale},
        }

    def gpu_states(self) -> list[nvml.NodeState]:
        """Return the GPUs of every node."""
        nodes = range(self._record.options.nodes)
        return [nvml.read(state_file=nvml_state(self.dir, node_name(index))) for index in nodes]

    def pod_url(self, pod: Mapping[str, Any], port: int) -> str:
        """Return where this machine reaches a pod's port: at the pod's own address."""
        return f"http://{pod['status']['podIP']}:{port}"

    def logs(self, namespace: str, pod: str) -> str:
        """Return what a pod of our image has printed so far.

        Raises:
            LabError: the pod has no log.
        """
        return podlogs.read(self.dir, namespace, pod)


def build(progress: Progress) -> dict[str, Path]:
    """Make all that a cluster is made of, unless the cache has it.

    Raises:
        LabError: a part cannot be made here; the message says what to do.
    """
    binaries = ensure_binaries(progress)
    nvml.ensure_library()
    return binaries


def take_down(name: str) -> bool:
    """End a cluster, or what a crash has left of it, and remove its folder. Return whether there was anything.

    Raises:
        LabError: another process is just starting it.
    """
    record, state = Record.read(name), state_dir(name)
    if record is not None:
        end_process(record.supervisor.pid, record.supervisor.started, within_s=_STOP_S)
    if not state_root().exists():
        return False
    lock = claim(name)
    if lock is None:
        raise LabError(f"cluster {name!r} is being started by another process: end that one")
    with lock:
        there = state.exists()
        sweep(state)
        shutil.rmtree(state, ignore_errors=True)
    return there or record is not None


def check_room(folder: Path) -> None:
    """Refuse where a cluster would soon fill the disk: etcd dies of that with a stack trace.

    Raises:
        LabError: too little is free.
    """
    free = shutil.disk_usage(folder).free
    if free < CLUSTER_BYTES:
        raise LabError(
            f"the disk is nearly full: {free / 2**20:.0f} MB are free at {folder}, a cluster takes up to "
            f"{CLUSTER_BYTES / 2**20:.0f} MB there: free some, or set TMPDIR to a folder on a larger disk"
        )


def _supervise(options: LocalClusterOptions, binaries: dict[str, Path]) -> "subprocess.Popen[bytes]":
    request = {
        "options": dataclasses.asdict(options),
        "binaries": {name: str(file) for name, file in binaries.items()},
    }
    try:
        state_root().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make {state_root()}: {error.strerror}: free some room, or set TMPDIR") from error
    check_room(state_root())
    with _supervisor_log(options.name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(HACK)},
            start_new_session=True,  # Ctrl-C in the terminal reaches the owner, and the owner's end the supervisor
        )


def _wait_until_up(supervisor: "subprocess.Popen[bytes]", name: str, tell: Callable[[str], None]) -> Record:
    for line in supervisor.stdout or ():
        words = json.loads(line)
        if "failed" in words:
            raise LabError(words["failed"])
        if "ready" in words and (record := Record.read(name)):
            return record
        tell(words.get("step", ""))
    raise LabError(_last_words(name))


def _supervisor_log(name: str) -> Path:
    # Beside the cluster's folder, which the supervisor itself makes and removes.
    return state_root() / f"{name}.log"


def _end(supervisor: "subprocess.Popen[bytes]") -> None:
    for pipe in (supervisor.stdin, supervisor.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()
    try:
        supervisor.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _last_words(name: str) -> str:
    said = tail(_supervisor_log(name), 1)
    return (
        f"the supervisor of cluster {name!r} ended: {said[0] if said else 'it said nothing'} ({_supervisor_log(name)})"
    )


def _option(name: str) -> str:
    return "" if name == LocalClusterOptions().name else f" --name {name}"
