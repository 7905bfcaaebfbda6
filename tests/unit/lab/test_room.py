"""A cluster that would fill the disk is refused before it starts."""

from pathlib import Path
from typing import NamedTuple

import pytest

from lab import cluster
from lab.errors import LabError


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_room_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda _: _Usage(2**30, 2**30, 20 * 2**20))
    with pytest.raises(LabError, match=rf"20 MB are free at {tmp_path}, a cluster takes up to 512 MB there: free some"):
        cluster.check_room(tmp_path)


def test_enough_room_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda _: _Usage(2**40, 2**30, cluster.CLUSTER_BYTES))
    cluster.check_room(tmp_path)
