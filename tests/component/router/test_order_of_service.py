"""Earliest deadline first: the router gives engines that serve by priority the deadline of each request."""

import asyncio
import json
import time
from urllib.parse import urlsplit

import pytest

from component.engine.conftest import EngineProcess, StartEngine, profile_spec, start_engine
from component.engine.conftest import eventually as eventually_there
from component.router.conftest import Stack, eventually
from component.router.fakes import MODEL, drops, held, routing, sse, streams
from dynamollm.core.classes import Length, RequestClass

__all__ = ["profile_spec", "start_engine"]  # fixtures

TTFT_MS = {Length.SHORT: 1_000.0, Length.MEDIUM: 60_000.0, Length.LONG: 600_000.0}
"""Far apart, so that a busy machine's delays between two requests change no order."""
LONG = [1] * 8000
SHORT = [1] * 20


async def read_slos(stack: Stack) -> None:
    """Let the router go by the SLOs above."""
    document = routing()
    document["slo"]["ttft_ms"] = {each: TTFT_MS[each.input_length] for each in RequestClass}
    await stack.route(document)


async def send(stack: Stack, **fields: object) -> None:
    async with stack.post(**fields) as response:
        assert await response.read() == sse(1)


@pytest.mark.parametrize(("prompt", "ttft_ms"), [(SHORT, 1_000.0), ([1] * 300, 60_000.0), (LONG, 600_000.0)])
async def test_the_priority_is_when_the_first_token_is_due(stack: Stack, prompt: list[int], ttft_ms: float) -> None:
    await read_slos(stack)
    engine = await stack.engine("a", streams(1), by_deadline=True)
    before_ms = time.time() * 1e3
    await send(stack, prompt=prompt)
    after_ms = time.time() * 1e3
    ((_, body),) = engine.requests
    priority = json.loads(body)["priority"]
    assert before_ms - 1 <= priority - ttft_ms <= after_ms + 1


async def test_the_rest_of_the_body_stays_as_it_is(stack: Stack) -> None:
    engine = await stack.engine("a", streams(1), by_deadline=True)
    raw = b' { "model":"llama",  "prompt": [1,2,3], "max_tokens":9, "stream":true, "unknown": 1.50 }'
    async with stack.client.post("/v1/completions", data=raw) as response:
        assert response.status == 200
    ((_, body),) = engine.requests
    priority = json.loads(body)["priority"]
    assert body == raw.replace(b"{", b'{"priority":%d,' % priority)


@pytest.mark.parametrize("own", [0, -5, None])
async def test_a_clients_own_priority_wins(stack: Stack, own: int | None) -> None:
    engine = await stack.engine("a", streams(1), by_deadline=True)
    await send(stack, priority=own)
    ((_, body),) = engine.requests
    assert body.count(b"priority") == 1
    assert json.loads(body)["priority"] == own


async def test_an_engine_that_serves_as_requests_come_gets_no_priority(stack: Stack) -> None:
    engine = await stack.engine("a", streams(1))
    await send(stack)
    ((_, body),) = engine.requests
    assert b"priority" not in body


async def test_another_attempt_keeps_its_place(stack: Stack) -> None:
    broken = [await stack.engine(f"broken-{index}", drops, by_deadline=True) for index in range(2)]
    good = await stack.engine("good", streams(1), by_deadline=True)
    for number in range(3):  # equals take turns: each instance is first once
        await send(stack, user=str(number))
    bodies = [json.loads(body) for engine in (*broken, good) for _, body in engine.requests]
    assert len(bodies) > 3
    # Two requests may come within the same millisecond, and then have the same place.
    assert len({(body["user"], body["priority"]) for body in bodies}) == 3


@pytest.mark.parametrize(("by_deadline", "order"), [(True, [1, 20, 8000]), (False, [1, 8000, 20])])
async def test_what_waits_in_the_router_is_served_in_the_same_order(
    stack: Stack,
    by_deadline: bool,  # noqa: FBT001 - a table
    order: list[int],
) -> None:
    await read_slos(stack)
    gate = asyncio.Event()
    stack.fleet._max_in_flight_per_gpu = 1
    engine = await stack.engine("a", held(gate), tp=1, by_deadline=by_deadline)
    asked = [asyncio.create_task(read(stack, [1]))]
    await eventually(lambda: len(engine.requests) == 1)
    for count, prompt in enumerate((LONG, SHORT), 1):
        asked.append(asyncio.create_task(read(stack, prompt)))
        await eventually(lambda count=count: len(stack.fleet._waiters) == count)  # type: ignore[misc]
    gate.set()
    await asyncio.gather(*asked)
    assert [len(json.loads(body)["prompt"]) for _, body in engine.requests] == order


async def read(stack: Stack, prompt: list[int]) -> None:
    async with stack.post(prompt=prompt) as response:
        await response.read()


# ------------------------------------------------------------------ with real engines
ENDLESS = 4000
"""Tokens of an answer that takes a minute."""


async def ask(stack: Stack, name: str, prompt: list[int], *, tokens: int) -> str:
    """Return the name when the answer has come."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 50, "stream": True}
    headers = {"X-Simulated-Output-Tokens": str(tokens)}
    async with stack.client.post("/v1/completions", json=body, headers=headers) as response:
        await response.read()
    return name


async def inside(engine: EngineProcess, *, waiting: int) -> bool:
    metrics = await engine.metrics()
    return (metrics["vllm:num_requests_running"], metrics["vllm:num_requests_waiting"]) == (1, waiting)


@pytest.mark.parametrize(
    ("arguments", "by_deadline", "first"),
    [(("--scheduling-policy", "priority"), True, "short"), ((), False, "long")],
    ids=["earliest-deadline-first", "first-come-first-served"],
)
async def test_a_short_prompt_overtakes_long_ones_by_its_deadline(
    stack: Stack,
    start_engine: StartEngine,
    arguments: tuple[str, ...],
    by_deadline: bool,  # noqa: FBT001 - a table
    first: str,
) -> None:
    await read_slos(stack)
    # One sequence at a time: the others wait until the client of the running one leaves.
    engine = await start_engine(*arguments, scale=2.0, engine={"maxSequences": 1})
    ip = urlsplit(str(engine.client._base_url)).hostname
    stack.api.put_pod("pod-0", ip, by_deadline=by_deadline)
    await eventually(lambda: stack.serving() == {"pod-0"})
    running = asyncio.create_task(ask(stack, "running", SHORT, tokens=ENDLESS))
    await eventually_there(lambda: inside(engine, waiting=0))
    asked = []
    for count, (name, prompt) in enumerate({"long": LONG, "also long": LONG, "short": SHORT}.items(), 1):
        # Whoever is served first ends first; only the right one ends soon.
        asked.append(asyncio.create_task(ask(stack, name, prompt, tokens=1 if name == first else ENDLESS)))
        await eventually_there(lambda count=count: inside(engine, waiting=count))  # type: ignore[misc]
    running.cancel()
    done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [first]
    for task in others:
        task.cancel()
    await asyncio.gather(running, *others, return_exceptions=True)
