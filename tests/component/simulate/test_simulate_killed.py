"""A simulation that is killed goes on where it was when the same command is given again, and its workers do not outlive it."""

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)

IMPATIENT = """
from functools import partial
from dynamollm.simulator import campaign, keeping
campaign.Keeper = partial(keeping.Keeper, every_s=0.0)  # states of workers are kept every 30 s all the same
from dynamollm.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("trace") / "half_a_day.csv"
    rows = "".join(f"{30 * k},{100 + 37 * (k % 60)},{20 + 11 * (k % 40)}\n" for k in range(1440))
    path.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    asked = ["--policy", "SinglePoolElastic", "--order", "fcfs,edf", "--servers", "2", "--output", "json"]
    return ["simulate", "--trace", str(path), *asked]


@pytest.fixture(scope="module")
def whole(arguments: list[str]) -> dict[str, Any]:
    """Return the answer of a run that nobody kills."""
    return answer(arguments)


def answer(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dynamollm")), *arguments],
        capture_output=True,
        text=True,
        timeout=1000,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    for one in document["results"]:
        del one["wall_seconds"]
    return document


def until(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    while not condition():
        assert process is None or process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)


def children(process: subprocess.Popen[bytes]) -> list[Path]:
    return [Path("/proc", pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_command_again_gives_the_answer_as_if_nothing_had_been(
    arguments: list[str], whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    folder, shares = tmp_path / "answers", tmp_path / "shares"
    shares.mkdir()
    monkeypatch.setenv("TMPDIR", str(shares))
    again = [*arguments, "--resume", str(folder), "--jobs", str(jobs)]

    def half_way() -> bool:
        if jobs == 1:
            return any(folder.glob("*.state"))
        return any(any(path.read_bytes()) for path in shares.glob("dynamollm-*/shares"))

    process = subprocess.Popen([sys.executable, "-c", IMPATIENT, *again], stdout=subprocess.DEVNULL)
    until(half_way, process)
    workers = children(process)
    process.kill()
    process.wait()
    assert not list(folder.glob("*.json"))
    assert (len(workers) >= jobs) == (jobs > 1)
    until(lambda: not any(worker.exists() for worker in workers))
    for path in shares.glob("dynamollm-*/shares"):
        # They ended where they were, not when they were done.
        assert max(share for (share,) in struct.iter_unpack("<d", path.read_bytes())) < 0.9
    assert answer(again) == whole
    assert len(list(folder.glob("*.json"))) == len(whole["results"])
    assert not list(folder.glob("*.state"))
