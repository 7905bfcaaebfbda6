"""The step costs of many points at once are those of the profile, one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, profile

from dynamollm.core.errors import OutOfRangeError
from dynamollm.core.steptable import StepTable

DEGREES, CLOCKS = (2, 4, 8), (1005, 1410, 1980)
NAMES = pytest.mark.parametrize("name", [MODERN, PAPER])
POINTS = [(degree, mhz) for degree in DEGREES for mhz in CLOCKS]


def table(name: str) -> StepTable:
    return StepTable(profile(name), tensor_parallel=DEGREES, clocks_mhz=CLOCKS)


@NAMES
@given(batch=st.integers(1, 256), context=st.integers(1, 200_000))
def test_a_decode_step_takes_what_the_profile_says(name: str, batch: int, context: int) -> None:
    found = table(name).decode_ms(np.array(float(batch)), np.array(float(context)))
    one_by_one = [
        profile(name).decode_ms(batch=batch, context_tokens=context, tensor_parallel=degree, clock_mhz=mhz)
        for degree, mhz in POINTS
    ]
    assert found == pytest.approx(one_by_one)


@NAMES
@given(tokens=st.integers(1, 8192), batch=st.integers(1, 64))
def test_a_step_of_prompts_and_decoding_draws_what_the_profile_says(name: str, tokens: int, batch: int) -> None:
    model = profile(name)
    batch = batch if model.interleaves_prefill else 0
    context, squared = 700 * batch, tokens**2
    costs = [
        model.step(
            prompt_tokens=tokens,
            prompt_squared_tokens=squared,
            batch=batch,
            context_tokens=context,
            tensor_parallel=degree,
            clock_mhz=mhz,
        )
        for degree, mhz in POINTS
    ]
    of = (float(tokens), float(squared), float(batch), float(context))
    found = table(name).power_w(np.array([cost.duration_ms for cost in costs]), *(np.array(one) for one in of))
    assert found == pytest.approx([cost.power_w for cost in costs])


@NAMES
@given(
    batch=st.floats(1.0, 200.0),
    context=st.floats(10.0, 6000.0),
    places=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_some_points_of_a_table_have_its_steps_and_their_slope(
    name: str, batch: float, context: float, places: list[int]
) -> None:
    some = table(name).at(np.array(places))
    steps, many = some.decoding(np.full(len(places), context)), np.full(len(places), batch)
    now, slope = steps.with_slope(many)
    whole = table(name).decode_ms(np.array(batch), np.array(batch * context))
    assert steps.ms(many) == pytest.approx(whole[places])
    assert now == pytest.approx(whole[places])
    assert slope == pytest.approx((steps.ms(many + 1e-4) - steps.ms(many - 1e-4)) / 2e-4, rel=1e-3)


@NAMES
@pytest.mark.parametrize(("degrees", "clocks"), [((3,), CLOCKS), (DEGREES, (100,))])
def test_a_point_that_was_not_measured_is_refused(name: str, degrees: tuple[int, ...], clocks: tuple[int, ...]) -> None:
    with pytest.raises(OutOfRangeError):
        StepTable(profile(name), tensor_parallel=degrees, clocks_mhz=clocks)
