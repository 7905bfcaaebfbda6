"""The launcher with each isolation that this kernel gives: as this user and, where that is root, as one without rights."""

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.waiting import eventually
from lab.podrunner.launcher import (
    Isolation,
    Launcher,
    Mount,
    Program,
    StartError,
    ensure_launcher,
    remade,
    rewritten,
)

NOBODY: Final = 65534
ENV: Final = {"PATH": "/usr/bin:/bin"}
SCRATCH: Final = Path(f"/tmp/dynamollm-launcher-{os.getpid()}")


def available() -> Launcher:
    try:
        return ensure_launcher(SCRATCH)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


LAUNCHER: Final = available()
KINDS: Final = [
    Isolation.NONE,
    *([] if LAUNCHER.isolation is Isolation.NONE else [Isolation.USER]),
    *([Isolation.PLAIN] if LAUNCHER.isolation is Isolation.PLAIN else []),
]
isolated = pytest.mark.parametrize(
    "launcher",
    [Launcher(LAUNCHER.program, kind) for kind in KINDS if kind is not Isolation.NONE]
    or [pytest.param(LAUNCHER, marks=pytest.mark.skip(reason="this kernel gives this user no namespaces"))],
    ids=lambda launcher: launcher.isolation,
)
everywhere = pytest.mark.parametrize(
    "launcher", [Launcher(LAUNCHER.program, kind) for kind in KINDS], ids=lambda launcher: launcher.isolation
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Two volumes, ``a`` and ``b``, and an empty root."""
    made = SCRATCH
    for name in ("a", "b", "root"):
        (made / name).mkdir(parents=True)
    (made / "a" / "file").write_text("of a")
    (made / "b" / "file").write_text("of b")
    yield made
    shutil.rmtree(made)


def program(folder: Path, script: str, *mounts: Mount, working_dir: str = "/") -> Program:
    return Program(["sh", "-c", script], ENV, mounts, folder / "root", working_dir)


async def run(launcher: Launcher, what: Program) -> tuple[int, str]:
    """Return the exit code and the output."""
    output = what.root.parent / "output"
    with output.open("wb") as out:
        process = await launcher.start(what, output=out)
        code = await process.wait()
    return code, output.read_text()


def running(mark: str) -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                return "State:\tZ" not in (entry / "status").read_text()
        except OSError:  # it has just ended
            continue
    return False


# ---------------------------------------------------------------- mounts
@isolated
@pytest.mark.parametrize(
    "path",
    [
        "/dynamollm-none",
        "/dynamollm-none/of/these",
        "/etc/dynamollm-none/profile",
        "/var/run/secrets/dynamollm-none/serviceaccount",  # /var/run is a link to /run
        "/opt",  # there on the host
    ],
)
async def test_a_volume_at_a_path_that_may_not_exist_on_the_host(launcher: Launcher, folder: Path, path: str) -> None:
    script = f"cat {path}/file && test -x /usr/bin/env && test -e /proc/self/stat"
    assert await run(launcher, program(folder, script, Mount(folder / "a", path))) == (0, "of a")
    assert not os.path.exists(f"{path}/file")  # noqa: ASYNC240,PTH110 - a look at the host


@isolated
async def test_writable_and_read_only(launcher: Launcher, folder: Path) -> None:
    mounts = [Mount(folder / "a", "/none-w"), Mount(folder / "b", "/none-r", read_only=True)]
    code, said = await run(launcher, program(folder, "echo new > /none-w/file; echo new > /none-r/file", *mounts))
    assert code != 0
    assert "Read-only file system" in said
    assert ((folder / "a/file").read_text(), (folder / "b/file").read_text()) == ("new\n", "of b")


@isolated
async def test_a_single_file_and_a_mount_in_a_mount(launcher: Launcher, folder: Path) -> None:
    mounts = [
        Mount(folder / "a", "/none"),
        Mount(folder / "b", "/none/in", read_only=True),
        Mount(folder / "b/file", "/etc/dynamollm-none.conf"),
    ]
    script = "cat /none/file /none/in/file /etc/dynamollm-none.conf"
    assert await run(launcher, program(folder, script, *mounts)) == (0, "of aof bof b")


@isolated
async def test_a_volume_over_the_folder_that_holds_the_roots_and_a_file_of_it_inside(
    launcher: Launcher, folder: Path
) -> None:
    mounts = [Mount(folder / "a", "/tmp"), Mount(folder / "b/file", str(folder / "b/file"))]
    script = f"cat /tmp/file {folder}/b/file; ls {folder}"
    assert await run(launcher, program(folder, script, *mounts)) == (0, "of aof bb\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(Isolation.USER not in KINDS, reason="this kernel gives no user namespaces")
def test_without_rights_it_works_too_and_nobody_becomes_root(folder: Path) -> None:
    binary = folder / "launcher"
    shutil.copy(LAUNCHER.program, binary)  # the cache is root's alone
    binary.chmod(0o755)  # whatever the umask was when it was built
    for name in (".", "a", "b", "root", "a/file", "b/file"):
        os.chown(folder / name, NOBODY, NOBODY)
    mounts = [Mount(folder / "a", "/none/w"), Mount(folder / "b", "/none/r", read_only=True)]
    what = program(folder, "id -u; cat /none/r/file; echo new > /none/w/file; echo new > /none/r/file", *mounts)
    command = Launcher(binary, Isolation.USER).starting(what, report=2)
    done = subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{NOBODY}\nof b"
    assert done.returncode != 0
    assert ((folder / "a/file").read_text(), (folder / "b/file").read_text()) == ("new\n", "of b")


# ---------------------------------------------------------------- starts that fail
@everywhere
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"argv": ["dynamollm-no-such-program"]}, "cannot run dynamollm-no-such-program: No such file or directory"),
        ({"working_dir": "/dynamollm-none"}, "cannot enter the working directory /dynamollm-none: No such file"),
        ({"argv": ["a\0b"]}, "null byte"),
    ],
    ids=["program", "folder", "argument"],
)
async def test_what_cannot_start_says_why(
    launcher: Launcher, folder: Path, change: dict[str, object], why: str
) -> None:
    fields = {"argv": ["true"], "env": ENV, "mounts": [], "root": folder / "root", "working_dir": "/"} | change
    with pytest.raises(StartError, match=why):
        await run(launcher, Program(**fields))  # type: ignore[arg-type]


@isolated
async def test_a_volume_that_is_not_there_is_named(launcher: Launcher, folder: Path) -> None:
    what = program(folder, "true", Mount(folder / "none", "/none"))
    with pytest.raises(StartError, match=r"cannot mount .*/none at /none: No such file or directory"):
        await run(launcher, what)


# ---------------------------------------------------------------- ends
@everywhere
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 139)])
async def test_the_exit_code_comes_up(launcher: Launcher, folder: Path, script: str, code: int) -> None:
    got, _ = await run(launcher, program(folder, script))
    assert got in (code, 128 - code)  # without namespaces nobody stands between: -11 is the signal itself


@everywhere
async def test_signals_go_down(launcher: Launcher, folder: Path) -> None:
    what = program(folder, "trap 'echo term; exit 3' TERM; echo here; while :; do sleep 0.01; done")
    output = folder / "output"
    with output.open("wb") as out:
        process = await launcher.start(what, output=out)
    async with asyncio.timeout(60):
        while "here" not in output.read_text():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 3
    assert output.read_text() == "here\nterm\n"


@everywhere
async def test_a_program_without_a_handler_ends_by_sigterm(launcher: Launcher, folder: Path) -> None:
    with (folder / "output").open("wb") as out:
        process = await launcher.start(program(folder, "exec sleep 611"), output=out)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await process.wait() in (128 + signal.SIGTERM, -signal.SIGTERM)


@isolated
async def test_what_hid_from_its_session_ends_with_the_container(launcher: Launcher, folder: Path) -> None:
    script = "setsid env -i sleep 612 & until pgrep -x sleep; do :; done; exit 5"
    assert (await run(launcher, program(folder, script)))[0] == 5
    assert not running("612")


@isolated
@pytest.mark.parametrize("killed", ["owner", "launcher"])
def test_nothing_is_left_when_a_kill_comes_that_nobody_can_handle(
    launcher: Launcher, folder: Path, killed: str
) -> None:
    # The owner says the pid of the launcher that it starts. One of the two sleepers is in a session of its own.
    command = launcher.starting(program(folder, "setsid env -i sleep 613 & sleep 613"), report=2)
    command[command.index(str(os.getpid()))] = "$$"
    script = f"{shlex.join(command).replace(shlex.quote('$$'), '$$')} & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        eventually(lambda: running("613"))
        os.kill(owner.pid if killed == "owner" else pid, signal.SIGKILL)
        eventually(lambda: not running("613"), why="a process has outlived its container")


# ---------------------------------------------------------------- beside it
@isolated
async def test_what_joins_sees_mounts_and_processes_and_ends_with_the_container(
    launcher: Launcher, folder: Path
) -> None:
    what = program(folder, "sleep 614", Mount(folder / "a", "/none/a"))
    with (folder / "output").open("wb") as out:
        process = await launcher.start(what, output=out)
    look = "grep -q 'of a' /none/a/file && pgrep -fx 'sleep 614' && test $(ls /proc | grep -c '^[0-9]') -lt 12"
    assert await (await launcher.join(what, ["sh", "-c", look], pid=process.pid)).wait() == 0
    assert await (await launcher.join(what, ["sh", "-c", "exit 9"], pid=process.pid)).wait() == 9
    late = await launcher.join(what, ["sleep", "615"], pid=process.pid)
    process.send_signal(signal.SIGTERM)
    await process.wait()
    async with asyncio.timeout(60):
        assert await late.wait() != 0
    with pytest.raises(StartError):
        await launcher.join(what, ["true"], pid=process.pid)


async def test_without_namespaces_what_joins_finds_volumes_where_they_lie(folder: Path) -> None:
    launcher = Launcher(LAUNCHER.program, Isolation.NONE)
    what = program(folder, "true", Mount(folder / "a", "/none/a"))
    process = await launcher.join(what, ["sh", "-c", "grep -q 'of a' /none/a/file"], pid=0)
    assert await process.wait() == 0


# ---------------------------------------------------------------- text
def test_only_what_is_on_the_way_to_a_new_folder_is_made_anew(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    assert remade([str(there)]) == set()
    assert remade([str(there / "none" / "of"), "/"]) == {str(there), *(str(parent) for parent in there.parents)}


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("/etc/p", "/v/p"),
        ("--file=/etc/p/x.json", "--file=/v/p/x.json"),
        ("/etc/p/in/x", "/v/in/x"),  # the mount in the mount
        ("/etc/p:/etc/p/in", "/v/p:/v/in"),
        ("/etc/profile", "/etc/profile"),
        ("/my/etc/p", "/my/etc/p"),
        ("/etc/p.old", "/etc/p.old"),
    ],
)
def test_mount_paths_are_rewritten_where_they_are_whole(text: str, becomes: str) -> None:
    assert rewritten(text, [Mount(Path("/v/p"), "/etc/p"), Mount(Path("/v/in"), "/etc/p/in")]) == becomes
