import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, profile, spec

from dynamollm.core.batching import Batch, Step
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.profile import Profile

BOTH = pytest.mark.parametrize("name", [MODERN, PAPER])
REQUESTS = st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 300)), min_size=1, max_size=25)


def batch(name: str = MODERN, *, by_priority: bool = False) -> Batch:
    return Batch(profile(name), tensor_parallel=4, clock_mhz=1980, by_priority=by_priority)


def small_memory() -> Batch:
    """An instance whose KV cache holds about 3,000 tokens."""
    full = spec(MODERN)
    gpu = full.gpu.model_copy(update={"memory_gigabytes": 77})
    tight = Profile.from_spec(full.model_copy(update={"gpu": gpu}))
    return Batch(tight, tensor_parallel=2, clock_mhz=1980)


def fill(one: Batch, requests: list[tuple[int, int]]) -> None:
    for index, (input_tokens, output_tokens) in enumerate(requests):
        one.submit(index, input_tokens=input_tokens, output_tokens=output_tokens, arrival_s=0.0)


def steps(one: Batch) -> list[Step]:
    taken = []
    while (step := one.next_step()) is not None:
        taken.append(step)
    return taken


@BOTH
@settings(deadline=None, max_examples=40)
@given(requests=REQUESTS)
def test_requests_and_tokens_are_conserved(name: str, requests: list[tuple[int, int]]) -> None:
    one, other = batch(name), batch(name)
    fill(one, requests)
    fill(other, requests)
    taken = steps(one)
    assert taken == steps(other)
    assert all(step.duration_s > 0 and 0 < step.power_w <= 700 for step in taken)
    for index, (_, output_tokens) in enumerate(requests):
        assert sum(step.tokens.count(index) for step in taken) == output_tokens
        assert sum(step.first_tokens.count(index) for step in taken) == 1
        assert sum(step.completions.count(index) for step in taken) == 1
    assert (one.running, one.waiting, one.kv_usage) == (0, 0, 0.0)


@BOTH
@settings(deadline=None, max_examples=30)
@given(requests=REQUESTS)
def test_a_run_is_the_same_as_its_steps_one_by_one(name: str, requests: list[tuple[int, int]]) -> None:
    at_once, one_by_one = batch(name), batch(name)
    fill(at_once, requests)
    fill(one_by_one, requests)
    runs = singles = energy_runs = energy_singles = 0.0
    while True:
        if run := at_once.decode_run(0.5):
            runs += run.duration_s
            energy_runs += run.energy_j
        elif step := at_once.next_step():
            runs += step.duration_s
            energy_runs += step.duration_s * step.power_w
        else:
            break
    for step in steps(one_by_one):
        singles += step.duration_s
        energy_singles += step.duration_s * step.power_w
    assert runs == pytest.approx(singles, rel=1e-6)
    assert energy_runs == pytest.approx(energy_singles, rel=1e-3)


def test_a_run_ends_with_the_step_that_reaches_its_limit() -> None:
    one = batch()
    fill(one, [(100, 1000)])
    one.next_step()
    run = one.decode_run(1.0)
    assert run is not None
    assert run.duration_s >= 1.0
    assert run.duration_s * (run.steps - 1) / run.steps < 1.0


def test_full_memory_delays_and_preempts_but_loses_nothing() -> None:
    one = small_memory()
    requests = [(600, 400)] * 6
    fill(one, requests)
    seen = []
    taken = []
    while (step := one.next_step()) is not None:
        taken.append(step)
        seen.append(one.kv_usage)
    assert 0.9 < max(seen) <= 1.0
    assert [sum(step.tokens.count(index) for step in taken) for index in range(6)] == [400] * 6


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_cancelled_request_leaves_nothing_behind(after: int) -> None:
    one = batch()
    fill(one, [(5000, 50), (5000, 50), (9000, 50)])
    for _ in range(after):
        one.next_step()
    for index in range(3):
        one.cancel(index)
        one.cancel(index)
    assert one.next_step() is None
    assert (one.running, one.waiting, one.kv_usage) == (0, 0, 0.0)


@pytest.mark.parametrize(("by_priority", "first"), [(False, 0), (True, 1)])
def test_order_of_service(*, by_priority: bool, first: int) -> None:
    one = batch(PAPER, by_priority=by_priority)
    one.submit(0, input_tokens=6000, output_tokens=2, priority=9, arrival_s=0.0)
    one.submit(1, input_tokens=6000, output_tokens=2, priority=1, arrival_s=1.0)
    step = one.next_step()
    assert step is not None
    assert step.first_tokens == (first,)


def test_a_modern_engine_decodes_beside_a_prompt_and_one_of_2023_does_not() -> None:
    for name, beside in ((MODERN, True), (PAPER, False)):
        one = batch(name)
        fill(one, [(100, 50)])
        one.next_step()
        one.submit("late", input_tokens=900, output_tokens=5, arrival_s=0.0)
        step = one.next_step()
        assert step is not None
        assert (0 in step.tokens) is beside
        assert "late" in step.first_tokens


def test_a_prompt_longer_than_the_budget_takes_several_steps() -> None:
    one = batch()
    budget = profile(MODERN).max_batched_tokens
    fill(one, [(2 * budget + 1, 2)])
    taken = steps(one)
    assert [bool(step.first_tokens) for step in taken[:3]] == [False, False, True]
    assert [step.begun for step in taken[:3]] == [(0,), (), ()]


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "told"),
    [(0, 5, "both must be 1 or more"), (5, 0, "both must be 1 or more"), (600_000, 5, "do not fit into a KV cache")],
)
def test_refuses_what_it_could_never_serve(input_tokens: int, output_tokens: int, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        batch().submit("x", input_tokens=input_tokens, output_tokens=output_tokens, arrival_s=0.0)


def test_an_id_is_used_once() -> None:
    one = batch()
    fill(one, [(5, 5)])
    with pytest.raises(InvalidInputError, match="already in the batch"):
        one.submit(0, input_tokens=5, output_tokens=5, arrival_s=0.0)
