"""What the simulated operator reads of the router's counters."""

import numpy as np

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Attainment
from dynamollm.simulator.fleet_state import PREDICTED_TALLY
from dynamollm.simulator.history import BUCKET_S, RouterMetrics

SS, LL = 0, 8


def test_attainment_is_of_two_minutes_and_of_half_an_hour_and_absent_where_no_request_ended() -> None:
    metrics, counters = RouterMetrics(), np.zeros(len(RequestClass), PREDICTED_TALLY)
    for minute in range(1, 11):
        counters = counters.copy()
        counters["judged"][SS] += 100
        counters["met"][SS] += 100 if minute != 8 else 60
        metrics.add(counters, end_s=minute * BUCKET_S)
        missed = {1: (100.0, 100.0), 8: (200.0, 160.0), 9: (200.0, 160.0)}.get(minute, (200.0, 200.0))
        assert metrics.attainment == {RequestClass.SS: Attainment(*missed)}
    assert metrics.settled_attainment == {RequestClass.SS: Attainment(1000.0, 960.0)}
    for minute in range(11, 41):
        counters = counters.copy()
        counters["judged"][SS] += 100
        counters["met"][SS] += 100
        metrics.add(counters, end_s=minute * BUCKET_S)
    assert metrics.settled_attainment == {RequestClass.SS: Attainment(3000.0, 3000.0)}


def test_shares_of_brief_answers_are_of_the_last_half_hour_and_absent_where_nobody_was_answered() -> None:
    metrics, counters = RouterMetrics(), np.zeros(len(RequestClass), PREDICTED_TALLY)
    for minute in range(1, 61):
        counters = counters.copy()
        counters["arrivals"][[SS, LL]] += 10
        counters["completions"][SS] += 8
        counters["output_tokens"][SS] += 8 * 40
        # None in the first half hour, then a quarter.
        counters["brief"][SS] += 2 if minute > 30 else 0
        metrics.add(counters, end_s=minute * BUCKET_S)
        assert metrics.history is not None
        if minute == 30:
            assert metrics.history.brief_share == {RequestClass.SS: 0.0}
    assert metrics.history.brief_share == {RequestClass.SS: 0.25}
