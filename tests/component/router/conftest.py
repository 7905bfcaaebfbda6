import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from component.addresses import fresh_ip
from component.router.fakes import MODEL, NAMESPACE, SERVICE, FakeApi, FakeEngine, Handler, routing
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.router.fleet import Fleet
from dynamollm.router.proxy import Timeouts
from dynamollm.router.server import RouterServer

TIMEOUTS = Timeouts(connect_s=60.0, stream_silence_s=60.0, whole_silence_s=60.0)
"""So long that a busy machine reaches none: who is about one of them brings its own."""


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Wait until the condition holds: it is about another task or process, which has no event to give."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


@dataclass
class Stack:
    """A router before a fake API, and what a test does with it."""

    api: FakeApi
    fleet: Fleet
    client: aiohttp.ClientSession
    start_fake: Callable[..., Awaitable[FakeEngine]]

    async def engine(self, name: str, handler: Handler, **pod_fields: Any) -> FakeEngine:
        """Start an engine and its pod, and wait until the router knows it."""
        engine = await self.start_fake(handler)
        self.api.put_pod(name, engine.ip, **pod_fields)
        await eventually(lambda: name in {candidate.name for candidate in self.fleet.known()})
        return engine

    async def route(self, document: dict[str, Any]) -> None:
        """Publish a routing, and wait until the router goes by it."""
        before = self.fleet.routing
        self.api.put_routing(document)
        await eventually(lambda: self.fleet.routing is not before)

    def serving(self) -> set[str]:
        return {candidate.name for serving in self.fleet.pools().values() for candidate in serving}

    def post(self, *, prompt: Any = "word" * 10, **fields: Any) -> Any:
        """Post a streamed completion; max_tokens 50 makes it a short answer."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 50, "stream": True} | fields
        return self.client.post("/v1/completions", json=body)

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        async with self.client.get("/metrics") as response:
            text = await response.text()
        return {
            (
                sample.name,
                frozenset((k, v) for k, v in sample.labels.items() if k not in {"namespace", "service"}),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def metric(self, name: str, **labels: str) -> float | None:
        found = {key.rstrip("_"): value for key, value in labels.items()}
        return (await self.metrics()).get((f"dynamollm_router_{name}", frozenset(found.items())))


@pytest.fixture
async def api() -> AsyncIterator[tuple[FakeApi, str]]:
    fake = FakeApi()
    async with TestServer(fake.app) as server:
        yield fake, str(server.make_url("")).rstrip("/")
        fake.end_watches()


@pytest.fixture
async def start_fake() -> AsyncIterator[Callable[[Handler], Awaitable[FakeEngine]]]:
    runners = []

    async def start(handler: Handler) -> FakeEngine:
        engine = FakeEngine(ip=fresh_ip(), handler=handler)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", engine.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, engine.ip, 8000).start()
        runners.append(runner)
        return engine

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(wait_s=60.0, max_waiting=2)


@pytest.fixture
def timeouts() -> Timeouts:
    return TIMEOUTS


@pytest.fixture
async def stack(
    api: tuple[FakeApi, str], fleet: Fleet, timeouts: Timeouts, start_fake: Callable[..., Awaitable[FakeEngine]]
) -> AsyncIterator[Stack]:
    """A router that knows its routing (every class to pool "ll") and no pods."""
    fake, url = api
    fake.put_routing(routing())
    server = RouterServer(
        namespace=NAMESPACE, service=SERVICE, api=ApiAccess(url=url), clock=Clock(), fleet=fleet, timeouts=timeouts
    )
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    host = fresh_ip()
    await web.TCPSite(runner, host, 8080).start()
    async with aiohttp.ClientSession(f"http://{host}:8080") as client:
        await eventually(lambda: fleet.ready and fake.watching("pods") == 1)
        yield Stack(api=fake, fleet=fleet, client=client, start_fake=start_fake)
    fake.end_watches()
    await runner.cleanup()
