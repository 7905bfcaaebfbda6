"""What is asked of Prometheus and kept: two weeks within its limits, no holes from failures, clocks that jump."""

from math import isnan

import pytest

from dynamollm.adapters.loadgrid import LoadGrid
from dynamollm.adapters.promclient import PrometheusError, Series
from dynamollm.core.classes import RequestClass

SS = RequestClass.SS
LIMIT = 11_000
"""Points that Prometheus gives in one answer."""


class Source:
    """Answers every bucket with its number, from a first one on."""

    def __init__(self, *, step_s: float, first: int = 0) -> None:
        self.step_s, self.first = step_s, first
        self.asked: list[tuple[int, int]] = []
        self.broken = False

    def __call__(self, start_s: float, end_s: float) -> list[Series]:
        if self.broken:
            raise PrometheusError("PrometheusTimeout", "too slow")
        start, end = round(start_s / self.step_s), round(end_s / self.step_s)
        self.asked.append((start, end))
        points = tuple((index * self.step_s, float(index)) for index in range(max(start, self.first), end + 1))
        return [Series(labels={"class": "SS"}, points=points)]


@pytest.mark.parametrize(
    ("step_s", "keep_s", "queries"), [(60.0, 74 * 3600.0, 1), (300.0, 15 * 86_400.0, 1), (60.0, 15 * 86_400.0, 3)]
)
def test_each_query_stays_within_the_limit_and_only_the_first_is_long(
    step_s: float, keep_s: float, queries: int
) -> None:
    source, grid = Source(step_s=step_s), LoadGrid(step_s, keep_s=keep_s)
    now_s = 40 * 86_400.0
    assert grid.extend(until_s=now_s, fetch=source)
    assert len(source.asked) == queries
    assert max(end - start + 1 for start, end in source.asked) <= LIMIT
    assert grid.size == int(keep_s / step_s)
    assert not grid.extend(until_s=now_s + step_s / 2, fetch=source)
    assert grid.extend(until_s=now_s + step_s, fetch=source)
    assert source.asked[queries:] == [(grid.end, grid.end)]
    assert grid.size == int(keep_s / step_s)


def test_what_was_before_the_first_measurement_is_left_out_and_gaps_are_no_zero() -> None:
    source, grid = Source(step_s=60.0, first=95), LoadGrid(60.0, keep_s=6000.0)
    grid.extend(until_s=6000.0, fetch=source)
    assert list(grid.rates[SS]) == [95.0, 96.0, 97.0, 98.0, 99.0, 100.0]
    assert list(grid.rates[RequestClass.LL]) == [0.0] * 6
    grid.extend(until_s=6120.0, fetch=lambda _start, _end: [])
    assert [isnan(value) for value in grid.rates[SS]] == [False] * 6 + [True] * 2
    assert grid.newest_s == 6000.0


def test_a_query_that_fails_leaves_no_hole() -> None:
    source, grid = Source(step_s=60.0), LoadGrid(60.0, keep_s=6000.0)
    grid.extend(until_s=600.0, fetch=source)
    source.broken = True
    with pytest.raises(PrometheusError):
        grid.extend(until_s=900.0, fetch=source)
    source.broken = False
    grid.extend(until_s=960.0, fetch=source)
    assert list(grid.rates[SS])[-6:] == [11.0, 12.0, 13.0, 14.0, 15.0, 16.0]


def test_a_clock_that_is_set_back_forgets_the_future_and_goes_on() -> None:
    source, grid = Source(step_s=60.0), LoadGrid(60.0, keep_s=6000.0)
    grid.extend(until_s=6000.0, fetch=source)
    assert grid.extend(until_s=3000.0, fetch=source)
    assert (grid.end_s, grid.rates[SS][-1]) == (3000.0, 50.0)
    grid.extend(until_s=3060.0, fetch=source)
    assert list(grid.rates[SS])[-2:] == [50.0, 51.0]
    # Even to before everything that is known.
    grid.extend(until_s=60.0, fetch=source)
    assert grid.newest_s in (None, 60.0)


def test_a_clock_that_jumps_ahead_leaves_nothing_of_before() -> None:
    source, grid = Source(step_s=60.0), LoadGrid(60.0, keep_s=600.0)
    grid.extend(until_s=600.0, fetch=source)
    grid.extend(until_s=60_000.0, fetch=source)
    assert list(grid.rates[SS]) == [float(index) for index in range(991, 1001)]


def test_copies_are_nobody_elses() -> None:
    source, grid = Source(step_s=60.0), LoadGrid(60.0, keep_s=600.0)
    grid.extend(until_s=600.0, fetch=source)
    copies = grid.copies()
    grid.extend(until_s=660.0, fetch=source)
    assert len(copies[SS]) == 10
    assert copies[SS][-1] == 10.0


def test_copies_are_of_all_or_of_the_newest() -> None:
    grid = LoadGrid(60.0, keep_s=600.0)
    grid.extend(until_s=600.0, fetch=Source(step_s=60.0))
    assert list(grid.copies()[SS]) == [float(index) for index in range(1, 11)]
    assert list(grid.copies(2)[SS]) == [9.0, 10.0]
    assert list(grid.copies(0)[SS]) == []


def test_an_operator_that_starts_again_asks_for_what_the_one_before_had() -> None:
    source = Source(step_s=60.0, first=30)
    old = LoadGrid(60.0, keep_s=6000.0)
    for minute in range(20, 161):
        old.extend(until_s=60.0 * minute, fetch=source)
    new = LoadGrid(60.0, keep_s=6000.0)
    new.extend(until_s=60.0 * 160, fetch=source)
    assert new.copies() == old.copies()
    assert new.end_s == old.end_s
