"""What a supervisor says of its cluster: one JSON file, replaced as a whole, and a lock that ends with the supervisor."""

import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, Self

from lab.errors import LabError
from lab.options import LocalClusterOptions
from lab.paths import state_dir, state_root
from lab.processes import started_ticks

_PATIENCE_S: Final = 5.0
_POLL_S: Final = 0.02


class Phase(StrEnum):
    """Where a cluster is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"
    """A process ended by itself; everything was taken down, and the logs are still there."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the cluster; with its start time its identity is unique."""

    pid: int
    started: int
    """Clock ticks since boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A cluster as its supervisor last wrote it."""

    options: LocalClusterOptions
    phase: Phase
    supervisor: Process
    reason: str = ""
    """One line on a phase that is not as it should be."""
    api_url: str = ""
    prometheus_url: str = ""
    programs: dict[str, str] = field(default_factory=dict)
    """kubectl and helm."""
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return started_ticks(self.supervisor.pid) == self.supervisor.started

    def write(self) -> None:
        """Replace the file."""
        file = _file(self.options.name)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        part.replace(file)

    @classmethod
    def read(cls, name: str) -> Self | None:
        """Return what there is; None where no such cluster was ever started, or it was taken down."""
        try:
            data: dict[str, Any] = json.loads(_file(name).read_text())
        except OSError:
            return None
        return cls(
            **data
            | {
                "options": LocalClusterOptions(**data["options"]),
                "phase": Phase(data["phase"]),
                "supervisor": Process(**data["supervisor"]),
                "processes": {key: Process(**value) for key, value in data["processes"].items()},
            }
        )


def _file(name: str) -> Path:
    return state_dir(name) / "cluster.json"


def names() -> list[str]:
    """Return the names of this user's clusters that left a record."""
    return sorted(file.parent.name for file in state_root().glob("*/cluster.json"))


def claim(name: str) -> IO[str] | None:
    """Take a cluster's name for as long as the file returned is open; None while another process has it.

    A supervisor that was killed has it for another moment, until what it started is gone.

    Raises:
        LabError: the folder of this user's clusters is somebody else's.
    """
    root = state_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise LabError(f"{root} is somebody else's: remove it, or point TMPDIR to a folder of your own")
    lock = (root / f"{name}.lock").open("w")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            there = Record.read(name)
            if (there and there.alive) or time.monotonic() > deadline:
                lock.close()
                return None
            time.sleep(_POLL_S)
        else:
            return lock
