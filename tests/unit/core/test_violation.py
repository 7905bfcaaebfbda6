"""The arrays of the closed form against the same formulae, one number at a time."""

from dataclasses import replace

import numpy as np
import pytest
from closed_form import Cell, random_load
from model_fixtures import MODERN, PAPER, SLO, profile

from dynamollm.core.capacity import capacity_table, single_mix
from dynamollm.core.ladder import ladder_clocks
from dynamollm.core.margins import margin
from dynamollm.core.pooling import gain
from dynamollm.core.records import Order, SloRule
from dynamollm.core.stream import Grid, Mixes, mixes_of
from dynamollm.core.violation import Misses, limits_of

DEGREES = (2, 4, 8)


def grid(name: str, mixes: Mixes) -> Grid:
    return Grid(profile(name), mixes, tensor_parallel=DEGREES, clocks_mhz=ladder_clocks(profile(name))[::7])


def mixes(rng: np.random.Generator, count: int) -> Mixes:
    """Mixes of the same classes, with some of them left out of each."""
    load = random_load(rng)
    rates = np.array([part.rate_per_s for part in load.values()])
    some = rng.random((count, rates.size)) < 0.6
    some[np.arange(count), rng.integers(0, rates.size, count)] = True
    return mixes_of(load, rates * some * rng.uniform(0.1, 5.0, (count, 1)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("rule", list(SloRule))
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_what_is_missed_is_what_the_formulae_say(name: str, rule: SloRule, order: Order, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = grid(name, mixes(rng, 4))
    stream, slo = cells.stream(), replace(SLO, rule=rule)
    misses = Misses(stream, limits_of(cells, slo, order))
    batch = stream.most * rng.uniform(0.005, 1.0, stream.most.size)
    found = misses.missed(stream.at_batch(batch))
    clocks = ladder_clocks(profile(name))[::7]
    points = [(tp, clock) for tp in DEGREES for clock in clocks]
    for cell, (mix, point) in enumerate(zip(stream.mix_of, stream.point_of, strict=True)):
        plain = Cell(profile(name), cells.mixes.load(mix), *points[point], batch=float(batch[cell]))
        # Single precision, and a probability near one has its error from that near zero.
        assert found[cell] == pytest.approx(plain.missed(slo, order), rel=2e-4, abs=3e-6)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_a_mix_carries_the_same_among_others_as_alone(name: str, order: Order) -> None:
    many = mixes(np.random.default_rng(7), 60)
    clocks = ladder_clocks(profile(name))[::7]
    at = {"slo": SLO, "order": order, "tensor_parallel": DEGREES, "clocks_mhz": clocks}
    together = capacity_table(profile(name), many, **at)
    for index in (0, 17, 59):
        one = single_mix(many.load(index))
        assert one is not None
        alone = capacity_table(profile(name), one, **at)
        assert together.alone_per_s[index] == pytest.approx(alone.alone_per_s[0], rel=1e-4)
        assert together.gain[index] == pytest.approx(alone.gain[0], rel=1e-4)


def test_what_is_carried_keeps_the_slo_and_a_little_more_does_not() -> None:
    many = mixes(np.random.default_rng(3), 20)
    cells = grid(MODERN, many)
    stream = cells.stream()
    limits = limits_of(cells, SLO, Order.FIRST_COME_FIRST_SERVED)
    table = capacity_table(
        profile(MODERN),
        many,
        slo=SLO,
        order=Order.FIRST_COME_FIRST_SERVED,
        tensor_parallel=DEGREES,
        clocks_mhz=ladder_clocks(profile(MODERN))[::7],
    )
    per_ms = table.alone_per_s.ravel() * margin(chunked=True, order=limits.order, rule=SLO.rule) / 1e3
    some = per_ms > 0
    assert some.mean() > 0.8
    misses = Misses(stream, limits)
    assert (misses.missed(stream.at_rate(per_ms))[some] <= limits.allowed * 1.001).all()
    more = stream.at_rate(per_ms * 1.2)
    full = more.batch >= stream.most * 0.999
    assert ((misses.missed(more) > limits.allowed) | full)[some].mean() > 0.95
    largest = stream.at_rate(per_ms)
    beyond = stream.at_batch(stream.full).per_ms[some] / largest.per_ms[some] - 1
    expected, _ = gain(
        largest.batch[some], full=beyond, chunked=True, order=Order.FIRST_COME_FIRST_SERVED, rule=SLO.rule
    )
    assert table.gain.ravel()[some] == pytest.approx(expected, rel=1e-3)
