from dataclasses import replace
from pathlib import Path

import pytest

from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator import keeping, shares
from dynamollm.simulator.campaign import Campaign, tasks
from dynamollm.simulator.experiment import Question, answer, prepare
from dynamollm.simulator.keeping import Keeper

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def question(tmp_path: Path) -> Question:
    trace = tmp_path / "own.csv"
    rows = "".join(f"{k / 4},{50 + 41 * (k % 50)},{10 + 7 * (k % 50)}\n" for k in range(600))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return Question(trace=str(trace), servers=2)


def longer(trace: str) -> str:
    """Return a trace of as many requests over two hours, of which there are tens of looks a second."""
    path = Path(trace).with_name("longer.csv")
    rows = "".join(f"{12 * k},{50 + 41 * (k % 50)},{10 + 7 * (k % 50)}\n" for k in range(600))
    path.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return str(path)


def test_a_sweep_asks_for_every_combination(question: Question) -> None:
    wanted = tasks(question, ["SinglePool", "Joint"], ["fcfs"], ["accuracy=0.5,1", "load=1,2,4"])
    assert len(wanted) == 12
    assert {(one.question.accuracy, one.question.scale) for one in wanted} == {
        (accuracy, scale) for accuracy in (0.5, 1.0) for scale in (1.0, 2.0, 4.0)
    }
    assert len({one.key for one in wanted}) == 12
    assert all(dict(one.settings) == {"accuracy": one.question.accuracy, "load": one.question.scale} for one in wanted)


@pytest.mark.parametrize("text", ["accuracy", "accuracy=", "colour=1", "pools=many", "load=1,,2"])
def test_a_sweep_that_is_none_is_refused(question: Question, text: str) -> None:
    with pytest.raises(InvalidInputError, match="--sweep"):
        tasks(question, ["Joint"], ["fcfs"], [text])


def test_what_was_cut_off_goes_on_where_it_was(question: Question, tmp_path: Path) -> None:
    wanted = tasks(question, ["SinglePool"], ["fcfs", "edf"], [])
    campaign = Campaign(folder=tmp_path / "answers")
    first = next(iter(campaign.answers(wanted)))
    assert first[0] == 0
    assert [campaign.has(task) for task in wanted] == [True, False]
    # The answer that is there is taken as it is, so that its wall time is still the first run's.
    rest = dict(campaign.answers(wanted))
    assert rest[0]["result"]["wall_seconds"] == first[1]["result"]["wall_seconds"]
    assert sorted(rest) == [0, 1]


def test_processes_give_what_one_gives(question: Question) -> None:
    wanted = tasks(question, ["SinglePool"], ["fcfs"], ["seed=0,1"])
    alone, spread = dict(Campaign().answers(wanted)), dict(Campaign(jobs=2).answers(wanted))
    for index in (0, 1):
        here, there = dict(alone[index]["result"]), dict(spread[index]["result"])
        here.pop("wall_seconds")
        there.pop("wall_seconds")
        assert here == there


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_is_told_how_much_is_done_while_runs_go_on(
    question: Question, tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These runs may be over between two looks of the usual pace.
    monkeypatch.setattr(shares, "_LOOK_S", 0.002)
    campaign = Campaign(jobs=jobs, folder=tmp_path / "answers")
    wanted = tasks(replace(question, trace=longer(question.trace)), ["SinglePool"], ["fcfs"], ["seed=0,1,2"])
    next(iter(Campaign(folder=tmp_path / "answers").answers(wanted[:1])))
    told: list[float] = []
    assert len(list(campaign.answers(wanted, tell=told.append))) == 3
    assert told == sorted(told)
    assert told[0] >= 1.0
    assert told[-1] <= 3.0
    assert any(done % 1 > 0 for done in told), "not only when a run ends"


class _Cut(BaseException):
    """A process that is killed."""


@pytest.mark.parametrize("policy", ["Joint", "Clairvoyant"])
def test_a_run_that_was_cut_off_half_way_ends_as_if_it_had_not_been(tmp_path: Path, policy: str) -> None:
    trace = tmp_path / "half_an_hour.csv"
    rows = "".join(f"{k * 1.7},{60 + 37 * (k % 60)},{10 + 7 * (k % 50)}\n" for k in range(1000))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    question = Question(trace=str(trace), servers=2)
    prepared = prepare(question)
    whole, _ = answer(prepared, policy, "fcfs")
    keeper = Keeper(tmp_path / "run.state", every_s=0.0)

    def cut(share: float) -> None:
        if share > 0.6:
            raise _Cut

    with pytest.raises(_Cut):
        answer(prepared, policy, "fcfs", cut, keeper)
    done: list[float] = []
    rest, _ = answer(prepare(question), policy, "fcfs", done.append, keeper)
    assert min(done) > 0.4
    assert {**rest.document(), "wall_seconds": 0} == {**whole.document(), "wall_seconds": 0}


def test_a_state_of_other_code_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path / "run.state", every_s=0.0)
    assert keeper.load() is None
    keeper.offer({"state": 1})
    assert keeper.load() == {"state": 1}
    monkeypatch.setattr(keeping, "_code", lambda: b"of a later version")
    assert keeper.load() is None
    keeper.forget()
    assert list(tmp_path.iterdir()) == []


def test_an_answer_leaves_no_state_behind(question: Question, tmp_path: Path) -> None:
    (task,) = tasks(question, ["SinglePool"], ["fcfs"], [])
    folder = tmp_path / "answers"
    Keeper(folder / f"{task.key}.state", every_s=0.0).offer(None)
    assert len(dict(Campaign(folder=folder).answers([task]))) == 1
    assert [path.name for path in folder.iterdir()] == [f"{task.key}.json"]
