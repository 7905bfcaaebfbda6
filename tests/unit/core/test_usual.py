"""Where the search begins for many mixes: it finds the same as from anywhere else, and sooner."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from model_fixtures import MODERN, PAPER, SLO
from test_violation import grid, mixes

from dynamollm.core.capacity import capacities
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.largest import largest
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.records import Order, SloRule
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import Mixes, mixes_of
from dynamollm.core.usual import MANY, usual_guess
from dynamollm.core.violation import Misses, limits_of

FCFS = Order.FIRST_COME_FIRST_SERVED
ALL = tuple(RequestClass)


def subsets(classes: tuple[RequestClass, ...], rng: np.random.Generator, *, noise: float) -> Mixes:
    """Return all subsets of these classes, with about the usual shares and lengths."""
    lengths = typical_lengths(ClassBoundaries())
    share = np.array([PRIOR_SHARE[c] for c in classes]) * np.exp(noise * rng.standard_normal(len(classes)))
    member = np.arange(1, 1 << len(classes))[:, None] >> np.arange(len(classes)) & 1
    parts = {c: replace(lengths[c], input_tokens=lengths[c].input_tokens * np.exp(noise / 3)) for c in classes}
    return mixes_of(parts, member * share)


@pytest.fixture
def cells_asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many cells are looked at."""
    asked: Counter[str] = Counter()
    missed = Misses.missed

    def counted(self: Misses, s: State) -> Floats:
        asked["cells"] += s.batch.size
        return missed(self, s)

    monkeypatch.setattr(Misses, "missed", counted)
    return asked


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("rule", list(SloRule))
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_the_search_finds_the_same_from_there(name: str, rule: SloRule, order: Order) -> None:
    # Shares and lengths that have nothing usual.
    cells = grid(name, mixes(np.random.default_rng(21), 80))
    limits = limits_of(cells, replace(SLO, rule=rule), order)
    stream = cells.stream()
    expected, found = largest(stream, limits), largest(stream, limits, usual_guess(stream, limits))
    assert (found.never == expected.never).all()
    error = np.abs(np.log(found.share / expected.share))[~found.never]
    assert np.median(error) < 1e-4
    assert np.percentile(error, 99) < 5e-3


@pytest.mark.parametrize("classes", [ALL, ALL[2:]], ids=["all", "seven"])
def test_usual_mixes_are_found_in_two_evaluations(classes: tuple[RequestClass, ...], cells_asked: Counter[str]) -> None:
    cells = grid(MODERN, subsets(classes, np.random.default_rng(22), noise=0.0))
    limits = limits_of(cells, SLO, FCFS)
    stream = cells.stream()
    guess = usual_guess(stream, limits)
    cells_asked.clear()
    largest(stream, limits, guess)
    assert cells_asked["cells"] < 2.1 * stream.mix_of.size


def test_a_table_of_many_mixes_begins_there(cells_asked: Counter[str]) -> None:
    many = subsets(ALL, np.random.default_rng(23), noise=0.1)
    stream = grid(MODERN, many).stream()
    limits = limits_of(stream.grid, SLO, FCFS)
    largest(stream, limits)
    without = cells_asked["cells"]
    # The first time it is worked out what is usual.
    capacities(stream, slo=SLO, order=FCFS)
    cells_asked.clear()
    capacities(stream, slo=SLO, order=FCFS)
    assert cells_asked["cells"] < 0.75 * without
    few = replace(many, rate_per_s=many.rate_per_s[:MANY])
    cells_asked.clear()
    capacities(grid(MODERN, few).stream(), slo=SLO, order=FCFS)
    alone = cells_asked["cells"]
    cells_asked.clear()
    largest(grid(MODERN, few).stream(), limits_of(grid(MODERN, few), SLO, FCFS))
    assert cells_asked["cells"] == alone


def test_what_a_guess_says_of_no_class_is_never_asked_for() -> None:
    # A mix of nothing counts as one of everything.
    nothing = mixes(np.random.default_rng(24), 3)
    nothing.rate_per_s[1] = 0.0
    stream = grid(MODERN, nothing).stream()
    guess = usual_guess(stream, limits_of(stream.grid, SLO, FCFS))
    assert np.isfinite(guess.logarithm).all()
    assert (guess.logarithm <= 0).all()
    assert (guess.slope > 0).all()
