"""What the simulated operator reads of the router's counters."""

import numpy as np

from dynamollm.core.classes import RequestClass
from dynamollm.simulator.fleet_state import PREDICTED_TALLY
from dynamollm.simulator.history import BUCKET_S, RouterMetrics

SS, LL = 0, 8


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
