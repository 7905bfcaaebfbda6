"""The table that plans are made from against the same table clock by clock."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, SLO, mix, profile
from test_violation import mixes

from dynamollm.core.capacity import capacity_table
from dynamollm.core.classes import RequestClass
from dynamollm.core.ladder import ladder_clocks
from dynamollm.core.margins import Reserve
from dynamollm.core.records import Order
from dynamollm.core.sizetable import _least, size_table
from dynamollm.core.sizing import ProfileSizing

RESERVE = Reserve(1.2, 1.2, 0.9)
PLACES = np.array([0, 3, 5])
CLOCKS = 6


@given(
    watts=st.lists(st.floats(100.0, 1000.0), min_size=3, max_size=3),
    able=st.lists(st.floats(0.0, 10.0), min_size=CLOCKS, max_size=CLOCKS),
    wanted=st.floats(0.0, 12.0),
)
def test_the_clock_is_the_cheapest_of_those_that_are_able(watts: list[float], able: list[float], wanted: float) -> None:
    found = _least(
        np.array(watts).reshape(1, 1, 1, 3),
        np.array(able).reshape(CLOCKS, 1, 1),
        np.full((1, 1, 1), wanted),
        places=PLACES,
    )
    at = np.interp(np.arange(CLOCKS), PLACES, watts)
    # The highest remains; another one is able where it and all above it carry what is wanted.
    expected = min(at[clock] for clock in range(CLOCKS) if all(one >= wanted for one in able[clock : CLOCKS - 1]))
    assert found[0, 0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_what_is_known_already_makes_the_same_table(name: str, order: Order) -> None:
    many = mixes(np.random.default_rng(5), 40)
    degrees = (2, 4, 8)
    found = size_table(profile(name), many, slo=SLO, order=order, tensor_parallel=degrees, reserve=RESERVE)
    clocks = ladder_clocks(profile(name))
    known = capacity_table(profile(name), many, slo=SLO, order=order, tensor_parallel=degrees, clocks_mhz=clocks)
    again = size_table(profile(name), many, slo=SLO, order=order, tensor_parallel=degrees, reserve=RESERVE, known=known)
    assert again.capacity_per_s == pytest.approx(found.capacity_per_s, rel=1e-4)
    assert again.power_w == pytest.approx(found.power_w, rel=1e-3)
    some = found.capacity_per_s > 0
    more = np.diff(found.power_w[some], axis=-1)
    # Straight lines between four clocks leave a watt or two, and seldom.
    assert (more >= -1e-6).mean() > 0.98
    assert (more >= -0.003 * found.power_w[some][:, 1:]).all()
    # The same where clocks have less in reserve than instances, as in plans.
    warm = size_table(
        profile(name), many, slo=SLO, order=order, tensor_parallel=degrees, reserve=Reserve(1.2, 1.1, 0.9)
    ).power_w[some]
    assert (np.diff(warm, axis=-1) >= -0.003 * warm[:, 1:]).all()
    assert warm.sum() < 0.995 * found.power_w[some].sum()


def test_few_mixes_and_many_have_the_same_table() -> None:
    sizing = ProfileSizing(profile=profile(MODERN), slo=SLO)
    many = mixes(np.random.default_rng(6), 40)
    few = replace(many, rate_per_s=many.rate_per_s[:3])
    one, all_of_them = (sizing.table(some, tensor_parallel=(2, 4, 8)) for some in (few, many))
    assert one.capacity_per_s == pytest.approx(all_of_them.capacity_per_s[:3], rel=1e-4)
    assert one.power_w == pytest.approx(all_of_them.power_w[:3], rel=1e-3)


def test_a_class_that_nobody_asks_for_changes_no_answer() -> None:
    sizing = ProfileSizing(profile=profile(MODERN), slo=SLO)
    load = mix(RequestClass.SS, RequestClass.LL, rate_per_s=4.0)
    more = {**load, RequestClass.MM: replace(load[RequestClass.LL], rate_per_s=0.0)}
    for degree in (4, 8):
        asked = {"load": load, "tensor_parallel": degree}
        assert sizing.capacity_per_s(**asked) == sizing.capacity_per_s(load=more, tensor_parallel=degree) > 0
        assert sizing.ladder(**asked) == sizing.ladder(load=more, tensor_parallel=degree)


def test_at_a_pinned_clock_the_table_is_of_that_clock() -> None:
    pinned = ProfileSizing(profile=profile(MODERN), slo=SLO, clock_mhz=1305)
    load = mix(RequestClass.SM, RequestClass.LL, rate_per_s=4.0)
    assert pinned.ladder(load=load, tensor_parallel=4).safe_mhz == 1305
    assert not pinned.ladder(load=load, tensor_parallel=4).steps
    free = ProfileSizing(profile=profile(MODERN), slo=SLO)
    assert 0 < pinned.capacity_per_s(load=load, tensor_parallel=4) < free.capacity_per_s(load=load, tensor_parallel=4)
