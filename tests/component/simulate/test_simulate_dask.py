"""A campaign over the workers of a real Dask scheduler, each a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.paths import REPOSITORY

BIN = Path(sys.executable).parent

# The first call after a change compiles the engine model, in each process.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that end with the test."""
    with ExitStack() as stack:

        def popen(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [str(BIN / "dask"), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        yield popen


def said(process: subprocess.Popen[str], words: str) -> str:
    """Wait for a line of a process's log, and return it."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} is not in {''.join(lines)}")


@pytest.fixture
def scheduler(start: Callable[..., subprocess.Popen[str]]) -> str:
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    return "tcp://" + said(process, "Scheduler at:").split("tcp://")[1].strip()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    rows = "".join(f"{k / 5},{100 + 37 * (k % 60)},{20 + 11 * (k % 40)}\n" for k in range(1500))
    path.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return path


def simulate(trace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "dynamollm"), "simulate", "--trace", trace.name, "--policy", "SinglePool", "--servers", "2"]
    # Workers have folders of their own: files are named from here.
    return subprocess.run(
        [*command, "--output", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
        cwd=trace.parent,
    )


def test_the_workers_of_a_scheduler_give_what_one_process_gives(
    start: Callable[..., subprocess.Popen[str]], scheduler: str, trace: Path, tmp_path: Path
) -> None:
    workers = [
        start(
            *("worker", scheduler, "--name", f"w{k}", "--nthreads", "1", "--no-nanny", "--no-dashboard"),
            *("--local-directory", str(tmp_path / f"w{k}")),
        )
        for k in range(2)
    ]
    for worker in workers:
        said(worker, "Registered to:")
    sweep = ("--order", "fcfs,edf", "--sweep", "seed=0,1")
    kept = tmp_path / "answers"
    spread = simulate(trace, *sweep, "--scheduler", scheduler, "--resume", str(kept))
    assert spread.returncode == 0, spread.stderr
    assert len(list(kept.glob("*.json"))) == 4
    alone = simulate(trace, *sweep)
    there, here = json.loads(spread.stdout)["results"], json.loads(alone.stdout)["results"]
    assert len(there) == 4
    for one in (*there, *here):
        assert one.pop("wall_seconds") > 0
    assert there == here


def test_a_scheduler_without_workers_is_one_line_and_exit_code_2(scheduler: str, trace: Path) -> None:
    done = simulate(trace, "--scheduler", scheduler)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has no workers" in done.stderr


def test_no_scheduler_is_one_line_and_exit_code_2(trace: Path) -> None:
    done = simulate(trace, "--scheduler", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--scheduler tcp://127.0.0.1:1" in done.stderr


def test_without_the_extra_one_line_says_what_to_install(trace: Path) -> None:
    """An interpreter to which the distribution is not there, as in an environment without the extra."""
    program = (
        "import sys; sys.modules['distributed'] = None; sys.argv[0] = 'dynamollm'; "
        "from dynamollm.cli.main import main; main()"
    )
    arguments = ("simulate", "--trace", str(trace), "--servers", "1", "--scheduler", "tcp://127.0.0.1:1")
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "dynamollm: distributed is not installed, which --scheduler needs: pip install 'dynamollm[dask]'\n"
    )
