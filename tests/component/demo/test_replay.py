import io
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dynamollm.simulator.traces import TraceRequest
from lab.demo.replay import Target, load_trace, replay


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    assert body["stream"] is True
    tokens = int(request.headers["X-Simulated-Output-Tokens"])
    input_tokens = len(body["prompt"]) // 4
    if input_tokens == 503:
        return web.json_response({"error": {"message": "no instance"}}, status=503)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    sent = tokens - 1 if input_tokens == 2 else tokens
    events = b"".join(b'data: {"choices": [{"text": "word"}]}\n\n' for _ in range(sent))
    events += b": simulated first_ms=40.000 last_ms=540.000\n\n" if input_tokens == 9 else b""
    events += b"data: [DONE]\n\n"
    # Cut in odd places, as TCP may: a marker that is split in two still counts once.
    for start in range(0, len(events), 17):
        await response.write(events[start : start + 17])
    if input_tokens == 7 and request.transport:
        request.transport.abort()
    await response.write_eof()
    return response


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server:
        yield server


async def results(server: TestServer, *requests: TraceRequest) -> list[dict[str, object]]:
    out = io.BytesIO()
    await replay(list(requests), Target(str(server.make_url("")).rstrip("/"), "llama", 100.0), out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return sorted(lines, key=lambda line: line["offset_s"])


async def test_every_token_of_every_stream_is_counted(server: TestServer) -> None:
    lines = await results(server, TraceRequest(0.0, 5, 1), TraceRequest(1.0, 5, 40), TraceRequest(2.0, 5, 400))
    assert [line["ok"] for line in lines] == [True, True, True]
    assert lines[0]["tbt_ms"] == 0.0
    assert all(line["ttft_ms"] > 0 for line in lines)  # type: ignore[operator] # a number in JSON


async def test_real_work_counts_once_beside_what_was_simulated(server: TestServer) -> None:
    (line,) = await results(server, TraceRequest(0.0, 9, 11))
    # Wall time to the first and to the last token, out of what time at 100 × would make of it.
    first_ms = line["stretched_ttft_ms"] / 100.0  # type: ignore[operator] # a number in JSON
    last_ms = first_ms + 10 * line["stretched_tbt_ms"] / 100.0  # type: ignore[operator]
    # The engine said 40 and 540 simulated ms, which are 0.4 and 5.4 here: what came later than that is real work.
    ttft_ms = 40.0 + max(0.0, first_ms - 0.4)
    assert line["ttft_ms"] == pytest.approx(ttft_ms)
    assert line["tbt_ms"] == pytest.approx((540.0 + max(0.0, last_ms - 5.4) - ttft_ms) / 10)


@pytest.mark.parametrize(
    ("input_tokens", "told"),
    [(503, "no instance"), (2, "9 of 10 tokens arrived"), (7, "Error")],
    ids=["refused", "a token is missing", "cut off"],
)
async def test_what_is_not_a_whole_answer_has_failed(server: TestServer, input_tokens: int, told: str) -> None:
    (line,) = await results(server, TraceRequest(0.0, input_tokens, 10))
    assert line["ok"] is False
    assert told in str(line["error"])


async def test_a_server_that_is_not_there_is_a_failed_request() -> None:
    out = io.BytesIO()
    await replay([TraceRequest(0.0, 5, 5)], Target("http://127.0.0.1:1", "llama", 1.0), out)
    line = json.loads(out.getvalue())
    assert line["ok"] is False
    assert "127.0.0.1:1" in line["error"]


def test_a_window_of_the_trace_starts_at_zero() -> None:
    window = load_trace(None, start_s=600.0, duration_s=300.0, rate=1.0, seed=1)
    assert 0.0 <= window[0].offset_s < 5.0
    assert 295.0 < window[-1].offset_s < 300.0


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.7, 3.0])
def test_the_rate_multiplies_the_requests(rate: float) -> None:
    whole = load_trace(None, start_s=0.0, duration_s=600.0, rate=1.0, seed=1)
    scaled = load_trace(None, start_s=0.0, duration_s=600.0, rate=rate, seed=1)
    assert len(scaled) == pytest.approx(rate * len(whole), rel=0.02)
    assert [request.offset_s for request in scaled] == sorted(request.offset_s for request in scaled)
