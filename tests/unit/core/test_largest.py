"""The largest batch that keeps the SLO, against halving the bracket thirty times."""

import math
from dataclasses import replace

import numpy as np
import pytest
from model_fixtures import MODERN, PAPER, SLO
from test_violation import grid, mixes

from dynamollm.core.largest import largest
from dynamollm.core.records import Order, SloRule
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import Stream
from dynamollm.core.violation import Limits, Misses, limits_of


def halved(stream: Stream, limits: Limits) -> tuple[Floats, Floats]:
    """Logarithms of the batches, and whether the least one misses the SLO."""
    misses = Misses(stream, limits)

    def kept(logarithm: Floats) -> Floats:
        return misses.missed(stream.at_batch(stream.most * np.exp(logarithm))) <= limits.allowed

    low, high = np.full_like(stream.most, math.log(1e-3)), np.zeros_like(stream.most)
    never, always = ~kept(low), kept(high)
    for _ in range(30):
        middle = (low + high) / 2
        less = kept(middle)
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return np.where(always, 0.0, low), never


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("rule", list(SloRule))
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_the_search_finds_what_halving_finds(name: str, rule: SloRule, order: Order) -> None:
    cells = grid(name, mixes(np.random.default_rng(11), 60))
    limits = limits_of(cells, replace(SLO, rule=rule), order)
    expected, never = halved(cells.stream(), limits)
    found = largest(cells.stream(), limits)
    assert (found.never == never).all()
    error = np.abs(np.log(found.share) - expected)[~never]
    assert np.median(error) < 1e-4
    assert np.percentile(error, 99) < 5e-3
    assert error.max() < 0.05


def test_where_nothing_may_be_missed_nearly_nothing_is() -> None:
    cells = grid(MODERN, mixes(np.random.default_rng(12), 10))
    limits = limits_of(cells, replace(SLO, percentile=100.0), Order.FIRST_COME_FIRST_SERVED)
    stream = cells.stream()
    found = largest(stream, limits)
    missed = Misses(stream, limits).missed(stream.at_batch(stream.most * found.share))
    # In single precision.
    assert (missed[~found.never] < 1e-6).all()
