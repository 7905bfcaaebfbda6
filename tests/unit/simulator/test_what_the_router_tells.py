"""What a simulated router counts and is told, over a whole run."""

from pathlib import Path

import numpy as np
import pytest

from dynamollm.core.records import Plan
from dynamollm.simulator.experiment import Question, answer, prepare

LEFT = Plan(pools=(), scale_decided_s=0.0, shard_decided_s=0.0, power_w=0.0, reason="Scaled", message="")

# The first call after a change compiles the engine model.
pytestmark = pytest.mark.timeout(1200)


def test_brief_answers_are_counted_and_instances_have_what_makes_them_full(tmp_path: Path) -> None:
    trace = tmp_path / "own.csv"
    outputs = (1, 2, 8, 9, 60)
    rows = "".join(f"{k * 1.5},{60 + 37 * (k % 60)},{outputs[k % 5]}\n" for k in range(1000))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    prepared = prepare(Question(trace=str(trace), servers=2))
    assert int(prepared.seen.brief.sum()) == 400
    _, ended = answer(prepared, "Joint", "fcfs")
    counted = ended.room.fleet.by_predicted
    assert counted["brief"].sum() / counted["completions"].sum() == pytest.approx(0.4, abs=0.01)
    in_use = ended.room.engines.instances["in_use"] > 0
    assert in_use.any()
    full = ended.room.fleet.full_in_flight
    assert np.isfinite(full[in_use]).all()
    # Those that a plan leaves carry no less than before, as in the router.
    before = full.copy()
    ended.room.set_full(LEFT)
    assert (full == before).all()


def test_routers_judge_every_request_by_the_class_that_it_is_of(tmp_path: Path) -> None:
    trace = tmp_path / "own.csv"
    rows = "".join(f"{k // 10 * 5},{(60, 600, 3000)[k % 3]},{(30, 200)[k % 2]}\n" for k in range(3000))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    # Ten at once are too many for the last of them.
    result, ended = answer(prepare(Question(trace=str(trace), servers=1, profile="paper")), "SinglePool", "fcfs")
    judged, counted = ended.room.fleet.by_predicted, ended.room.fleet.by_class
    assert 0 < result.slo_attainment["total"] < 1
    # Those of the warm-up too, which the results leave out: some fail while no instance is there.
    assert judged["judged"].sum() >= judged["completions"].sum() > result.requests
    assert (judged["judged"] - judged["met"] >= counted["requests"] - counted["met"]).all()
    assert (judged["judged"] > 0).tolist() == (counted["requests"] > 0).tolist()
