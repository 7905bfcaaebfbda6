"""The cheapest cover among a few options, against enumeration."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.cover import MOST_LOOKS, Priced, least_cover

CLASSES = 3
OPTIONS = st.lists(st.tuples(st.integers(1, 7), st.floats(1.0, 9.0), st.integers(1, 3)), min_size=1, max_size=9)


def priced(options: Sequence[tuple[int, float, int]], *, upper: float) -> Priced:
    mask = np.array([one[0] for one in options])
    cost = np.array([one[1] for one in options])
    # Without prices: nothing costs less than nothing.
    return Priced(mask=mask, cost=cost, priced=cost, rest=np.zeros(1 << CLASSES), credit=0.0, upper=upper)


@given(options=OPTIONS, room=st.integers(2, 6), pools=st.none() | st.integers(1, 3))
def test_the_cheapest_cover_is_that_of_enumeration(
    options: list[tuple[int, float, int]], room: int, pools: int | None
) -> None:
    def allowed(chosen: Sequence[int]) -> bool:
        return sum(options[one][2] for one in chosen) <= room

    covers = [
        chosen
        for size in range(1, CLASSES + 1)
        for chosen in itertools.combinations(range(len(options)), size)
        if sum(options[one][0] for one in chosen) == 7
        and not any(options[a][0] & options[b][0] for a, b in itertools.combinations(chosen, 2))
        and pools in {None, size}
        and allowed(chosen)
    ]
    found = least_cover(priced(options, upper=100.0), allowed=allowed, pools=pools)
    if not covers:
        assert found is None
        return
    assert found is not None
    least = min(sum(options[one][1] for one in chosen) for chosen in covers)
    assert tuple(found) in covers
    assert sum(options[one][1] for one in found) == pytest.approx(least)


def test_what_takes_too_long_is_for_the_solver() -> None:
    many = [(mask, 1.0, 1) for mask in (1, 2, 4) for _ in range(MOST_LOOKS)]
    assert least_cover(priced(many, upper=100.0), allowed=lambda _chosen: False, pools=None) is None
