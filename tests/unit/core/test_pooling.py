"""What a pool adds to its instances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.pooling import Capacities, gain
from dynamollm.core.records import Order, SloRule

some = st.floats(0.01, 100.0)
gains = st.floats(0.0, 3.0)


IDLE = np.array(0.0)


def capacities(alone: float, more: float) -> Capacities:
    return Capacities(np.array([alone]), np.array([more]))


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("rule", list(SloRule))
def test_a_pool_gains_less_the_larger_the_batches(order: Order, rule: SloRule) -> None:
    for chunked in (True, False):
        found = gain(np.array([0.0, 1.0, 10.0, 100.0, 256.0]), busy=IDLE, chunked=chunked, order=order, rule=rule)
        assert np.all(np.diff(found) < 0)
        assert np.all((found > 0) & (found < 3.5))


@pytest.mark.parametrize(("busy", "most"), [(0.1, 1.5), (0.5, 0.8), (0.6, 0.5), (0.9, 0.0), (0.99, 0.0)])
def test_no_balancing_makes_an_instance_quicker(busy: float, most: float) -> None:
    order, rule = Order.FIRST_COME_FIRST_SERVED, SloRule.PER_REQUEST
    found = gain(np.zeros(1), busy=np.array([busy]), chunked=True, order=order, rule=rule)
    assert found == pytest.approx(most, abs=0.3 if busy < 0.2 else 1e-9)


def test_routers_that_balance_apart_leave_a_smaller_gain_each() -> None:
    left = [
        float(
            gain(
                np.array(2.0), busy=IDLE, chunked=True, order=Order.FIRST_COME_FIRST_SERVED, rule=rule, routers=routers
            )
        )
        for rule in (SloRule.PER_REQUEST,)
        for routers in (1, 2, 4, 8)
    ]
    assert [one / left[0] for one in left] == pytest.approx([1, 1 / 3, 1 / 7, 1 / 15])


@given(alone=some, more=gains, rate=some)
def test_the_smallest_pool_that_carries_a_load_is_the_smallest(alone: float, more: float, rate: float) -> None:
    one = capacities(alone, more)
    count = float(one.fewest(rate)[0])
    assert count * one.in_pool(count)[0] >= rate * (1 - 1e-9)
    if count > 1:
        assert (count - 1) * one.in_pool(count - 1)[0] <= rate * (1 + 1e-9)


@given(alone=some, more=gains, rate=some)
def test_as_many_instances_are_counted_from_what_each_carries(alone: float, more: float, rate: float) -> None:
    one = capacities(alone, more)
    assert np.ceil(rate / one.carrying(rate)[0] - 1e-9) == one.fewest(rate)[0]


@given(alone=some, more=gains, rates=st.tuples(some, some))
def test_more_load_never_means_less_capacity(alone: float, more: float, rates: tuple[float, float]) -> None:
    one = capacities(alone, more)
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
