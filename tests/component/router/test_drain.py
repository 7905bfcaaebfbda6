import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from component.addresses import fresh_ip
from component.router.fakes import MODEL, FakeApi, FakeEngine, event, held, routing

BODY = {"model": MODEL, "prompt": "word", "max_tokens": 50, "stream": True}


Router = tuple[asyncio.subprocess.Process, aiohttp.ClientSession]


@pytest.fixture
def linger_s() -> float:
    return 0.1


@pytest.fixture
async def router(api: tuple[FakeApi, str], linger_s: float) -> AsyncIterator[Router]:
    """A router process that listens; neither pods nor routing exist."""
    _, url = api
    host = fresh_ip()
    script = Path(__file__).with_name("router_process.py")
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), url, host, str(linger_s))
    async with aiohttp.ClientSession(f"http://{host}:8080") as client:
        await _status(client, "/healthz", 200)
        yield process, client
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _status(client: aiohttp.ClientSession, path: str, status: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.get(path) as response:
                    if response.status == status:
                        return
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.01)


async def _serving(client: aiohttp.ClientSession) -> None:
    """Wait until the router knows its routing and one instance."""
    async with asyncio.timeout(60):
        while True:
            async with client.get("/metrics") as response:
                lines = (await response.text()).splitlines()
            if any(line.startswith("dynamollm_router_instances{") and line.endswith(" 1.0") for line in lines):
                break
            await asyncio.sleep(0.01)
    await _status(client, "/readyz", 200)


async def _refusing(client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(60):
        while True:
            async with client.get("/v1/models") as response:
                if response.status == 503:
                    return
            await asyncio.sleep(0.05)


async def test_ready_when_pods_and_routing_are_known_and_not_before(api: tuple[FakeApi, str], router: Router) -> None:
    fake, _ = api
    _, client = router
    await _status(client, "/readyz", 503)
    async with client.post("/v1/completions", json=BODY) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
    fake.put_routing(routing())
    await _status(client, "/readyz", 200)


@pytest.fixture
async def stream(
    api: tuple[FakeApi, str], router: Router, start_fake: Callable[..., Awaitable[FakeEngine]]
) -> tuple[aiohttp.ClientResponse, asyncio.Event]:
    """A stream that has begun, and the gate to its end."""
    fake, _ = api
    _, client = router
    gate = asyncio.Event()
    engine = await start_fake(held(gate))
    fake.put_routing(routing())
    fake.put_pod("a", engine.ip)
    await _serving(client)
    response = await client.post("/v1/completions", json=BODY)
    assert await response.content.readany() == event()
    return response, gate


@pytest.mark.parametrize("linger_s", [600.0])
async def test_after_sigterm_who_comes_late_is_served_for_a_while(
    router: Router, stream: tuple[aiohttp.ClientResponse, asyncio.Event]
) -> None:
    process, client = router
    response, gate = stream
    process.terminate()
    await _status(client, "/readyz", 503)
    # Endpoints lag behind pods.
    late = await client.post("/v1/completions", json=BODY)
    assert late.status == 200
    gate.set()
    assert await response.read() == b"data: [DONE]\n\n"
    assert (await late.read()).endswith(b"data: [DONE]\n\n")


async def test_then_it_refuses_and_ends_with_the_last_stream(
    router: Router, stream: tuple[aiohttp.ClientResponse, asyncio.Event]
) -> None:
    process, client = router
    response, gate = stream
    process.terminate()
    await _refusing(client)
    assert process.returncode is None
    gate.set()
    assert await response.read() == b"data: [DONE]\n\n"
    assert await asyncio.wait_for(process.wait(), 60) == 0
