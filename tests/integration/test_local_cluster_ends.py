"""Clusters side by side, and how they end: by command, by signal, with their owner, with one of their processes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from integration.local_clusters import apply, command, our_pod, pods, small
from integration.waiting import eventually
from lab import record
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, take_down
from lab.errors import LabError
from lab.paths import HACK, log_file, state_dir
from lab.processes import marked, started_ticks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="about the local cluster, and another one was asked for"),
]


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
