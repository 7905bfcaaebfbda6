import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.paths import HACK
from lab.processes import MARK, Child, Command, end_process, marked, started_ticks, sweep, tail

SLEEP = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)")


def soon(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_a_pid_that_is_somebody_else_by_now_is_left_alone(sleeper: "subprocess.Popen[bytes]") -> None:
    started = started_ticks(sleeper.pid)
    assert started
    assert end_process(sleeper.pid, started - 1, within_s=1.0) is False
    assert sleeper.poll() is None
    assert end_process(sleeper.pid, started, within_s=60.0) is True
    assert sleeper.wait() == -signal.SIGTERM


def test_there_is_no_start_time_without_a_process(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()
    assert started_ticks(sleeper.pid) is None
    assert end_process(sleeper.pid, 1, within_s=1.0) is False


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    log = tmp_path / "logs" / "deaf.log"
    child = Child(Command("deaf", [sys.executable, "-c", code]), state=tmp_path, log=log)
    soon(lambda: tail(log) == ["deaf"])
    child.terminate()
    child.reap(0.1)
    assert child.exit_code == -signal.SIGKILL


def test_a_child_carries_the_mark_and_what_it_starts_does_too(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "shell.log"
    child = Child(
        Command("shell", ["bash", "-c", f"cd /; {SLEEP[0]} -c '{SLEEP[2].replace(chr(39), chr(34))}' & wait"]),
        state=tmp_path,
        log=log,
    )
    soon(lambda: tail(log) == ["here"])
    found = marked(tmp_path)
    assert child.pid in found
    assert len(found) == 2
    assert marked(tmp_path / "other") == []
    assert sorted(sweep(tmp_path)) == sorted(found)
    assert marked(tmp_path) == []
    child.reap(1.0)


def test_niceness_and_environment_of_a_child(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "said.log"
    command = Command("said", ["bash", "-c", f'nice; echo "$OWN ${MARK} $PWD"'], env={"OWN": "value"}, nice=3)
    Child(command, state=tmp_path, log=log).reap(60.0)
    assert tail(log) == [str(os.nice(0) + 3), f"value {tmp_path} {tmp_path}"]


def test_a_child_ends_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lab.processes import Child, Command\n"
        "state = Path(sys.argv[1])\n"
        "child = Child(Command('sleep', ['sleep', '600']), state=state, log=state / 'log')\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HACK)},
    ) as owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        assert started_ticks(pid)
        owner.kill()
    soon(lambda: started_ticks(pid) is None)


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == []
    log.write_text("\n".join(map(str, range(20))) + "\n\n  \n")
    assert tail(log, 2) == ["18", "19"]
