"""What the SLO is judged by, and how the table shows it."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Slo, SloRule
from dynamollm.simulator.fleet_state import new_fleet
from dynamollm.simulator.state import GAP_BINS, GAP_RATIO
from dynamollm.simulator.table import table_of
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


def shown(rule: str, *, width: int = 200, **result: Any) -> str:
    answer = {
        "settings": {},
        "result": {
            "policy": "SinglePoolElastic",
            "order": "fcfs",
            "energy_kwh": 12.34,
            "servers": 3.2,
            "cost_usd": 64.0,
            "carbon_kg": 3.1,
            "failed": 246,
            "reconfigurations": 12345,
            "meets_slo": True,
            "slo_attainment": {"total": 0.9968, "within_five": 0.9812},
            "worst_percentile": None,
            **result,
        },
    }
    text = io.StringIO()
    Console(file=text, width=width).print(table_of([answer], title="hour.csv", rule=rule))
    return text.getvalue()


GAP = {"class": "MM", "latency": "token_gap", "percentile": 99.0, "ms": 131.2, "limit_ms": 100.0}


@pytest.mark.parametrize(
    ("rule", "result", "words"),
    [
        ("att", {}, "99.68 %"),
        ("att", {"meets_slo": False}, "99.68 % MISSED"),
        ("x5", {"meets_slo": False}, "98.12 % MISSED"),
        ("p99", {"meets_slo": False, "worst_percentile": GAP}, "MM gap P99 131 of 100 ms MISSED"),
        ("p99", {"worst_percentile": {**GAP, "latency": "ttft", "ms": 84.6}}, "MM TTFT P99 85 of 100 ms"),
        ("p99", {"meets_slo": False, "worst_percentile": {**GAP, "ms": None}}, "MM gap P99: too many failed MISSED"),
        ("p99", {}, "no requests"),
    ],
)
def test_the_table_shows_the_figure_that_the_rule_looks_at(rule: str, result: dict[str, Any], words: str) -> None:
    assert words in shown(rule, **result)


def test_no_figure_is_cut_in_eighty_columns() -> None:
    text = shown("p99", width=80, meets_slo=False, worst_percentile=GAP)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for figure in ("12.34", "3.2", "64.00", "3.10", "246", "12345", "131", "100", "MISSED", "failed", "changes"):
        assert figure in text
