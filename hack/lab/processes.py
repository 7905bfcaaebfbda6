"""Processes that must not outlive their owner: started with a death signal, watched by pidfd, found again by a mark.

The kernel ends a child when its owner dies in whatever way (PR_SET_PDEATHSIG). What a child has started in its turn
(the pods of the pod runner) carries the cluster's folder in its environment, and is found by that.
"""

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MARK: Final = "DYNAMOLLM_LAB_STATE"
"""Environment variable of everything that belongs to a cluster: the cluster's state folder."""

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_POLL_S: Final = 0.02
_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run for as long as the cluster lives."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside what the owner's environment has."""
    nice: int = 0
    stop_within_s: float = 3.0
    """Seconds from SIGTERM to SIGKILL."""
    death_signal: signal.Signals = signal.SIGKILL
    """What the program gets when its owner dies."""


class Child:
    """A running command. Made by the owner's main thread alone: the death signal is tied to the thread."""

    def __init__(self, command: Command, *, state: Path, log: Path) -> None:
        self.command = command
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command.argv),
                cwd=state,
                env=os.environ | {MARK: str(state)} | dict(command.env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_settle(os.getpid(), command),  # noqa: PLW1509 - the owner has one thread
            )
        self.pid = self._process.pid
        self.exited = os.pidfd_open(self.pid)
        """Readable once the process has ended."""

    @property
    def exit_code(self) -> int | None:
        """Return the exit status as subprocess has it; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        if self.exit_code is None:
            self._process.terminate()

    def reap(self, within_s: float) -> None:
        """Wait for the end, and bring it about after ``within_s`` seconds."""
        try:
            self._process.wait(timeout=max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):
            os.close(self.exited)


def _settle(owner: int, command: Command) -> Callable[[], None]:
    def settle() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(command.death_signal), 0, 0, 0)
        if os.getppid() != owner:  # it died before the line above
            os._exit(1)
        os.nice(command.nice)

    return settle


# ------------------------------------------------------------------ identity
def started_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none. With the pid it is unique."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold anything; state is the first after it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def end_process(pid: int, started: int, *, within_s: float) -> bool:
    """End a process that is not our child, if it is still the one meant: SIGTERM, later SIGKILL. Return whether it ran."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if started_ticks(pid) != started:
            return False
        for number, limit_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, within_s)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if select.select([pidfd], [], [], limit_s)[0]:
                break
        return True
    finally:
        os.close(pidfd)


def marked(state: Path) -> list[int]:
    """Return the processes that belong to a cluster: its folder is in their environment, or they work in it."""
    mark = f"{MARK}={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            belongs = mark in (entry / "environ").read_bytes().split(b"\0")
            belongs = belongs or (entry / "cwd").readlink().is_relative_to(state)
        except OSError:  # gone, a kernel thread, or somebody else's
            continue
        if belongs and started_ticks(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def sweep(state: Path, *, within_s: float = 5.0) -> list[int]:
    """Kill whatever is left of a cluster whose supervisor is gone, and return the pids."""
    swept: list[int] = []
    deadline = time.monotonic() + within_s
    while (left := marked(state)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        swept += [pid for pid in left if pid not in swept]
        time.sleep(_POLL_S)
    return swept


def tail(log: Path, lines: int = 8) -> list[str]:
    """Return the last lines of a log that say something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
