import pytest

from dynamollm.core import decide as decide_module
from dynamollm.simulator import replay
from dynamollm.simulator.experiment import Question, answer, prepare

pytestmark = pytest.mark.timeout(1200)


def test_cycles_in_which_nothing_can_change_are_left_out_and_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path_factory.mktemp("trace") / "own.csv"
    rows = "".join(f"{k / 3},{60 + 37 * (k % 60)},{10 + 7 * (k % 50)}\n" for k in range(3000))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    prepared = prepare(Question(trace=str(trace), servers=4))
    calls = {"all": 0, "due": 0}

    def counted(which: str) -> object:
        def call(*args: object, **kwargs: object) -> object:
            calls[which] += 1
            return decide_module.decide(*args, **kwargs)  # type: ignore[arg-type]

        return call

    monkeypatch.setattr(replay, "decide", counted("due"))
    due, _ = answer(prepared, "DynamoLLM", "fcfs")
    monkeypatch.setattr(replay, "decide", counted("all"))
    monkeypatch.setattr(replay, "_lasting", lambda _: None)
    every, _ = answer(prepared, "DynamoLLM", "fcfs")
    assert calls["due"] < 0.6 * calls["all"]
    assert {**due.document(), "wall_seconds": 0} == {**every.document(), "wall_seconds": 0}
