"""The router before real engine processes, 20 times faster than real time."""

import asyncio
from urllib.parse import urlsplit

from component.engine.conftest import EngineProcess, StartEngine, profile_spec, start_engine
from component.engine.conftest import eventually as eventually_there
from component.router.conftest import Stack, eventually

__all__ = ["profile_spec", "start_engine"]  # fixtures

TOKENS = 60


async def join(stack: Stack, name: str, engine: EngineProcess) -> None:
    """Make the engine a pod, and wait until the router knows it."""
    ip = urlsplit(str(engine.client._base_url)).hostname
    stack.api.put_pod(name, ip)
    await eventually(lambda: name in stack.serving())


def ask(stack: Stack, *, tokens: int = TOKENS) -> object:
    body = {"model": "llama", "prompt": "word" * 50, "max_tokens": 4096, "stream": True}
    return stack.client.post(
        "/v1/completions", json=body, headers={"X-Simulated-Output-Tokens": str(tokens), "X-Simulated-Timing": "1"}
    )


async def whole(stack: Stack) -> bool:
    async with ask(stack) as response:
        data = await response.read()
        return response.status == 200 and data.count(b"data: {") == TOKENS and data.endswith(b"data: [DONE]\n\n")


async def test_no_request_fails_while_an_instance_goes_away(stack: Stack, start_engine: StartEngine) -> None:
    engines = [await start_engine() for _ in range(2)]
    for index, engine in enumerate(engines):
        await join(stack, f"pod-{index}", engine)
    requests = []
    for index in range(60):
        requests.append(asyncio.create_task(whole(stack)))
        await asyncio.sleep(0.01)
        if index == 20:
            # The engine hears of its end before the router does.
            engines[0].process.terminate()
        if index == 40:
            stack.api.delete("pods", "pod-0")
    assert await asyncio.gather(*requests) == [True] * 60
    assert await asyncio.wait_for(engines[0].process.wait(), 60) == 0
    ended = [await stack.metric("requests_total", class_=each, pool="ll", outcome="ok") for each in ("SS", "SM")]
    assert ended == [60, 0]
    assert (await engines[1].metrics())["vllm:request_success_total{stop}"] >= 20


async def test_a_client_that_leaves_is_cancelled_in_the_engine(stack: Stack, start_engine: StartEngine) -> None:
    engine = await start_engine()
    await join(stack, "pod-0", engine)
    response = await ask(stack, tokens=4000)
    await response.content.readany()
    response.close()

    async def cancelled() -> bool:
        metrics = await engine.metrics()
        return metrics["vllm:num_requests_running"] == 0 and metrics["vllm:request_success_total{abort}"] == 1

    await eventually_there(cancelled)


async def test_tokens_are_counted_as_the_engine_counts_them(stack: Stack, start_engine: StartEngine) -> None:
    engine = await start_engine()
    await join(stack, "pod-0", engine)
    assert all([await whole(stack) for _ in range(5)])
    engine_metrics = await engine.metrics()
    assert engine_metrics["vllm:generation_tokens_total"] == 5 * TOKENS
    assert engine_metrics["vllm:prompt_tokens_total"] == 5 * 50
    # Predicted SM at first (the prior of 200), counted as what it was predicted to be.
    classes = ("SS", "SM")
    counted = [await stack.metric("output_tokens_total", class_=each) for each in classes]
    assert sum(value or 0 for value in counted) == 5 * TOKENS
    prompts = [await stack.metric("input_tokens_total", class_=each) for each in classes]
    assert sum(value or 0 for value in prompts) == 5 * 50
