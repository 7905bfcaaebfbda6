"""The compiled step model against `core.profile`: the same numbers, or the simulator says nothing about the operator."""

import numpy as np
import pytest
from engine_world import MODERN, PAPER, profile, table
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.errors import OutOfRangeError
from dynamollm.simulator.steps import steps_cost

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("name", [MODERN, PAPER])
@given(
    tensor_parallel=st.sampled_from([2, 4, 8]),
    clock=st.integers(0, 78),
    chunks=st.lists(st.tuples(st.integers(0, 4096), st.integers(1, 4096)), max_size=4),
    batch=st.integers(0, 256),
    mean_context=st.integers(1, 9000),
)
def test_time_and_power_are_those_of_the_profile(
    *,
    name: str,
    tensor_parallel: int,
    clock: int,
    chunks: list[tuple[int, int]],
    batch: int,
    mean_context: int,
) -> None:
    by = profile(name)
    tokens = sum(count for _, count in chunks)
    squared = sum((start + count) ** 2 - start**2 for start, count in chunks)
    batch = batch or (0 if tokens else 1)
    clock_mhz = by.clocks_mhz[clock]
    expected = by.step(
        prompt_tokens=tokens,
        prompt_squared_tokens=squared,
        batch=batch,
        context_tokens=batch * mean_context,
        tensor_parallel=tensor_parallel,
        clock_mhz=clock_mhz,
    )
    row = table(by).row(tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
    duration_ms, power_w = steps_cost(
        table(by).rows,
        np.array([row]),
        *(np.array([float(value)]) for value in (tokens, squared, batch, batch * mean_context)),
    )
    assert duration_ms[0] == pytest.approx(expected.duration_ms, rel=1e-9)
    assert power_w[0] == pytest.approx(expected.power_w, rel=1e-9)


def test_a_clock_between_two_supported_ones_counts_as_the_lower() -> None:
    of = table(profile(MODERN))
    assert of.row(tensor_parallel=4, clock_mhz=1414) == of.row(tensor_parallel=4, clock_mhz=1410)
    # The valid range begins below the lowest supported clock.
    assert of.row(tensor_parallel=4, clock_mhz=800) == of.row(tensor_parallel=4, clock_mhz=810)


@pytest.mark.parametrize(("tensor_parallel", "clock_mhz"), [(3, 1410), (4, 795), (4, 1995)])
def test_what_was_not_measured_is_refused(tensor_parallel: int, clock_mhz: int) -> None:
    with pytest.raises(OutOfRangeError):
        table(profile(MODERN)).row(tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
