"""States of instances under a stream, from the batch and from the rate, one by one and many at once."""

import numpy as np
import pytest
from model_fixtures import MODERN, PAPER, profile
from test_violation import grid, mixes

from dynamollm.core.capacity import power_table, powers_w
from dynamollm.core.ladder import ladder_clocks


@pytest.mark.parametrize("share", [1e-4, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_the_rate_of_a_batch_has_that_batch(name: str, share: float) -> None:
    stream = grid(name, mixes(np.random.default_rng(1), 30)).stream()
    wanted = stream.at_batch(stream.most * share)
    found = stream.at_rate(wanted.per_ms)
    assert found.batch == pytest.approx(wanted.batch, rel=2e-4)
    assert found.token_ms == pytest.approx(wanted.token_ms, rel=2e-4)
    assert stream.power_w(found) == pytest.approx(stream.power_w(wanted), rel=2e-4)


@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_beyond_the_largest_batch_there_is_only_that(name: str) -> None:
    stream = grid(name, mixes(np.random.default_rng(2), 30)).stream()
    most = stream.at_batch(stream.most).per_ms
    for factor in (1.05, 2.0, 100.0):
        assert stream.at_rate(most * factor).batch == pytest.approx(stream.most, rel=1e-9)


def test_watts_of_many_loads_are_those_of_one_after_the_other() -> None:
    # More of them than are worked on at a time.
    many = mixes(np.random.default_rng(4), 400)
    clocks = ladder_clocks(profile(MODERN))[::7]
    stream = grid(MODERN, many).stream()
    most = stream.at_batch(stream.most).per_ms * 1e3
    loads = most * np.array([[0.1], [0.4], [0.8], [1.2], [0.0]])
    together = powers_w(stream, loads)
    for row, load in zip(together, loads, strict=True):
        assert row == pytest.approx(powers_w(stream, load[None])[0], rel=1e-12)
    shape = 400, 3, len(clocks)
    table = power_table(
        profile(MODERN),
        many,
        tensor_parallel=(2, 4, 8),
        clocks_mhz=clocks,
        rate_per_s=loads.T.reshape(*shape, len(loads)),
    )
    assert table.reshape(-1, len(loads)) == pytest.approx(together.T)


@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_watts_in_single_precision_are_the_same_to_some_millionths(name: str) -> None:
    stream = grid(name, mixes(np.random.default_rng(6), 200)).stream()
    most = stream.at_batch(stream.most).per_ms * 1e3
    loads = most * np.array([[0.05], [0.25], [0.5], [0.75], [1.0], [1.2]])
    found = powers_w(stream.single(), loads.astype(np.float32))
    assert found.dtype == np.float32
    assert found == pytest.approx(powers_w(stream, loads), rel=1e-5)


@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_at_light_loads_two_steps_lead_to_the_batch(name: str) -> None:
    stream = grid(name, mixes(np.random.default_rng(7), 200)).stream()
    most = stream.at_batch(stream.most).per_ms * 1e3
    loads = most * np.array([[0.05], [0.25]])
    assert powers_w(stream, loads, newton=2) == pytest.approx(powers_w(stream, loads, newton=8), rel=1e-5)
