from pathlib import Path

import pytest

from lab.cluster import LocalCluster, take_down
from lab.errors import LabError
from lab.options import LocalClusterOptions
from lab.paths import state_dir, state_root
from lab.record import Phase, Process, Record, claim, names

GONE = Process(pid=2**22 + 1, started=1)
"""More than pid_max: nobody can have it."""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("lab.options._SOCKET_BYTES", 10_000)  # pytest's folders are deep


def written(name: str, phase: Phase, reason: str = "") -> Record:
    record = Record(
        options=LocalClusterOptions(name=name, nodes=3),
        phase=phase,
        reason=reason,
        supervisor=GONE,
        processes={"etcd": GONE},
        programs={"kubectl": "/k"},
    )
    state_dir(name).mkdir(parents=True)
    record.write()
    return record


def test_a_record_is_read_as_it_was_written() -> None:
    assert Record.read("one") is None
    record = written("one", Phase.READY)
    assert Record.read("one") == record
    assert names() == ["one"]


def test_a_name_is_taken_by_one_at_a_time() -> None:
    first = claim("one")
    assert first
    assert claim("one") is None
    other = claim("other")
    assert other
    first.close()
    again = claim("one")
    assert again
    again.close()
    other.close()


def test_a_folder_that_somebody_else_laid_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    state_root().symlink_to(tmp_path / "theirs")
    with pytest.raises(LabError, match="is somebody else's: remove it, or point TMPDIR to"):
        claim("one")


def test_what_became_of_a_cluster() -> None:
    with pytest.raises(LabError, match=r"^cluster 'none' is not up: hack/cluster up --name none$"):
        LocalCluster.running("none")
    with pytest.raises(LabError, match=r"^cluster 'default' is not up: hack/cluster up$"):
        LocalCluster.running("default")
    written("dead", Phase.READY)
    with pytest.raises(LabError, match=r"its supervisor was killed while it was ready.*hack/cluster down --name dead"):
        LocalCluster.running("dead")
    written("failed", Phase.FAILED, "kwok ended with exit code 1")
    with pytest.raises(LabError, match="'failed' is not up any more: kwok ended with exit code 1"):
        LocalCluster.running("failed")


def test_taking_down_what_a_crash_left() -> None:
    assert take_down("never") is False
    written("dead", Phase.STARTING)
    assert take_down("dead") is True
    assert not state_dir("dead").exists()
    assert take_down("dead") is False


def test_one_that_is_just_being_started_is_not_pulled_away() -> None:
    lock = claim("starting")
    assert lock
    with lock, pytest.raises(LabError, match="'starting' is being started by another process"):
        take_down("starting")
