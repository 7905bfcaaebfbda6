"""What the SLO is judged by, and how the table shows it."""

from typing import Any

import numpy as np
import pytest

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Slo, SloRule
from dynamollm.simulator.fleet_state import new_fleet
from dynamollm.simulator.state import GAP_BINS, GAP_RATIO
from dynamollm.simulator.verdict import Percentile, Verdict, judge

SLO = Slo(
    ttft_ms=dict.fromkeys(RequestClass, 400.0),
    tbt_ms=dict.fromkeys(RequestClass, 100.0),
    rule=SloRule.PER_CLASS_PERCENTILE,
)
REQUESTS = 1000


def bin_of(ms: float) -> int:
    return int(np.log(ms) / np.log(GAP_RATIO))


def judged(
    *, ttft_ms: dict[str, float], gap_ms: dict[str, float] | None = None, failed: dict[str, int] | None = None
) -> Verdict:
    """Judge a thousand requests of each of these classes, all with the same latency but for those that failed."""
    classes = len(RequestClass)
    fleet = new_fleet(
        instances=1,
        pools=1,
        ttft_slo_ms=np.full(classes, 400.0),
        tbt_slo_ms=np.full(classes, 100.0),
        by_deadline=False,
        alone_row=0,
        alone_chunk=0,
    )
    gaps = np.zeros((classes, GAP_BINS), np.int64)
    for index, request_class in enumerate(RequestClass):
        if request_class.value in ttft_ms:
            served = REQUESTS - (failed or {}).get(request_class.value, 0)
            fleet.by_class["requests"][index] = REQUESTS
            fleet.ttft[index, bin_of(ttft_ms[request_class.value])] = served
            gaps[index, bin_of((gap_ms or {}).get(request_class.value, 20.0))] = 50 * served
    return judge(fleet, gaps, SLO)


CASES: list[tuple[dict[str, Any], tuple[str, str, float], bool]] = [
    ({"ttft_ms": {"SS": 100.0, "LL": 300.0}}, ("LL", "ttft", 300.0), True),
    ({"ttft_ms": {"SS": 500.0, "LL": 900.0}}, ("LL", "ttft", 900.0), False),
    ({"ttft_ms": {"SS": 100.0, "LL": 300.0}, "gap_ms": {"SS": 150.0}}, ("SS", "token_gap", 150.0), False),
    # Nine of a thousand fail: they are among the hundredth that may.
    ({"ttft_ms": {"SS": 100.0}, "failed": {"SS": 9}}, ("SS", "ttft", 100.0), True),
    ({"ttft_ms": {"SS": 100.0, "LL": 900.0}, "failed": {"SS": 11}}, ("SS", "ttft", np.inf), False),
]


@pytest.mark.parametrize(("latencies", "worst", "meets"), CASES, ids=str)
def test_the_worst_percentile_of_a_class_is_what_the_rule_is_judged_by(
    latencies: dict[str, Any], worst: tuple[str, str, float], *, meets: bool
) -> None:
    found = judged(**latencies)
    assert isinstance(found.worst, Percentile)
    assert (found.worst.request_class, found.worst.latency) == worst[:2]
    assert found.worst.ms == pytest.approx(worst[2], rel=0.02)
    assert found.meets_slo is meets
    assert (found.worst.ms <= found.worst.limit_ms) is meets


def test_nobody_who_asks_nothing_misses_anything() -> None:
    found = judged(ttft_ms={})
    assert (found.worst, found.meets_slo) == (None, True)
