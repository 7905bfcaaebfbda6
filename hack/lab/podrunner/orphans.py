"""What a pod runner that was killed leaves behind.

Where the kernel gives PID namespaces, nothing (``lab.podrunner.launcher``). Elsewhere it ends the first process of every
container with its runner; what such a process has started in its turn is found by its environment.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.processes import marked

POD: Final = "DYNAMOLLM_LAB_POD"
"""Environment variable of everything that belongs to a pod: its UID."""
_POLL_S: Final = 0.02


def find(state: Path) -> list[int]:
    """Return the processes of all pods of a cluster."""
    return [pid for pid in marked(state) if _of_a_pod(pid)]


def end(state: Path, *, within_s: float = 10.0) -> int:
    """Kill the processes of all pods of a cluster and return how many there were.

    Raises:
        LabError: some do not end: a process in an uninterruptible wait, or another user's.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + within_s
    while left := find(state):
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} of an earlier pod runner do not end: kill them, then start the cluster")
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= set(left)
        time.sleep(_POLL_S)
    return len(ended)


def _of_a_pod(pid: int) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(variable.startswith(f"{POD}=".encode()) for variable in variables)
