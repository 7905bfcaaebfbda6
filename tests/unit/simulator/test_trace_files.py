import json
from pathlib import Path

import numpy as np
import pytest

from dynamollm.core.classes import ClassBoundaries
from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator.trace_files import open_trace
from dynamollm.simulator.workload import Trace, Workload

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "arrival_s,input_tokens,output_tokens\n"
HOURS = "# note\nhour,requests_conv,requests_code\n"


def opened(name: str, *, scale: float = 1.0, seed: int = 0) -> Trace:
    return open_trace(name, scale=scale, boundaries=ClassBoundaries(), seed=seed)


def all_of(trace: Trace, **window: float) -> np.ndarray:
    return np.concatenate([chunk.requests for chunk in trace.chunks(**window)])


def hourly(folder: Path, *counts: float) -> str:
    lines = [f"2024-05-13 {hour:02d}:00:00,{count},{count}" for hour, count in enumerate(counts)]
    (folder / "hours.csv").write_text(HOURS + "\n".join(lines) + "\n")
    return str(folder / "hours.csv")


@pytest.mark.parametrize(
    ("text", "column", "line"),
    [
        ("", "", ":1:"),
        ("a,b\n", "", ":1:"),
        (AZURE, "", "no requests"),
        (AZURE + "2023-11-16 18:15:46.6805900,374,44\nyesterday,1,1\n", "", ":3:"),
        (AZURE + "2023-11-16 18:15:46.6805900,374\n", "", ":2:"),
        (AZURE + "2023-11-16 18:15:46.6805900,0,44\n", "", ":2:"),
        (AZURE + "2023-11-16 18:15:46.6805900,5,4.5\n", "", ":2:"),
        (OWN + "0.5,10,10\nnan,10,10\n", "", ":3:"),
        (OWN + "0.5,10,-1\n", "", ":2:"),
        (HOURS, "requests_conv", "no hours"),
        (HOURS + "2024-05-13 00:00:00,1,1\n", "missing", ":2:"),
        (HOURS + "2024-05-13 00:00:00,many,1\n", "requests_conv", ":3:"),
        (HOURS + "2024-05-13 00:00:00,-1,1\n", "requests_conv", ":3:"),
        (HOURS + "2024-05-13 00:00:00,1,1\n2024-05-13 02:00:00,1,1\n", "requests_conv", ":4:"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, column: str, line: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as raised:
        opened(f"{path}:{column}" if column else str(path))
    assert str(raised.value).startswith(str(path))
    assert line in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", ":1:"),
        ("{}", "docs/simulator.md"),
        ('{"data": {"result": []}}', "no series"),
        ('{"data": {"result": [{"metric": {"class": "XX"}, "values": [[0, "1"]]}]}}', "docs/simulator.md"),
        ('{"data": {"result": [{"metric": {"class": "SS"}, "values": [[0, "1"]]}]}}', "two steps"),
        ('{"data": {"result": [{"metric": {"class": "SS"}, "values": [[0, "0"], [60, "NaN"]]}]}}', "no arrivals"),
    ],
)
def test_a_bad_answer_of_prometheus_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "range.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=says):
        opened(str(path))


def test_rates_of_prometheus_become_requests_of_their_class_and_length(tmp_path: Path) -> None:
    def answer(**series: float) -> dict[str, object]:
        result = [
            {"metric": {"class": name}, "values": [[60.0 * k, str(value)] for k in range(60)]}
            for name, value in series.items()
        ]
        return {"status": "success", "data": {"resultType": "matrix", "result": result}}

    document = {
        "arrivals": answer(SS=2.0, LM=1.0),
        "input_tokens": answer(SS=2.0 * 100, LM=2000.0),
        "output_tokens": answer(SS=2.0 * 40, LM=200.0),
    }
    path = tmp_path / "range.json"
    path.write_text(json.dumps(document))
    requests = all_of(opened(str(path)))
    assert requests.size == pytest.approx(3 * 3600, rel=0.05)
    small = requests[requests["input_tokens"] < 256]
    assert small.size == pytest.approx(2 * 3600, rel=0.05)
    assert small["input_tokens"].mean() == pytest.approx(100, rel=0.1)
    assert requests[requests["input_tokens"] >= 1024]["output_tokens"].mean() == pytest.approx(200, rel=0.1)


def test_an_hourly_file_keeps_its_totals_its_order_and_its_windows(tmp_path: Path) -> None:
    trace = opened(hourly(tmp_path, 1000, 4000, 500) + ":requests_conv", scale=2.0)
    requests = all_of(trace)
    assert requests.size == 11_000
    assert np.all(np.diff(requests["arrival_s"]) >= 0)
    by_hour = np.bincount((requests["arrival_s"] // 3600).astype(int))
    assert by_hour.tolist() == [2000, 8000, 1000]
    window = all_of(trace, start_s=1800.0, end_s=5400.0)
    inside = requests[(requests["arrival_s"] >= 1800) & (requests["arrival_s"] < 5400)]
    assert np.array_equal(window, inside)


def test_code_comes_in_bursts_and_conversations_do_not(tmp_path: Path) -> None:
    name = hourly(tmp_path, *(6000,) * 6)

    def dispersion(column: str) -> float:
        requests = all_of(opened(f"{name}:{column}"))
        counts = np.bincount((requests["arrival_s"] // 60).astype(int), minlength=360)
        return float(counts.var() / counts.mean())

    assert dispersion("requests_conv") < 5
    assert dispersion("requests_code") > 50


@pytest.mark.parametrize(
    ("text", "column"),
    [(AZURE + "2023-11-16 18:15:46.6805900,374,44\n", ""), (HOURS + "2024-05-13 00:00:00,1,1\n", ":requests_conv")],
)
def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path, text: str, column: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8-sig")
    assert all_of(opened(f"{file}{column}")).size == 1


def test_a_small_file_is_sorted_and_scaled_without_new_bursts(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(OWN + "".join(f"{second},100,50\n" for second in (*range(600, 1200), *range(600))))
    assert all_of(opened(str(path)))["arrival_s"].tolist() == list(range(1200))
    for scale in (0.5, 3.0, 12.0):
        trace = opened(str(path), scale=scale)
        requests = all_of(trace)
        assert requests.size == pytest.approx(1200 * scale, rel=0.12)
        window = all_of(trace, start_s=300.0, end_s=600.0)
        inside = requests[(requests["arrival_s"] >= 300) & (requests["arrival_s"] < 600)]
        assert np.array_equal(np.sort(window), np.sort(inside))
        assert np.bincount(requests["arrival_s"].astype(int)).max() <= 4 * scale + 4


@pytest.mark.parametrize("accuracy", [0.0, 0.8, 1.0])
def test_the_warm_up_is_the_beginning_backwards_and_predictions_are_as_right_as_asked(
    tmp_path: Path, accuracy: float
) -> None:
    name = hourly(tmp_path, 5000, 5000) + ":requests_conv"
    workload = Workload(opened(name), accuracy=accuracy, warm_up_s=600.0)
    arrivals = np.concatenate([part for _, part in workload.arrivals()])
    before, after = arrivals[arrivals["counted"] == 0], arrivals[arrivals["counted"] == 1]
    assert np.all(np.diff(arrivals["arrival_s"]) >= 0)
    assert after.size == 10_000
    assert before.size == np.sum(after["arrival_s"] < 1200)
    right = np.mean(arrivals["predicted"] == arrivals["request_class"])
    assert right == pytest.approx(accuracy, abs=0.02)
    # Inputs are counted, not predicted.
    assert np.array_equal(arrivals["predicted"] // 3, arrivals["request_class"] // 3)


@pytest.mark.parametrize("warm_up_s", [30.0, 40.0, 95.0, 420.0])
def test_a_warm_up_longer_than_the_trace_goes_to_and_fro(tmp_path: Path, warm_up_s: float) -> None:
    path = tmp_path / "own.csv"
    path.write_text(OWN + "".join(f"{0.5 * k},{100 + k},50\n" for k in range(80)))
    trace = opened(str(path))
    arrivals = np.concatenate([part for _, part in Workload(trace, warm_up_s=warm_up_s).arrivals()])
    assert np.all(np.diff(arrivals["arrival_s"]) >= 0)
    after = arrivals[arrivals["counted"] == 1]
    assert after["input_tokens"].tolist() == list(range(100, 180))
    assert after["arrival_s"] - warm_up_s == pytest.approx(0.5 * np.arange(80))
    before = arrivals[arrivals["counted"] == 0]
    back_s = warm_up_s - before["arrival_s"]
    turns, rest_s = np.divmod(back_s, trace.duration_s)
    mirrored_s = np.where(turns % 2 == 0, rest_s, trace.duration_s - rest_s)
    # Each of them is the request of its time, and none of them lacks.
    assert mirrored_s == pytest.approx(0.5 * (before["input_tokens"] - 100))
    assert before.size == pytest.approx(2 * warm_up_s, abs=2)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_must_be_above_zero(tmp_path: Path, scale: float) -> None:
    with pytest.raises(InvalidInputError, match="scale"):
        opened(hourly(tmp_path, 10) + ":requests_conv", scale=scale)
