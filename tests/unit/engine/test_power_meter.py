"""What is published as means, interval by interval, adds up to the energy that was drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.engine.pacer import _PowerMeter

IDLE_W = 115.0
LOOK = "look"

GAPS = st.floats(0.001, 10.0)
"""Simulated seconds between two events: a step that begins, work that ends, a look at the meter."""
EVENTS = st.lists(st.tuples(GAPS, st.one_of(st.just(LOOK), st.none(), st.floats(120.0, 700.0))), max_size=60)


@given(events=EVENTS)
def test_means_add_up_to_what_was_drawn(events: list[tuple[float, str | float | None]]) -> None:
    meter = _PowerMeter(idle_w=IDLE_W)
    now_s = settled_s = drawn_j = published_j = 0.0
    power_w = IDLE_W
    for gap_s, event in (*events, (1.0, LOOK)):
        now_s += gap_s
        drawn_j += power_w * gap_s
        if event == LOOK:
            mean_w, busy_percent = meter.settle(now_s)
            assert 0.0 <= busy_percent <= 100.0
            published_j += mean_w * (now_s - settled_s)
            settled_s = now_s
        else:
            if meter.at_rest:
                # Until here the idle power that was published last has held.
                published_j += IDLE_W * (now_s - settled_s)
                settled_s = now_s
            meter.draws(event, since_s=now_s)  # type: ignore[arg-type] # the word is handled above
            power_w = IDLE_W if event is None else event  # type: ignore[assignment]
    assert published_j == pytest.approx(drawn_j, rel=1e-9)


def test_it_rests_after_one_look_without_work() -> None:
    meter = _PowerMeter(idle_w=IDLE_W)
    assert meter.at_rest
    meter.draws(400.0, since_s=1.0)
    meter.draws(None, since_s=2.0)
    assert meter.settle(3.0) == (pytest.approx((400.0 + IDLE_W) / 2), pytest.approx(50.0))
    assert not meter.at_rest
    assert meter.settle(4.0) == (IDLE_W, 0.0)
    assert meter.at_rest
