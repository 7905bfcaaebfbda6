import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.podrunner import orphans
from lab.processes import MARK


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_processes_of_this_clusters_pods_end_and_no_others(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    here, elsewhere = str(tmp_path / "here"), str(tmp_path / "elsewhere")
    started.extend(
        subprocess.Popen(["sleep", "600"], env=os.environ | variables, start_new_session=True)
        for variables in ({MARK: here, orphans.POD: "u"}, {MARK: here}, {MARK: elsewhere, orphans.POD: "u"})
    )
    pod, control_plane, other = started
    assert orphans.find(Path(here)) == [pod.pid]
    assert orphans.end(Path(here)) == 1
    assert pod.wait(timeout=60) == -9
    assert [control_plane.poll(), other.poll()] == [None, None]
    assert orphans.end(Path(here)) == 0
