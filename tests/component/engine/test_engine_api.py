import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import pytest

from component.engine.conftest import MODEL, StartEngine, eventually


async def test_a_stream_has_one_event_per_token(start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with engine.post(tokens=100, stream_options={"include_usage": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = (await response.text()).removesuffix("\n\n").split("\n\n")
    *tokens, usage, done = [line.removeprefix("data: ") for line in lines]
    assert (len(tokens), done) == (100, "[DONE]")
    assert json.loads(usage)["usage"] == {"prompt_tokens": 300, "completion_tokens": 100, "total_tokens": 400}
    assert json.loads(tokens[-1])["choices"][0]["finish_reason"] == "stop"


async def test_an_answer_in_one_piece(start_engine: StartEngine) -> None:
    engine = await start_engine()
    fields = {"prompt": "abcdefgh", "max_tokens": 12, "ignore_eos": True, "stream": False}
    async with engine.post(**fields) as response:
        answer = await response.json()
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_a_chat_stream(start_engine: StartEngine) -> None:
    engine = await start_engine()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    headers = {"X-Simulated-Output-Tokens": "5"}
    async with engine.client.post("/v1/chat/completions", json=body, headers=headers) as response:
        data = await response.read()
    assert data.count(b"data: ") == 1 + 5 + 1
    assert b'"role":"assistant"' in data.split(b"\n\n")[0]


@pytest.mark.parametrize(("fields", "status"), [({"model": "other"}, 404), ({"bogus": 1}, 400)])
async def test_refusals_have_openais_body(start_engine: StartEngine, fields: dict[str, object], status: int) -> None:
    engine = await start_engine()
    async with engine.post(**fields) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, status)


async def test_while_it_loads_it_is_not_healthy_and_refuses(start_engine: StartEngine) -> None:
    engine = await start_engine(startup_s=1e6, wait=False)

    async def loading() -> bool:
        try:
            async with engine.client.get("/health") as response:
                return bool(response.status == 503)
        except aiohttp.ClientConnectorError:
            return False

    await eventually(loading)
    async with engine.post() as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_once_it_has_loaded_it_serves(start_engine: StartEngine) -> None:
    engine = await start_engine(startup_s=5.0)
    async with engine.post(tokens=1) as response:
        assert response.status == 200
    async with engine.client.get("/v1/models") as response:
        assert [entry["id"] for entry in (await response.json())["data"]] == [MODEL]


async def test_a_client_that_leaves_is_cancelled(start_engine: StartEngine) -> None:
    engine = await start_engine()
    response = await engine.post(tokens=4000)
    await response.content.readany()
    assert (await engine.metrics())["vllm:num_requests_running"] == 1
    response.close()

    async def gone() -> bool:
        return (await engine.metrics())["vllm:num_requests_running"] == 0

    await eventually(gone)
    metrics = await engine.metrics()
    assert metrics["vllm:request_success_total{abort}"] == 1
    assert metrics["vllm:generation_tokens_total"] < 4000
    assert metrics["vllm:kv_cache_usage_perc"] == 0


async def test_sigterm_finishes_streams_and_refuses_new_requests(start_engine: StartEngine) -> None:
    engine = await start_engine()
    # Two connections stay open: the listening socket does not take new ones for long.
    response = await engine.post(tokens=3000)
    await response.content.readany()
    engine.process.terminate()

    async def refusing() -> bool:
        async with engine.post(tokens=1) as other:
            return bool(other.status == 503)

    await eventually(refusing)
    assert await engine.healthy()
    rest = await response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.wait_for(engine.process.wait(), 60) == 0


async def test_a_profile_that_is_none_is_one_line_and_exit_code_2(tmp_path: object) -> None:
    process = await asyncio.create_subprocess_exec(
        *(
            str(Path(sys.executable).with_name("dynamollm")),
            "engine",
            "--model",
            "m",
            "--profile-file",
            f"{tmp_path}/none.json",
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    _out, err = await process.communicate()
    assert process.returncode == 2
    assert err.decode() == (
        f"dynamollm: --profile-file {tmp_path}/none.json: No such file or directory; give a file with a"
        " PerformanceProfile's spec\n"
    )
