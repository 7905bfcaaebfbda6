"""What a pool adds to its instances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.pooling import Capacities, gain
from dynamollm.core.records import Order, SloRule

some = st.floats(0.01, 100.0)
gains = st.floats(0.0, 3.0)
halves = st.floats(0.5, 5.0)


ENDLESS = np.array(1e9)


def capacities(alone: float, more: float, half_at: float = 1.0) -> Capacities:
    return Capacities(np.array([alone]), np.array([more]), half_at)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("rule", list(SloRule))
def test_a_pool_gains_less_the_larger_the_batches(order: Order, rule: SloRule) -> None:
    for chunked in (True, False):
        found, _ = gain(np.array([0.0, 1.0, 10.0, 100.0, 256.0]), full=ENDLESS, chunked=chunked, order=order, rule=rule)
        assert np.all(np.diff(found) < 0) or (np.ptp(found) == 0 and not chunked)
        assert np.all((found > 0) & (found < 10.0))


@pytest.mark.parametrize("rule", list(SloRule))
@pytest.mark.parametrize("full", [0.0, 0.01, 0.5, 3.0])
def test_no_balancing_makes_an_instance_quicker(full: float, rule: SloRule) -> None:
    order = Order.FIRST_COME_FIRST_SERVED
    found, _ = gain(np.array([0.0, 2.0, 50.0]), full=np.full(3, full), chunked=True, order=order, rule=rule)
    assert np.all(found <= full + 1e-9)


def test_half_of_the_gain_is_there_with_so_many_others() -> None:
    one = capacities(2.0, 0.5, half_at=3.0)
    assert one.in_pool(np.array([1, 4, 1_000_000])) == pytest.approx([2.0, 2.5, 3.0], rel=1e-5)


def test_routers_that_balance_apart_leave_a_smaller_gain_each() -> None:
    order, rule = Order.FIRST_COME_FIRST_SERVED, SloRule.PER_REQUEST
    left = [
        float(gain(np.array(2.0), full=ENDLESS, chunked=True, order=order, rule=rule, routers=routers)[0])
        for routers in (1, 2, 4, 8)
    ]
    assert [one / left[0] for one in left] == pytest.approx([1, 1 / 3, 1 / 7, 1 / 15])


@given(alone=some, more=gains, half_at=halves, rate=some)
def test_the_smallest_pool_that_carries_a_load_is_the_smallest(
    alone: float, more: float, half_at: float, rate: float
) -> None:
    one = capacities(alone, more, half_at)
    count = float(one.fewest(rate)[0])
    assert count * one.in_pool(count)[0] >= rate * (1 - 1e-9)
    if count > 1:
        assert (count - 1) * one.in_pool(count - 1)[0] <= rate * (1 + 1e-9)


@given(alone=some, more=gains, half_at=halves, rate=some)
def test_as_many_instances_are_counted_from_what_each_carries(
    alone: float, more: float, half_at: float, rate: float
) -> None:
    one = capacities(alone, more, half_at)
    assert np.ceil(rate / one.carrying(rate)[0] - 1e-9) == one.fewest(rate)[0]


@given(alone=some, more=gains, half_at=halves, rates=st.tuples(some, some))
def test_more_load_never_means_less_capacity(
    alone: float, more: float, half_at: float, rates: tuple[float, float]
) -> None:
    one = capacities(alone, more, half_at)
    low, high = sorted(rates)
    assert one.carrying(low)[0] <= one.carrying(high)[0] * (1 + 2e-6)
    assert one.fewest(low)[0] <= one.fewest(high)[0]


def test_who_carries_nothing_alone_carries_nothing_in_a_pool() -> None:
    none = capacities(0.0, 1.0)
    assert none.fewest(1.0)[0] == np.inf
    assert none.carrying(1.0)[0] == 0.0


def test_a_load_of_nothing_asks_for_one_instance() -> None:
    assert capacities(2.0, 0.5).fewest(0.0)[0] == 1
    assert capacities(2.0, 0.5).carrying(0.0)[0] == 2.0


@given(reserve=st.floats(0.5, 1.0), instances=st.integers(1, 200), share=st.floats(0.0, 3.0))
def test_a_reserve_below_one_is_of_pools_alone(reserve: float, instances: int, share: float) -> None:
    found = Capacities(np.array([2.0]), np.array([share]), 1.7)
    less = found.less(reserve)
    assert less.in_pool(1) == found.in_pool(1)
    # Never more than so many times what simulated pools carry.
    assert found.in_pool(instances) <= less.in_pool(instances) * (1 + 1e-12)
    assert less.in_pool(instances) <= found.in_pool(instances) / reserve * (1 + 1e-12)
    assert less.in_pool(10**9) == pytest.approx(found.in_pool(10**9) / reserve, rel=1e-6)
    # Without a jump from what is kept in reserve to what is not.
    assert found.less(1.0).in_pool(instances) == pytest.approx(found.in_pool(instances))
    # The same of pools alone, beside a reserve of all.
    assert found.less(1.2, pooled=reserve).in_pool(instances) == pytest.approx(less.in_pool(instances) / 1.2)
