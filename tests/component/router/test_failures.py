import asyncio

import aiohttp
import pytest

from component.addresses import fresh_ip
from component.router.conftest import Stack, eventually
from component.router.fakes import answers, drops, event, held, sse, streams
from dynamollm.router.proxy import Timeouts


async def test_without_an_instance_the_answer_is_503_with_retry_after(stack: Stack) -> None:
    async with stack.post() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
        error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("ServiceUnavailableError", 503)
    assert await stack.metric("requests_total", class_="SS", pool="", outcome="rejected") == 1
    assert await stack.metric("slo_requests_total", class_="SS", met="false") == 1


async def test_an_unknown_model_is_404_and_no_arrival(stack: Stack) -> None:
    async with stack.post(model="other") as response:
        assert response.status == 404
        assert "'other'" in (await response.json())["error"]["message"]
    assert await stack.metric("arrivals_total", class_="SS") == 0


@pytest.mark.parametrize("raw", [b"{", b"[]", b"{}", b'{"model": 3}'])
async def test_a_body_that_is_none_is_400(stack: Stack, raw: bytes) -> None:
    async with stack.client.post("/v1/completions", data=raw) as response:
        assert response.status == 400


@pytest.mark.parametrize("broken", [drops, answers(503, {})], ids=["drops", "503"])
async def test_a_failure_before_the_first_byte_is_retried_elsewhere(stack: Stack, broken: object) -> None:
    bad = await stack.engine("bad", broken, tp=8)
    good = await stack.engine("good", streams(2))
    for _ in range(2):
        async with stack.post() as response:
            assert (response.status, await response.read()) == (200, sse(2))
    # The second request did not even try the one that had just failed.
    assert (len(bad.requests), len(good.requests)) == (1, 2)
    assert await stack.metric("in_flight", pool="ll", instance="bad") == 0


async def test_an_address_that_refuses_is_retried_elsewhere(stack: Stack) -> None:
    stack.api.put_pod("gone", fresh_ip(), tp=8)
    await stack.engine("good", streams(2))
    async with stack.post() as response:
        assert await response.read() == sse(2)


async def test_three_failures_are_the_end(stack: Stack) -> None:
    engines = [await stack.engine(f"bad-{index}", drops) for index in range(4)]
    async with stack.post() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
    assert sum(len(engine.requests) for engine in engines) == 3
    assert await stack.metric("requests_total", class_="SS", pool="ll", outcome="error") == 1


async def test_after_the_first_byte_a_break_is_passed_on_and_never_retried(stack: Stack) -> None:
    async def breaks(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        await response.write(event())
        assert request.transport is not None
        request.transport.close()
        return response

    bad = await stack.engine("bad", breaks, tp=8)
    good = await stack.engine("good", streams(2))
    async with stack.post() as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert (len(bad.requests), len(good.requests)) == (1, 0)
    assert await stack.metric("requests_total", class_="SS", pool="ll", outcome="error") == 1
    assert await stack.metric("slo_requests_total", class_="SS", met="false") == 1


async def test_a_hung_instance_blocks_no_one_else(stack: Stack) -> None:
    gate = asyncio.Event()
    hung = await stack.engine("hung", held(gate, first=b""))
    stuck = asyncio.create_task(_read(stack))
    await eventually(lambda: len(hung.requests) == 1)
    good = await stack.engine("good", streams(2))
    assert [await _read(stack) for _ in range(3)] == [sse(2)] * 3
    assert (len(hung.requests), len(good.requests), stuck.done()) == (1, 3, False)
    gate.set()
    assert await stuck == b"data: [DONE]\n\n"


# The good instance has this long for its answer.
@pytest.mark.parametrize("timeouts", [Timeouts(connect_s=60.0, stream_silence_s=2.0, whole_silence_s=60.0)])
async def test_the_request_of_a_hung_instance_moves_on(stack: Stack) -> None:
    hung = await stack.engine("hung", held(asyncio.Event(), first=b""), tp=8)
    good = await stack.engine("good", streams(2))
    assert await _read(stack) == sse(2)
    assert (len(hung.requests), len(good.requests)) == (1, 1)
    await eventually(lambda: hung.cancelled == 1)


async def _read(stack: Stack) -> bytes:
    async with stack.post() as response:
        data: bytes = await response.read()
        return data


async def test_a_client_that_leaves_ends_the_request_in_the_engine(stack: Stack) -> None:
    gate = asyncio.Event()
    engine = await stack.engine("a", held(gate))
    response = await stack.post()
    assert await response.content.readany() == event()
    response.close()
    await eventually(lambda: engine.cancelled == 1)
    await eventually(lambda: next(stack.fleet.known()).in_flight == 0)
    assert await stack.metric("requests_total", class_="SS", pool="ll", outcome="aborted") == 1
    assert await stack.metric("slo_requests_total", class_="SS", met="false") == 0


async def test_an_error_of_the_engine_is_passed_on_as_it_is(stack: Stack) -> None:
    body = {"error": {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}}
    await stack.engine("a", answers(400, body))
    async with stack.post() as response:
        assert (response.status, await response.json()) == (400, body)
    assert await stack.metric("requests_total", class_="SS", pool="ll", outcome="rejected") == 1
    assert await stack.metric("slo_requests_total", class_="SS", met="false") == 0


async def test_full_instances_queue_requests_and_refuse_those_beyond_the_bound(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.fleet._max_in_flight_per_gpu = 1
    await stack.engine("a", held(gate), tp=2)
    running = [await stack.post() for _ in range(2)]
    waiting = [asyncio.create_task(_read(stack)) for _ in range(2)]
    await eventually(lambda: len(stack.fleet._waiters) == 2)
    async with stack.post() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
    gate.set()
    for each in running:
        await each.read()
    assert await asyncio.gather(*waiting) == [event() + b"data: [DONE]\n\n"] * 2


async def test_waiting_in_vain_ends_with_503(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.fleet._max_in_flight_per_gpu = 1
    stack.fleet._wait_s = 0.3
    await stack.engine("a", held(gate), tp=1)
    running = await stack.post()
    async with stack.post() as response:
        assert response.status == 503
        assert "full for 0.3 s" in (await response.json())["error"]["message"]
    gate.set()
    await running.read()
    assert next(stack.fleet.known()).in_flight == 0
