from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.outputlength import HALF_LIFE, PRIOR_OUTPUT_TOKENS, QUANTILE, OutputLengthModel

BIN = 2 ** (1 / 8)  # half a bin up or down


def taught(lengths: list[int], *, input_tokens: int = 100, max_tokens: int | None = None) -> OutputLengthModel:
    model = OutputLengthModel()
    for length in lengths:
        model.learn(input_tokens=input_tokens, output_tokens=length, max_tokens=max_tokens)
    return model


def test_before_any_answer_the_prior_is_expected() -> None:
    expected = OutputLengthModel().predict(input_tokens=100, max_tokens=None)
    assert expected == pytest.approx(PRIOR_OUTPUT_TOKENS, rel=BIN - 1)


@pytest.mark.parametrize(("max_tokens", "expected"), [(16, 16), (1, 1), (199, 199)])
def test_max_tokens_is_an_upper_bound(max_tokens: int, expected: float) -> None:
    model = taught([2000] * 100)
    assert model.predict(input_tokens=100, max_tokens=max_tokens) == expected


def test_a_generous_max_tokens_tells_nothing() -> None:
    model = taught([40] * 100)
    assert model.predict(input_tokens=100, max_tokens=4096) == pytest.approx(40, rel=BIN - 1)


def test_the_prediction_is_the_quantile_of_what_was_seen() -> None:
    lengths = list(range(1, 1001))
    Random(1).shuffle(lengths)
    assert taught(lengths).predict(input_tokens=100, max_tokens=None) == pytest.approx(1000 * QUANTILE, rel=0.15)


def test_input_lengths_are_told_apart() -> None:
    model = taught([40] * 100, input_tokens=100)
    for _ in range(100):
        model.learn(input_tokens=3000, output_tokens=600, max_tokens=None)
    assert model.predict(input_tokens=120, max_tokens=None) < 50
    assert model.predict(input_tokens=2500, max_tokens=None) > 500


def test_old_answers_are_forgotten() -> None:
    model = taught([1000] * 5000 + [50] * 2 * HALF_LIFE)
    assert model.predict(input_tokens=100, max_tokens=None) == pytest.approx(50, rel=BIN - 1)


def test_answers_cut_by_max_tokens_do_not_pull_the_prediction_down() -> None:
    # Half the clients cut at 100 what would have been 400: the others show what it is.
    model = OutputLengthModel()
    for _ in range(200):
        model.learn(input_tokens=100, output_tokens=400, max_tokens=None)
        model.learn(input_tokens=100, output_tokens=100, max_tokens=100)
    assert model.predict(input_tokens=100, max_tokens=None) == pytest.approx(400, rel=BIN - 1)


def test_weights_stay_finite_however_many_answers_come() -> None:
    model = OutputLengthModel()
    for index in range(60_000):
        model.learn(input_tokens=1, output_tokens=300 if index % 2 else 301, max_tokens=None)
    bucket = model._buckets[0]
    assert 0 < sum(bucket._weights) < 1e16
    assert model.predict(input_tokens=1, max_tokens=None) == pytest.approx(300, rel=BIN - 1)


@given(
    answers=st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 300_000)), max_size=30),
    input_tokens=st.integers(0, 300_000),
    max_tokens=st.none() | st.integers(1, 300_000),
)
def test_any_history_gives_a_prediction_within_bounds(
    answers: list[tuple[int, int]], input_tokens: int, max_tokens: int | None
) -> None:
    model = OutputLengthModel()
    for given_tokens, output_tokens in answers:
        model.learn(input_tokens=given_tokens, output_tokens=output_tokens, max_tokens=max_tokens)
    expected = model.predict(input_tokens=input_tokens, max_tokens=max_tokens)
    assert 1 <= expected <= (max_tokens or 2**17)
