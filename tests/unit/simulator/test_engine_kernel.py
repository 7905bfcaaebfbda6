"""The compiled engine against `core.batching`, and what holds for any engine."""

import numpy as np
import pytest
from engine_world import EDF, FCFS, MODERN, PAPER, Request, arrivals, kv_capacity, profile, reference, requests, served
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import Order

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)
ENGINES = {
    "modern": profile(MODERN),
    "paper": profile(PAPER),
    # Small batches and budgets: queues, chunks, and prompts longer than a step.
    "modern, tight": profile(MODERN, max_sequences=4, max_batched_tokens=512),
    "paper, tight": profile(PAPER, max_sequences=4, max_batched_tokens=512),
    # 6103 tokens of KV memory at TP4: requests give way to each other.
    "modern, little memory": profile(MODERN, memory_percent=41),
    "paper, little memory": profile(PAPER, memory_percent=41),
}


@pytest.mark.parametrize("order", [FCFS, EDF], ids=["fcfs", "edf"])
@pytest.mark.parametrize("engine", ENGINES)
@given(of=requests())
def test_agrees_with_batching_step_by_step(engine: str, order: Order, of: list[Request]) -> None:
    by = ENGINES[engine]
    expected, found = reference(of, by, order=order), served(of, by, order=order)
    np.testing.assert_allclose(found.first_s, expected.first_s, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.end_s, expected.end_s, rtol=1e-9, atol=1e-9)
    # A run takes the power in its middle for all of it.
    at_rest_j = 4 * by.loaded_idle_w * (found.until_s - found.end_s.max())
    assert found.energy_j == pytest.approx(expected.energy_j + at_rest_j, rel=1e-4)


def test_little_memory_makes_requests_give_way() -> None:
    by = ENGINES["modern, little memory"]
    assert kv_capacity(by) == 6103
    of = [Request(0.0, 1400, 200, 0, 0.4) for _ in range(4)]
    assert served(of, by).preemptions.sum() > 0


@pytest.mark.parametrize("engine", ENGINES)
@given(of=requests())
def test_nobody_is_lost_early_or_faster_than_alone(engine: str, of: list[Request]) -> None:
    by = ENGINES[engine]
    found = served(of, by)
    arrival_s = arrivals(of)
    assert (found.first_s >= arrival_s).all()
    assert (found.end_s >= found.first_s).all()
    for index, one in enumerate(of):
        alone = served([Request(0.0, one.input_tokens, one.output_tokens, 0, 0.4)], by)
        assert found.first_s[index] - arrival_s[index] >= alone.first_s[0] * (1 - 1e-9)
        assert found.end_s[index] - arrival_s[index] >= alone.end_s[0] * (1 - 1e-9)
    # Each token but a request's first follows a gap, and the gaps of a request add up to its time between the two.
    assert found.gaps.sum() == sum(one.output_tokens - 1 for one in of)


@pytest.mark.parametrize("engine", ENGINES)
@given(of=requests())
def test_energy_is_above_the_floor_and_all_accounted_for(engine: str, of: list[Request]) -> None:
    by = ENGINES[engine]
    found = served(of, by)
    assert (np.diff(found.curve_j, prepend=0.0) > 0).all()
    assert found.energy_j >= 4 * by.loaded_idle_w * found.until_s
    assert 0 < found.busy_s <= found.end_s.max() * (1 + 1e-9)
    assert found.class_j.sum() == pytest.approx(found.energy_j, rel=1e-9)
    assert found.class_j[9] == pytest.approx(4 * by.loaded_idle_w * (found.until_s - found.busy_s), rel=1e-9)
    asked = {one.request_class for one in of}
    # A prompt of one token, answered by one, adds nothing to a step that decodes anyway.
    paid = {one.request_class for one in of if one.input_tokens > 1 or one.output_tokens > 1}
    costly = {k for k in range(9) if found.class_j[k] > 0}
    assert paid <= costly <= asked


@pytest.mark.parametrize("engine", ENGINES)
@given(of=requests(), slo_s=st.sampled_from([0.25, 2.0]))
def test_with_one_slo_deadlines_are_arrivals(engine: str, of: list[Request], slo_s: float) -> None:
    alike = [Request(one.gap_s, one.input_tokens, one.output_tokens, 0, slo_s) for one in of]
    by_arrival, by_deadline = served(alike, ENGINES[engine]), served(alike, ENGINES[engine], order=EDF)
    # Sums in floating point may tie deadlines that arrivals do not: then submission decides, which is the same order.
    assert (by_arrival.first_s == by_deadline.first_s).all()
    assert (by_arrival.end_s == by_deadline.end_s).all()


def test_an_urgent_prompt_passes_a_long_one_that_has_begun() -> None:
    by = profile(MODERN, max_batched_tokens=512)
    of = [Request(0.0, 8000, 10, 8, 2.0), Request(0.1, 100, 10, 0, 0.25)]
    first, second = served(of, by, order=EDF).first_s
    assert second < 0.35 < first
    assert served(of, by, order=FCFS).first_s[1] > 0.35


def test_an_overloaded_instance_takes_more_requests_than_it_had_room_for() -> None:
    of = [Request(0.0, 10, 2, 0, 0.25) for _ in range(10_000)]
    assert not np.isnan(served(of, ENGINES["modern"]).end_s).any()


@given(of=requests(), instances=st.integers(1, 4))
def test_a_fleet_serves_each_request_once_and_one_more_instance_wastes_only_rest(
    of: list[Request], instances: int
) -> None:
    by = ENGINES["modern"]
    found = served(of, by, instances=instances)
    assert not np.isnan(found.end_s).any()
    assert found.gaps.sum() == sum(one.output_tokens - 1 for one in of)
    assert found.busy_s <= instances * found.end_s.max() * (1 + 1e-9)


def test_the_same_input_gives_the_same_bits() -> None:
    of = [Request(0.03, 1 + 37 * k % 2000, 1 + 11 * k % 200, k % 9, 0.4) for k in range(400)]
    first, second = (served(of, ENGINES["paper"], instances=3) for _ in range(2))
    assert (first.end_s == second.end_s).all()
    assert (first.curve_j == second.curve_j).all()
    assert (first.gaps == second.gaps).all()


@pytest.mark.parametrize(
    ("of", "told"),
    [
        ([], "1 or more, in order of arrival"),
        ([Request(0.0, 6100, 100, 0, 0.25)], "request 0: its 6200 tokens do not fit into a KV cache of 6103"),
        ([Request(1.0, 1, 1, 0, 0.25), Request(-0.5, 1, 1, 0, 0.25)], "in order of arrival"),
    ],
)
def test_refuses_what_cannot_be_served(of: list[Request], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        served(of, ENGINES["modern, little memory"])
