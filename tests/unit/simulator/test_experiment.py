from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamollm.core.decide import POLICIES
from dynamollm.core.names import ORDERS
from dynamollm.simulator.experiment import ALL, Prepared, Question, answer, prepare
from dynamollm.simulator.result import Result

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)


def generated(path: Path, *, per_s: float, seconds: int, seed: int) -> str:
    draw = np.random.default_rng(seed)
    times = np.cumsum(draw.exponential(1 / per_s, int(per_s * seconds)))
    inputs = draw.choice([60, 150, 500, 900, 1500, 3000], times.size)
    outputs = draw.choice([1, 30, 120, 250, 400], times.size)
    rows = "".join(f"{t:.4f},{i},{o}\n" for t, i, o in zip(times, inputs, outputs, strict=True))
    path.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return str(path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    trace = generated(tmp_path_factory.mktemp("trace") / "own.csv", per_s=6.0, seconds=1500, seed=1)
    return prepare(Question(trace=trace, servers=6))


@pytest.fixture(scope="module")
def single_pool(prepared: Prepared) -> Result:
    return answer(prepared, "SinglePool", "fcfs")[0]


@pytest.fixture(scope="module")
def dynamo(prepared: Prepared) -> Result:
    return answer(prepared, "DynamoLLM", "fcfs")[0]


def test_scaling_saves_energy_and_keeps_the_slo(single_pool: Result, dynamo: Result) -> None:
    assert single_pool.meets_slo
    assert dynamo.meets_slo
    assert dynamo.energy_kwh < 0.8 * single_pool.energy_kwh
    assert dynamo.gpu_hours < single_pool.gpu_hours


def test_single_pool_never_changes_and_is_as_large_as_asked(single_pool: Result, prepared: Prepared) -> None:
    assert (single_pool.reconfigurations, single_pool.servers) == (0, 6.0)
    assert single_pool.gpu_hours == pytest.approx(48 * prepared.workload.trace.duration_s / 3600, rel=0.01)


@pytest.mark.parametrize(("seconds", "startup_s"), [(8, None), (60, None), (600, 2400.0)])
def test_a_trace_shorter_than_a_start_up_loses_no_request(
    tmp_path: Path, seconds: int, startup_s: float | None
) -> None:
    trace = generated(tmp_path / "short.csv", per_s=4.0, seconds=seconds, seed=2)
    one = prepare(Question(trace=trace, servers=2, startup_s=startup_s))
    for policy in ("SinglePool", "Joint"):
        result, _ = answer(one, policy, "fcfs")
        assert (result.requests, result.failed) == (one.seen.total, 0)
        assert result.meets_slo, policy


@pytest.mark.parametrize("name", ["single_pool", "dynamo"])
def test_no_request_and_no_token_is_lost(name: str, prepared: Prepared, request: pytest.FixtureRequest) -> None:
    result: Result = request.getfixturevalue(name)
    assert (result.requests, result.failed) == (prepared.seen.total, 0)
    assert result.tokens["input"] == prepared.seen.input_tokens.sum()
    assert result.tokens["output"] == prepared.seen.output_tokens.sum()


@pytest.mark.parametrize("name", ["single_pool", "dynamo"])
def test_held_gpus_draw_at_least_idle_and_at_most_full_power(
    name: str, prepared: Prepared, request: pytest.FixtureRequest
) -> None:
    result: Result = request.getfixturevalue(name)
    floor_kwh = result.gpu_hours * prepared.profile.loaded_idle_w / 1e3
    assert 0.97 * floor_kwh <= result.energy_kwh <= result.gpu_hours * 0.7


def test_the_same_question_has_the_same_answer(prepared: Prepared, dynamo: Result) -> None:
    again = answer(prepared, "DynamoLLM", "fcfs")[0]
    assert replace(again, wall_seconds=0.0) == replace(dynamo, wall_seconds=0.0)


def test_released_gpus_of_single_pools_cluster_count_where_asked(prepared: Prepared, dynamo: Result) -> None:
    asked = replace(prepared, question=replace(prepared.question, released_w=75.0))
    counted = answer(asked, "DynamoLLM", "fcfs")[0]
    released_gpu_hours = 48 * prepared.workload.trace.duration_s / 3600 - dynamo.gpu_hours
    assert counted.held_energy_kwh == dynamo.held_energy_kwh
    assert counted.energy_kwh == pytest.approx(dynamo.energy_kwh + 0.075 * released_gpu_hours, rel=0.01)


def test_the_eight_are_the_operators() -> None:
    assert {str(name) for name in POLICIES} <= set(ALL)


questions = st.builds(
    Question,
    trace=st.just(""),
    servers=st.integers(1, 4),
    accuracy=st.floats(0, 1),
    overheads=st.sampled_from(["measured", "optimised", "cold"]),
    emergency=st.sampled_from(["clock", "resteer", "squash"]),
    seed=st.integers(0, 3),
)


@given(
    question=questions,
    policy=st.sampled_from([str(name) for name in POLICIES]),
    order=st.sampled_from(sorted(ORDERS)),
)
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
def test_every_request_is_served_or_failed_whatever_happens(
    tmp_path: Path, question: Question, policy: str, order: str
) -> None:
    trace = generated(tmp_path / "own.csv", per_s=12.0, seconds=300, seed=question.seed)
    prepared = prepare(replace(question, trace=trace))
    result, ended = answer(prepared, policy, order)
    fleet = ended.room.fleet
    assert result.requests == prepared.seen.total
    served = int(fleet.ttft.sum())
    assert served + result.failed == result.requests
    assert np.all(fleet.by_class["met"] <= fleet.by_class["requests"])
    assert ended.room.inside == 0
    assert np.all(ended.held_gpus <= 8 * prepared.single_pool)
