"""Waits for whole prompts: what is left of one step, by the lengths of prompts, and those who share the next."""

from functools import cache, partial

import numpy as np
import pytest
from model_fixtures import MODERN, PAPER, SLO, profile

from dynamollm.core.capacity import capacity_per_s, grid_of, single_mix
from dynamollm.core.classes import RequestClass
from dynamollm.core.lengthspread import bounds_of, variation, within
from dynamollm.core.records import ClassLoad, Load, Order
from dynamollm.core.residual import Leftover, OneAhead
from dynamollm.core.stream import Grid
from dynamollm.core.violation import Misses, limits_of
from dynamollm.core.wait import Wait
from dynamollm.core.waiting import ahead, waits

AT = {"tensor_parallel": 4, "clock_mhz": 1395}
FEW_LONG: Load = {
    RequestClass("SS"): ClassLoad(0.8, 120.0, 60.0),
    RequestClass("LM"): ClassLoad(0.2, 3000.0, 200.0),
}
"""A few long prompts are what short ones wait for."""


def grid(load: Load, name: str = PAPER) -> Grid:
    mixes = single_mix(load)
    assert mixes is not None
    return grid_of(profile(name), mixes, tensor_parallel=(AT["tensor_parallel"],), clocks_mhz=(AT["clock_mhz"],))


def played(
    load: Load, *, per_ms: float, decode_ms: float, decoding: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Play the queue: return classes, and times to the first token without one's own prompt, ms."""
    rng = np.random.default_rng(5)
    classes = tuple(load)
    shares = np.array([part.rate_per_s for part in load.values()])
    of = rng.choice(len(classes), count, p=shares / shares.sum())
    means = np.array([part.input_tokens for part in load.values()])
    limits = bounds_of(classes)[0]
    tokens, weights = within(means, limits, most=8192.0)
    picked = np.stack([rng.choice(tokens[:, c], count, p=weights[:, c]) for c in range(len(classes))])[of, range(count)]
    prefill = cache(partial(profile(PAPER).prefill_ms, **AT))
    arrivals = np.cumsum(rng.exponential(1 / per_ms, count))
    waited = np.zeros(count)
    now, first = 0.0, 0
    while first < count:
        # A decode step, or as long nothing, unless somebody comes.
        now += decode_ms if rng.random() < decoding else min(decode_ms, max(arrivals[first] - now, 0.0))
        last = int(np.searchsorted(arrivals, now, side="right"))
        while last > first:
            some = picked[first:last]
            now += prefill(tokens=some.sum(), squared_tokens=(some**2).sum())
            for one in range(first, last):
                own = prefill(tokens=picked[one], squared_tokens=picked[one] ** 2)
                waited[one] = now - arrivals[one] - own
            first, last = last, int(np.searchsorted(arrivals, now, side="right"))
    return of, waited


@pytest.mark.parametrize("rate_per_s", [0.6, 1.2])
def test_waits_are_those_of_the_queue_played_out(rate_per_s: float) -> None:
    cells = grid(FEW_LONG)
    stream = cells.stream()
    state = stream.at_rate(np.full(1, rate_per_s / 1e3))
    misses = Misses(stream, limits_of(cells, SLO, Order.FIRST_COME_FIRST_SERVED))
    found = waits(stream, state, ahead(stream, np.zeros(2), Order.FIRST_COME_FIRST_SERVED))
    decoding = float(1 - np.exp(-state.batch[0]))
    of, waited = played(
        FEW_LONG, per_ms=rate_per_s / 1e3, decode_ms=float(state.decode_ms[0]), decoding=decoding, count=60_000
    )
    for slack_ms in (120.0, 250.0, 400.0):
        own_ms = misses._own_ms(state).astype(np.float32)
        expected = float(misses.late(state, found, own_ms + np.float32(slack_ms))[0])
        assert expected == pytest.approx(float((waited[of == 0] > slack_ms).mean()), rel=0.15, abs=3e-4)


@pytest.mark.parametrize("name", [MODERN, PAPER])
def test_an_order_has_something_to_choose_from_only_where_prompts_are_made_in_chunks(name: str) -> None:
    first_come, by_deadline = (
        capacity_per_s(profile(name), load=FEW_LONG, slo=SLO, order=order, **AT) for order in Order
    )
    assert (first_come == by_deadline) is (name == PAPER)
    assert by_deadline >= first_come > 0


def test_what_is_left_falls_with_the_slack_and_is_all_of_the_step_without_any() -> None:
    stream = grid(FEW_LONG).stream()
    nothing = np.zeros(1)
    leftover = Leftover(stream, OneAhead(np.full(1, 1e-3), np.full(1, 50.0), nothing, np.full(1, 30.0), np.ones(1)))
    slack = np.repeat(np.linspace(1e-3, 3000.0, 200, dtype=np.float32)[:, None], stream.cell_of.size, axis=1)
    over = leftover.over(slack)
    assert (np.diff(over, axis=0) <= 1e-9).all()
    mean_ms = stream.grid.mean_excess_ms[0].ravel()[0]
    assert mean_ms == pytest.approx(stream.added[0][0], rel=0.03)
    assert over[0] == pytest.approx(1e-3 * (mean_ms + 50.0), rel=1e-4)
    assert over[-1] == pytest.approx(0.0, abs=1e-5)


def test_one_more_who_comes_in_a_decode_step_is_waited_for_with_what_is_left_of_it() -> None:
    stream = grid({RequestClass("LM"): ClassLoad(1.0, 3000.0, 200.0)}).stream()
    one = np.ones(1)
    without, decode_ms = np.zeros(1), np.full(1, 40.0)
    alone, shared = (
        Leftover(stream, OneAhead(one * 1e-3, one * 50.0, decoding, decode_ms, one)) for decoding in (without, one)
    )
    shortly = np.full((1, 1), 1.0, np.float32)
    # Every prompt of the class takes longer than that: whoever comes with another one in a step waits for it.
    assert float((shared.over(shortly) - alone.over(shortly))[0, 0]) == pytest.approx(1e-3 * 40.0, rel=1e-3)


def test_a_prompt_beside_another_adds_what_alone_is_hidden() -> None:
    short, long = (
        float(grid({RequestClass(c): ClassLoad(1.0, tokens, 60.0)}).stream().beside[0])
        for c, tokens in (("MS", 400.0), ("LS", 5000.0))
    )
    assert short > 1.5
    assert 1.0 <= long < 1.1


def test_lengths_within_bounds_keep_their_mean_and_vary_as_classes_do() -> None:
    classes = (RequestClass("SS"), RequestClass("ML"), RequestClass("LL"))
    means, limits = np.array([130.0, 960.0, 2600.0]), bounds_of(classes)[0]
    tokens, weights = within(means, limits, most=8192.0)
    assert weights.sum(axis=0) == pytest.approx(np.ones(3))
    assert (weights * tokens).sum(axis=0) == pytest.approx(means, rel=0.02)
    assert (tokens >= limits[0]).all()
    assert (tokens <= limits[1]).all()
    varied = np.sqrt((weights * (tokens - means) ** 2).sum(axis=0)) / means
    assert varied == pytest.approx(variation(means, limits), rel=0.15)


def test_a_mean_outside_its_bounds_has_lengths_that_the_profile_holds() -> None:
    tokens, weights = within(np.array([6000.0]), bounds_of((RequestClass("SS"),))[0], most=8192.0)
    assert tokens.max() <= 8192.0
    assert (weights * tokens).sum() == pytest.approx(6000.0, rel=0.1)


def test_any_of_some_waits_has_their_probability_and_moments() -> None:
    one, other = (Wait(*(np.full(1, x) for x in of)) for of in ((0.1, 100.0, 20_000.0), (0.3, 20.0, 500.0)))
    both = Wait.any_of(one, other)
    assert float(both.probability[0]) == pytest.approx(0.4)
    assert float(both.mean[0]) == pytest.approx(40.0)
    assert float(both.square[0]) == pytest.approx((0.1 * 20_000 + 0.3 * 500) / 0.4)
    assert float(both.variance[0]) == pytest.approx(float(both.square[0]) - 1600.0)
