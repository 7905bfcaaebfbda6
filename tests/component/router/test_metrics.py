import asyncio
import json

import pytest

from component.router.conftest import Stack
from component.router.fakes import MODEL, answers, event, held, routing, streams
from dynamollm.core.classes import RequestClass


async def test_every_child_of_the_nine_classes_is_there_at_zero(stack: Stack) -> None:
    await stack.engine("a", streams(1))
    for each in RequestClass:
        for name in (
            "arrivals_total",
            "input_tokens_total",
            "output_tokens_total",
            "completions_total",
            "brief_answers_total",
        ):
            assert await stack.metric(name, class_=each) == 0
        for met in ("true", "false"):
            assert await stack.metric("slo_requests_total", class_=each, met=met) == 0
        for outcome in ("ok", "rejected", "error", "aborted"):
            assert await stack.metric("requests_total", class_=each, pool="ll", outcome=outcome) == 0
        assert await stack.metric("ttft_seconds_count", class_=each) == 0
        assert await stack.metric("tbt_seconds_count", class_=each) == 0
    assert await stack.metric("instances", pool="ll") == 1


async def test_arrivals_count_as_predicted_and_ends_as_they_were(stack: Stack) -> None:
    # 2,000 ids in, expected short by max_tokens ... of 500, so the prior of 200 decides: LM. It becomes LL.
    await stack.engine("a", streams(400))
    async with stack.post(prompt=[1] * 2000, max_tokens=500) as response:
        await response.read()
    assert await stack.metric("arrivals_total", class_="LM") == 1
    assert await stack.metric("input_tokens_total", class_="LM") == 2000
    assert await stack.metric("output_tokens_total", class_="LM") == 400
    assert await stack.metric("completions_total", class_="LM") == 1
    assert await stack.metric("requests_total", class_="LL", pool="ll", outcome="ok") == 1
    assert await stack.metric("slo_requests_total", class_="LL", met="true") == 1
    assert await stack.metric("ttft_seconds_count", class_="LL") == 1
    assert await stack.metric("tbt_seconds_count", class_="LL") == 1


async def test_arrivals_are_counted_before_the_answer(stack: Stack) -> None:
    gate = asyncio.Event()
    await stack.engine("a", held(gate))
    response = await stack.post()
    assert await stack.metric("arrivals_total", class_="SS") == 1
    assert await stack.metric("completions_total", class_="SS") == 0
    gate.set()
    await response.read()


async def test_predictions_follow_what_answers_were(stack: Stack) -> None:
    await stack.engine("a", streams(40))
    for _ in range(40):
        async with stack.post(max_tokens=4096) as response:
            await response.read()
    assert await stack.metric("arrivals_total", class_="SM") > 0
    before = await stack.metric("arrivals_total", class_="SS")
    async with stack.post(max_tokens=4096) as response:
        await response.read()
    assert await stack.metric("arrivals_total", class_="SS") == before + 1


@pytest.mark.parametrize(("slo", "met"), [({"ttft_ms": 1e-6}, "false"), ({"tbt_ms": 1e-6}, "false"), ({}, "true")])
async def test_a_request_is_inside_its_slo_when_both_latencies_are(
    stack: Stack, slo: dict[str, float], met: str
) -> None:
    document = routing()
    for name, value in slo.items():
        document["slo"][name]["SS"] = value
    await stack.route(document)
    gate = asyncio.Event()
    await stack.engine("a", held(gate, rest=event() + b"data: [DONE]\n\n"))
    async with stack.post() as response:
        # The second token leaves the engine once the first has arrived: in one piece there would be no time between them.
        assert await response.content.readany() == event()
        gate.set()
        await response.read()
    assert await stack.metric("slo_requests_total", class_="SS", met=met) == 1


async def test_usage_wins_over_counting_and_calibrates_text(stack: Stack) -> None:
    usage = {"prompt_tokens": 300, "completion_tokens": 120, "total_tokens": 420}
    last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    gate = asyncio.Event()
    gate.set()
    await stack.engine("a", held(gate, rest=last))
    async with stack.post(prompt="word" * 100, max_tokens=400) as response:
        await response.read()
    assert await stack.metric("requests_total", class_="MM", pool="ll", outcome="ok") == 1
    assert await stack.metric("output_tokens_total", class_="SM") == 120
    # 400 bytes were 300 tokens: the next prompt counts as more than bytes / 4.
    async with stack.post(prompt="word" * 100, max_tokens=400) as response:
        await response.read()
    assert await stack.metric("input_tokens_total", class_="SM") == 100 + 102


async def test_answers_in_one_piece_are_counted_by_their_usage(stack: Stack) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40}
    await stack.engine("a", answers(200, {"choices": [], "usage": usage}))
    messages = [{"role": "user", "content": "word" * 10}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 50}
    async with stack.client.post("/v1/chat/completions", json=body) as response:
        assert (await response.json())["usage"] == usage
    assert await stack.metric("output_tokens_total", class_="SS") == 30
    assert await stack.metric("slo_requests_total", class_="SS", met="true") == 1
    assert await stack.metric("ttft_seconds_count", class_="SS") == 0


async def test_a_chat_stream_does_not_count_its_role(stack: Stack) -> None:
    await stack.engine("a", streams(31))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 50}
    async with stack.client.post("/v1/chat/completions", json=body) as response:
        await response.read()
    assert await stack.metric("output_tokens_total", class_="SS") == 30


async def test_a_stream_without_an_end_is_an_error(stack: Stack) -> None:
    gate = asyncio.Event()
    gate.set()
    await stack.engine("a", held(gate, rest=event()))
    async with stack.post() as response:
        await response.read()
    assert await stack.metric("requests_total", class_="SS", pool="ll", outcome="error") == 1


@pytest.mark.parametrize(("tokens", "brief"), [(1, 0), (2, 1), (8, 1), (9, 0)])
async def test_brief_answers_are_counted_apart(stack: Stack, tokens: int, brief: int) -> None:
    await stack.engine("a", streams(tokens))
    async with stack.post() as response:
        await response.read()
    assert await stack.metric("completions_total", class_="SS") == 1
    assert await stack.metric("brief_answers_total", class_="SS") == brief
