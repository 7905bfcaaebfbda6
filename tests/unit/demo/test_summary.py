import pytest

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.records import Slo
from lab.demo.summary import Summary, Tally, percentile


def tally() -> Tally:
    slo = Slo(ttft_ms=dict.fromkeys(RequestClass, 250.0), tbt_ms=dict.fromkeys(RequestClass, 100.0))
    return Tally(slo=slo, boundaries=ClassBoundaries())


def result(**changes: object) -> dict[str, object]:
    good = {"input_tokens": 10, "output_tokens": 10, "ok": True, "lag_ms": 0.0, "ttft_ms": 250.0, "tbt_ms": 100.0}
    good |= {"stretched_ttft_ms": 300.0, "stretched_tbt_ms": 100.0}
    return good | changes


@pytest.mark.parametrize(
    ("changes", "met", "failed"),
    [
        ({}, 1, 0),
        ({"ttft_ms": 250.1}, 0, 0),
        ({"tbt_ms": 100.1}, 0, 0),
        ({"ok": False, "error": "503"}, 0, 1),
    ],
)
def test_each_request_is_judged_by_its_own_slo(changes: dict[str, object], met: int, failed: int) -> None:
    counted = tally()
    counted.add(result(**changes))
    assert (counted.requests, counted.failed, counted.attainment) == (1, failed, met)
    assert counted.attainment_stretched == 0


def test_a_request_counts_for_its_true_class() -> None:
    counted = tally()
    counted.add(result(input_tokens=1024, output_tokens=350))
    assert counted.classes[RequestClass.LL].requests == 1


def test_nothing_yet_is_unknown_and_not_zero() -> None:
    assert tally().attainment is None
    assert tally().classes[RequestClass.SS].attainment is None
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 51.0), (0.99, 100.0), (1.0, 100.0)])
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_the_document_has_what_programs_read() -> None:
    counted = tally()
    counted.add(result())
    document = Summary(
        tally=counted,
        energy_wh=1.0,
        energy_wh_released_idle=2.0,
        energy_wh_single_pool=3.0,
        single_pool_attainment=1.0,
        scalings=4,
        reshardings=5,
        clock_changes=6,
        seconds=7.0,
        simulated_seconds=56.0,
        attainment_in_status=0.9,
    ).as_json()
    assert document["requests"] == 1
    assert document["slo_attainment"] == 1.0
    assert {
        "failed",
        "energy_wh",
        "energy_wh_single_pool",
        "scalings",
        "reshardings",
        "clock_changes",
        "seconds",
    } < set(document)
    assert document["classes"]["SS"]["requests"] == 1
    assert set(document["classes"]) == set(RequestClass)
