"""Who may hold what of a shared budget."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.arbitration import Claim, share


def claim(name: str, priority: int, held: float, wanted: float = 0.0, floor: float = 0.0) -> Claim:
    return Claim(key=("llm", name), priority=priority, held=held, wanted=wanted, floor=floor)


CASES = [
    # mine, others, free, what I may hold
    ("alone", claim("a", 0, 8), [], 16, 24),
    ("equals keep what they hold", claim("a", 0, 8, wanted=32), [claim("b", 0, 24)], 0, 8),
    ("what is free is for whoever comes first", claim("a", 0, 8), [claim("b", 0, 8, wanted=24)], 8, 16),
    ("what is free is wanted by a higher one", claim("a", 0, 8), [claim("b", 1, 8, wanted=12)], 8, 12),
    ("a lower one gives back", claim("a", 0, 16, floor=4), [claim("b", 1, 8, wanted=16)], 0, 8),
    ("down to its floor", claim("a", 0, 16, floor=12), [claim("b", 1, 8, wanted=32)], 0, 12),
    ("the lowest gives first", claim("a", 1, 16), [claim("b", 2, 8, wanted=16), claim("c", 0, 16)], 0, 16),
    ("then the next", claim("a", 1, 16), [claim("b", 2, 8, wanted=16), claim("c", 0, 4)], 0, 12),
    ("of equals the later name first", claim("a", 0, 16), [claim("b", 1, 8, wanted=16), claim("c", 0, 16)], 0, 16),
    ("and the earlier one what is left", claim("a", 0, 16), [claim("b", 1, 8, wanted=32), claim("c", 0, 16)], 0, 8),
    ("the highest never gives", claim("a", 2, 16), [claim("b", 1, 8, wanted=99)], 0, 16),
    ("a lowered budget is kept by the lowest", claim("a", 0, 16), [claim("b", 1, 16)], -8, 8),
    ("not by the highest", claim("b", 1, 16), [claim("a", 0, 16)], -8, 16),
]


@pytest.mark.parametrize(
    ("mine", "others", "free", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_shares(mine: Claim, others: list[Claim], free: float, expected: float) -> None:
    assert share(mine, others, free=free) == expected


QUANTITY = st.integers(0, 64)
CLAIMS = st.lists(st.tuples(st.integers(0, 3), QUANTITY, QUANTITY, QUANTITY), min_size=1, max_size=6).map(
    lambda rows: [
        claim(f"s{index}", priority, held, wanted, min(held, floor))
        for index, (priority, held, wanted, floor) in enumerate(rows)
    ]
)


def shares(claims: list[Claim], free: float) -> list[float]:
    return [share(mine, [other for other in claims if other is not mine], free=free) for mine in claims]


@given(CLAIMS, st.integers(-32, 64))
def test_nobody_falls_below_its_floor_or_is_given_what_is_not_there(claims: list[Claim], free: float) -> None:
    for mine, got in zip(claims, shares(claims, free), strict=True):
        assert mine.floor <= got <= mine.held + max(0, free)


@given(CLAIMS, st.integers(-32, 64))
def test_what_is_given_back_is_what_is_asked_for_and_no_more(claims: list[Claim], free: float) -> None:
    top = max(one.priority for one in claims)
    unmet = max(0, sum(one.unmet for one in claims if one.priority == top) - free)
    below = [one for one in claims if one.priority < top]
    # Only the highest want anything: then what the others give is what is missing, as far as they can.
    quiet = [one if one.priority == top else replace(one, wanted=0.0) for one in claims]
    given_back = sum(
        max(0.0, one.held - got) for one, got in zip(quiet, shares(quiet, free), strict=True) if one.priority < top
    )
    assert given_back == min(unmet, sum(one.spare for one in below))


@given(CLAIMS, st.integers(0, 64))
def test_once_the_lower_ones_have_given_a_higher_one_gets_it(claims: list[Claim], free: float) -> None:
    top = max(claims, key=lambda one: (one.priority, one.wanted))
    claims = [one if one is top else replace(one, wanted=0.0) for one in claims]
    for _ in range(len(claims)):  # each in turn goes to its share, and what it gives is free
        for index, mine in enumerate(claims):
            got = min(mine.held, share(mine, [one for one in claims if one is not mine], free=free))
            free += mine.held - got
            claims[index] = replace(mine, held=got)
    highest = next(one for one in claims if one.key == top.key)
    lower = [one for one in claims if one.priority < highest.priority]
    others = [one for one in claims if one is not highest]
    reachable = share(highest, others, free=free)
    assert reachable >= highest.wanted or all(one.spare == 0 for one in lower)
