"""Whoever waits for the simulator to be compiled is told so, and nobody who does not."""

from pathlib import Path

import numba
import pytest

from dynamollm.simulator import campaign, compiled, spread
from dynamollm.simulator.campaign import Campaign, Task
from dynamollm.simulator.experiment import Question


def test_what_is_compiled_is_told_while_it_is_asked_for() -> None:
    told: list[str] = []
    functions = [numba.njit(lambda x, k=k: x + k) for k in range(2)]
    with compiled.when_compiling(lambda: told.append("compiling")):
        functions[0](1)
        assert told == ["compiling"]
        functions[0](2)
        assert told == ["compiling"]
    functions[1](1)
    assert told == ["compiling"]


@pytest.mark.parametrize("there", [False, True])
def test_it_is_compiled_where_there_is_an_index_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    monkeypatch.setattr(compiled._CONFIG, "CACHE_DIR", str(tmp_path / "cache"))
    assert not compiled.is_compiled()
    (tmp_path / "cache" / "simulator").mkdir(parents=True)
    if there:
        (tmp_path / "cache" / "simulator" / "kernel.advance-1.py311.nbi").touch()
    assert compiled.is_compiled() is there


@pytest.mark.parametrize("there", [False, True])
def test_processes_that_will_compile_are_told_of_before(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    told: list[str] = []
    monkeypatch.setattr(campaign, "is_compiled", lambda: there)
    monkeypatch.setattr(campaign, "_known", lambda questions: dict.fromkeys(map(repr, questions)))
    monkeypatch.setattr(campaign, "_numbered", lambda number, *_: (number, {}))
    tasks = [Task(Question(trace=f"{number}.csv"), "Joint", "fcfs", {}) for number in range(2)]
    # Processes would not see what is replaced here.
    monkeypatch.setitem(spread._HOW, "backend", "threading")
    list(Campaign(jobs=2).answers(tasks, compiling=lambda: told.append("compiling")))
    assert told == ([] if there else ["compiling"])
