"""The cheapest pools with so many instances at least, against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_partition import partitions

from dynamollm.core.floor import least_with

MOST = 3


@given(data=st.data(), classes=st.integers(1, 3), instances=st.integers(1, 5))
def test_the_cheapest_pools_with_enough_instances_are_those_of_enumeration(
    data: st.DataObject, classes: int, instances: int
) -> None:
    own = st.floats(1.0, 9.0) | st.just(np.inf)
    cost = np.array([[data.draw(own) for _ in range(1 << classes)] for _ in range(MOST)])
    # More instances than are asked for are instances enough.
    cost = np.minimum.accumulate(cost[::-1])[::-1]
    found = least_with(cost, instances)
    plans = [
        sum(float(cost[count - 1, mask]) for mask, count in zip(parts, counts, strict=True))
        for parts in partitions(list(range(classes)))
        for counts in itertools.product(range(1, MOST + 1), repeat=len(parts))
        if sum(counts) >= instances
    ]
    if not np.isfinite(min(plans, default=np.inf)):
        assert found is None
        return
    assert found is not None
    least, pools = found
    assert least == pytest.approx(min(plans))
    assert sum(mask for mask, _ in pools) == (1 << classes) - 1
    assert sum(count for _, count in pools) >= instances
    assert sum(float(cost[count - 1, mask]) for mask, count in pools) == pytest.approx(least)
