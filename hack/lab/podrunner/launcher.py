"""Builds and drives ``launcher.c``, which starts a container's program in namespaces of its own.

Where the kernel gives namespaces to this user, volumes appear at their mount paths and the end of a container ends all
that it started. Where it gives none, programs run in the host's file system, and mount paths that occur in commands and
variables are rewritten to where the volumes lie.
"""

import asyncio
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from lab.errors import LabError
from lab.paths import cache_dir

_SOURCE: Final = Path(__file__).with_name("launcher.c")
_COMPILE: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
_TRIED: Final = "/dynamollm-tried/there"
_TRY_S: Final = 10.0
"""Seconds that the try may take; it takes milliseconds."""


class StartError(Exception):
    """A program could not be started; the message says why."""


class Isolation(StrEnum):
    """What the kernel lets this user have."""

    PLAIN = "plain"
    """Mount and PID namespaces, as root."""
    USER = "user"
    """The same inside a user namespace, as anybody."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host at a path of the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs, and in which surroundings."""

    argv: Sequence[str]
    env: Mapping[str, str]
    mounts: Sequence[Mount]
    """Parents before what is mounted below them."""
    root: Path
    """An empty folder of the host that the container's root is mounted on."""
    working_dir: str = "/"


@dataclass(frozen=True, slots=True)
class Launcher:
    """The built launcher and what it may use here."""

    program: Path
    isolation: Isolation

    async def start(self, what: Program, *, output: IO[bytes]) -> asyncio.subprocess.Process:
        """Start a container and return its process once the program runs; to signal it, signal this.

        Raises:
            StartError: the mounts or the program cannot be had.
        """
        return await _spawn(lambda report: self.starting(what, report=report), what.env, output=output)

    async def join(self, what: Program, argv: Sequence[str], *, pid: int) -> asyncio.subprocess.Process:
        """Start a further program in the container whose process is ``pid``; its output is thrown away.

        Raises:
            StartError: it cannot be started, or the container has ended.
        """
        return await _spawn(
            lambda report: self.joining(what, argv, pid=pid, report=report),
            what.env,
            output=asyncio.subprocess.DEVNULL,
        )

    def starting(self, what: Program, *, report: int) -> list[str]:
        """Return the command that starts a container; a failure is written to the descriptor ``report``."""
        arguments = self._common("start", what, report)
        if self.isolation is not Isolation.NONE:
            targets = [os.path.realpath(mount.target) for mount in what.mounts]
            for folder in sorted(remade(targets)):
                arguments += ["--remake", folder]
            for mount, target in zip(what.mounts, targets, strict=True):
                arguments += ["--bind", str(mount.source), target, "ro" if mount.read_only else "rw"]
        return [*arguments, "--", *what.argv]

    def joining(self, what: Program, argv: Sequence[str], *, pid: int, report: int) -> list[str]:
        """Return the command that runs ``argv`` in the container that ``pid`` started."""
        if self.isolation is Isolation.NONE:
            return [*self._common("start", what, report), "--", *(rewritten(part, what.mounts) for part in argv)]
        return [*self._common("join", what, report), str(pid), "--", *argv]

    def _common(self, verb: str, what: Program, report: int) -> list[str]:
        root = str(what.root) if what.mounts else ""
        return [str(self.program), verb, self.isolation, str(os.getpid()), str(report), root, what.working_dir]


def ensure_launcher(scratch: Path) -> Launcher:
    """Return the launcher, compiled unless these sources were before, and what the kernel allows, tried in ``scratch``.

    Raises:
        LabError: there is no C compiler, or it refused.
    """
    digest = hashlib.sha256(" ".join((*_COMPILE, platform.machine(), *platform.libc_ver())).encode())
    digest.update(_SOURCE.read_bytes())
    program = cache_dir() / f"podrunner-{digest.hexdigest()[:16]}" / "launcher"
    if not program.exists():
        _compile(program)
    candidates = [Isolation.PLAIN, Isolation.USER] if os.getuid() == 0 else [Isolation.USER]
    for isolation in candidates:
        launcher = Launcher(program, isolation)
        if _works(launcher, scratch):
            return launcher
    return Launcher(program, Isolation.NONE)


def remade(targets: Iterable[str]) -> set[str]:
    """Return the host's folders that must be made anew so that mount points can be made in them; none if all exist."""
    folders: set[str] = set()
    for target in targets:
        if Path(target).exists():
            continue
        folders |= {str(parent) for parent in Path(target).parents if parent.is_dir()}
    return folders


def rewritten(text: str, mounts: Iterable[Mount]) -> str:
    """Return ``text`` with mount paths replaced by where they lie on the host, whole path components only."""
    sources = {mount.target: str(mount.source) for mount in mounts}
    if not sources:
        return text
    # The longest first: what is mounted below another mount is not the other's.
    choices = "|".join(re.escape(target) for target in sorted(sources, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({choices})(?![\w.-])", lambda match: sources[match[1]], text)


def _works(launcher: Launcher, scratch: Path) -> bool:
    root = scratch / "tried"
    root.mkdir(parents=True, exist_ok=True)
    what = Program(["test", "-d", _TRIED], os.environ, [Mount(root, _TRIED, read_only=True)], root)
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write):
        command = launcher.starting(what, report=write)
        done = subprocess.run(command, pass_fds=[write], check=False, timeout=_TRY_S)
    return done.returncode == 0


async def _spawn(
    command: Callable[[int], list[str]], env: Mapping[str, str], *, output: IO[bytes] | int
) -> asyncio.subprocess.Process:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as report:
        try:
            process = await asyncio.create_subprocess_exec(
                *command(write),
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[write],
            )
        except (OSError, ValueError) as error:  # too much environment, a NUL in it
            raise StartError(str(error)) from error
        finally:
            os.close(write)
        try:
            said = await _until_closed(report)
        except asyncio.CancelledError:
            end_group(process)
            raise
    if said:
        await process.wait()
        raise StartError(said.decode(errors="replace"))
    return process


async def _until_closed(report: IO[bytes]) -> bytes:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), report
    )
    try:
        return await reader.read()
    finally:
        transport.close()


def end_group(process: asyncio.subprocess.Process) -> None:
    """Kill a program that was started here and whatever it left in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _compile(program: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise LabError("no C compiler (cc, gcc or $CC) found: install one, it builds the pod runner's launcher")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".launcher-", dir=program.parent) as folder:
        built = Path(folder) / program.name
        command = [compiler, *_COMPILE, "-o", str(built), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"{compiler} could not build the pod runner's launcher:\n{done.stderr}")
        built.replace(program)  # whole or not at all, for whoever else builds it now
