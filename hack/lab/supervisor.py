"""The process that owns a cluster: starts every part, watches them, and takes all down when one ends or it is told to.

It talks with whoever started it over two pipes. Standard output: JSON lines, ``{"step": …}``, then one ``{"ready": true}``
or ``{"failed": …}``. Standard input: end of file means that the owner has gone, and the cluster with it, unless the
owner said ``keep`` before. So a cluster that tests or the demo use ends with them, even if they are killed; and when
the supervisor itself is killed, the kernel ends its children (``lab.processes``), and the sweeper what those had started.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dynamollm.core.errors import DynamoLLMError
from lab.apiserver_client import ApiClient
from lab.controlplane import ControlPlane, Ports
from lab.errors import LabError
from lab.kwok import kwok
from lab.loopback import Subnet
from lab.nodes import make_gpus, node_manifest
from lab.options import LocalClusterOptions
from lab.paths import log_file, state_dir
from lab.processes import Child, Command, started_ticks, sweep, tail
from lab.prometheus import configuration, from_outside, grant_access, prometheus
from lab.record import Phase, Process, Record, claim
from lab.runner import pod_runner, ready_file

START_S: Final = 120.0
"""Seconds that one step of the start may take; a loaded machine of two cores needs a tenth."""
_POLL_S: Final = 0.05
_SAID: Final = 200
"""Characters of a log's last line that fit into a message of one line."""


class Told(Exception):  # noqa: N818 - not an error: the way out of whatever is being waited for
    """The supervisor was told to stop."""


class Supervisor:
    """Owns the processes of one cluster. Everything happens in one thread."""

    def __init__(self, options: LocalClusterOptions, binaries: dict[str, Path]) -> None:
        self._options, self._binaries = options, binaries
        self._state = state_dir(options.name)
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._owner_input = b""
        self._subnet: Subnet | None = None  # held as long as this process lives
        pid = os.getpid()
        self._record = Record(options=options, phase=Phase.STARTING, supervisor=Process(pid, started_ticks(pid) or 0))

    # -------------------------------------------------------------- life
    def run(self) -> int:
        """Live from the first process to the last, and return the exit code."""
        try:
            with self._signals():
                try:
                    self._start()
                    self._note(phase=Phase.READY)
                    _say(ready=True)
                    _close_output()
                    while True:
                        self._watch(None)
                except Told:
                    self._note(phase=Phase.STOPPING)
                    self._stop()
                    shutil.rmtree(self._state, ignore_errors=True)
                    return 0
                except (DynamoLLMError, OSError) as error:
                    reason = str(error)
                    self._note(phase=Phase.FAILED, reason=reason)
                    self._stop()
                    _say(failed=reason)
                    return 1
        finally:
            self._stop()  # whatever it was: nothing may be left

    def _start(self) -> None:
        options, state = self._options, self._state
        subnet = self._subnet = Subnet.reserve(options.name)
        address = subnet.control_plane
        ports = Ports(
            api=subnet.free_port(6443),
            etcd=subnet.free_port(2379),
            etcd_peer=subnet.free_port(2380),
            controller_manager=subnet.free_port(10257),
            scheduler=subnet.free_port(10259),
        )
        plane = ControlPlane(state=state, address=address, ports=ports, binaries=self._binaries)
        prometheus_port = subnet.free_port(9090)
        self._note(
            api_url=plane.url,
            prometheus_url=f"http://{address}:{prometheus_port}",
            programs={name: str(self._binaries[name]) for name in ("kubectl", "helm")},
        )

        _say(step="starting etcd and kube-apiserver")
        self._spawn(plane.etcd())
        self._spawn(plane.apiserver(audit=options.audit))
        make_gpus(state, nodes=options.nodes, gpus=options.gpus_per_node, time_scale=options.time_scale)
        api = ApiClient(address, ports.api, authority=str(plane.authority.file), user=plane.admin)
        self._wait(api.ready, "kube-apiserver is not ready")

        _say(step="starting kube-controller-manager, kube-scheduler, kwok, Prometheus and the pod runner")
        self._spawn(plane.controller_manager())
        self._spawn(plane.scheduler())
        for index in range(options.nodes):
            api.create("/api/v1/nodes", node_manifest(index, gpus=options.gpus_per_node, subnet=subnet))
        self._spawn(kwok(binaries=self._binaries, kubeconfig=plane.kubeconfig, subnet=subnet))
        self._spawn(pod_runner(state=state, kubeconfig=plane.kubeconfig, time_scale=options.time_scale))
        token_file = state / "pki" / "prometheus.token"
        grant_access(api, token_file)
        config = configuration(
            scrape_interval_s=options.scrape_interval_s,
            discovery=from_outside(api_url=plane.url, authority=plane.authority.file, token_file=token_file),
        )
        self._spawn(
            prometheus(binaries=self._binaries, state=state, config=config, address=address, port=prometheus_port)
        )

        _say(step=f"waiting for {options.nodes} nodes")
        self._wait(lambda: _nodes_open(api, options.nodes), "the nodes are not open for pods")
        self._wait(
            lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            "kube-controller-manager has not made the first service account",
        )
        self._wait(lambda: _listens(address, prometheus_port), "Prometheus does not answer")
        self._wait(ready_file(state).exists, "the pod runner is not watching")

    def _stop(self) -> None:
        """End all processes, the last started first. State is thrown away, so nothing has to be saved."""
        with self._deaf():
            for child in reversed(self._children.values()):
                child.terminate()
                child.reap(child.command.stop_within_s)
            self._children.clear()
            sweep(self._state)

    # -------------------------------------------------------------- children
    def _spawn(self, command: Command) -> None:
        child = Child(command, state=self._state, log=log_file(self._state, command.name))
        self._children[command.name] = child
        self._selector.register(child.exited, selectors.EVENT_READ, lambda: self._died(child))
        started = Process(child.pid, started_ticks(child.pid) or 0)
        self._note(processes=self._record.processes | {command.name: started})

    def _died(self, child: Child) -> None:
        code = child.exit_code
        if code is None:  # not reaped yet
            return
        how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        log = log_file(self._state, child.command.name)
        last = next(iter(tail(log, 1)), "it said nothing")
        raise LabError(
            f"{child.command.name} {how}, so the cluster was taken down; it said last: {last[:_SAID]} ({log})"
        )

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"after {START_S:.0f} s {otherwise}: see {self._state / 'logs'}")
            self._watch(_POLL_S)

    # -------------------------------------------------------------- what may happen meanwhile
    def _watch(self, timeout_s: float | None) -> None:
        """Wait for signals, for the owner's end, and for the end of a child."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        told, teller = socket.socketpair()
        for end in (told, teller):
            end.setblocking(False)  # noqa: FBT003 - socket's signature
        signal.set_wakeup_fd(teller.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # the wakeup fd does the telling
        self._selector.register(told, selectors.EVENT_READ, _told)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._owner)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)

    @contextlib.contextmanager
    def _deaf(self) -> Iterator[None]:
        """Let no second signal interrupt the way down."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        yield

    def _owner(self) -> None:
        text = os.read(sys.stdin.fileno(), 100)
        self._owner_input += text
        if b"keep\n" in self._owner_input:
            self._selector.unregister(sys.stdin.fileno())
        elif not text:
            raise Told

    def _note(self, **changes: Any) -> None:
        self._record = dataclasses.replace(self._record, **changes)
        self._record.write()


def _told() -> None:
    raise Told


def _nodes_open(api: ApiClient, count: int) -> bool:
    """Return whether every node is free of the taints that new ones have until they are seen to be ready."""
    nodes = (api.get("/api/v1/nodes") or {}).get("items", [])
    return len(nodes) == count and not any(node["spec"].get("taints") for node in nodes)


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0


def _say(**words: Any) -> None:
    with contextlib.suppress(OSError):  # the owner has gone: standard input tells
        os.write(1, json.dumps(words).encode() + b"\n")


def _close_output() -> None:
    """Let go of the owner's pipe: it may be that of a shell that waits for its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


@contextlib.contextmanager
def _sweeper(state: Path) -> Iterator[None]:
    """Leave a second process behind that ends what the kernel does not, should this one be killed.

    The kernel ends our children, and the pod runner's, but not the children of those. The sweeper has the lock of the
    cluster's name as long as it works, so it never meets a new cluster.
    """
    listens, holds = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(holds)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # the owner waits for the ends of these
            os.dup2(null, standard)
        os.setsid()
        if not os.read(listens, 1):
            sweep(state)
        os._exit(0)
    os.close(listens)
    try:
        yield
    finally:
        os.write(holds, b".")
        os.waitpid(pid, 0)


def main() -> int:
    """Run the cluster that the first argument, JSON, describes."""
    request = json.loads(sys.argv[1])
    options = LocalClusterOptions(**request["options"])
    state = state_dir(options.name)
    lock = claim(options.name)
    if lock is None:
        _say(
            failed=f"cluster {options.name!r} is up already, or on its way up or down: give another --name, or take it down"
        )
        return 1
    # The name is ours, so whatever is left belongs to a supervisor that was killed.
    sweep(state)
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(mode=0o700)
    with _sweeper(state):
        return Supervisor(options, {name: Path(file) for name, file in request["binaries"].items()}).run()


if __name__ == "__main__":
    sys.exit(main())
