from pathlib import Path

import pytest

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator.traces import TraceRequest, generate_conversation_hour, read_azure_csv

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_reads_requests_in_order_of_arrival(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(
        HEADER
        + "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:16:46.6805900,14050,7\n",
        encoding=encoding,
    )
    assert read_azure_csv(file) == [
        TraceRequest(0.0, 374, 44),
        TraceRequest(pytest.approx(4.314579), 396, 109),
        TraceRequest(60.0, 8192, 7),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", r"trace.csv:1: no column TIMESTAMP"),
        (HEADER, "no requests in it"),
        (HEADER + "2023-11-16 18:15:46,1,1\nyesterday,1,1\n", r"trace.csv:3: \['yesterday', '1', '1'\]"),
        (HEADER + "2023-11-16 18:15:46,12,\n", r"trace.csv:2"),
        (HEADER + "2023-11-16 18:15:46,12\n", r"trace.csv:2"),
        (HEADER + "2023-11-16 18:15:46,0,5\n", r"trace.csv:2: 0 and 5 tokens"),
    ],
)
def test_refuses_what_is_no_trace(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=told):
        read_azure_csv(file)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.csv"):
        read_azure_csv(tmp_path / "nowhere.csv")


def test_the_generated_hour_has_the_statistics_of_the_trace() -> None:
    requests = generate_conversation_hour(seed=1)
    assert requests == generate_conversation_hour(seed=1)
    assert requests != generate_conversation_hour(seed=2)
    assert [request.offset_s for request in requests] == sorted(request.offset_s for request in requests)
    # Figures of the 2023 conversation trace: 19,366 rows, mean input 1154.7, mean output 211.1, 25.6 % LL.
    assert len(requests) == pytest.approx(19_366, rel=0.01)
    assert sum(r.input_tokens for r in requests) / len(requests) == pytest.approx(1154.7, rel=0.05)
    assert sum(r.output_tokens for r in requests) / len(requests) == pytest.approx(211.1, rel=0.05)
    boundaries = ClassBoundaries()
    classes = [boundaries.classify(input_tokens=r.input_tokens, output_tokens=r.output_tokens) for r in requests]
    assert classes.count(RequestClass.LL) / len(classes) == pytest.approx(0.2556, abs=0.015)
    assert classes.count(RequestClass.MS) / len(classes) == pytest.approx(0.1900, abs=0.015)


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "request_class"),
    [
        (1, 1, "SS"),
        (255, 99, "SS"),
        (256, 100, "MM"),
        (1023, 349, "MM"),
        (1024, 350, "LL"),
        (255, 350, "SL"),
        (4000, 5, "LS"),
    ],
)
def test_boundaries_belong_to_the_larger_class(input_tokens: int, output_tokens: int, request_class: str) -> None:
    assert ClassBoundaries().classify(input_tokens=input_tokens, output_tokens=output_tokens) == request_class
