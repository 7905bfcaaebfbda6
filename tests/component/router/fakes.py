"""A small Kubernetes API and small engines, as the router sees them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from dynamollm.core.classes import RequestClass

MODEL = "llama"
NAMESPACE = "llm"
SERVICE = "chat"


def routing(**pools: str) -> dict[str, Any]:
    """Return a routing document; all classes to pool "ll" but those given."""
    return {
        "service": SERVICE,
        "namespace": NAMESPACE,
        "model": MODEL,
        "classes": dict.fromkeys(RequestClass, "ll") | pools,
        "boundaries": {"input_short": 256, "input_medium": 1024, "output_short": 100, "output_medium": 350},
        "slo": {"ttft_ms": dict.fromkeys(RequestClass, 60000.0), "tbt_ms": dict.fromkeys(RequestClass, 60000.0)},
    }


def pod(
    name: str,
    ip: str,
    *,
    pool: str = "ll",
    tp: int = 2,
    ready: bool = True,
    unrouted: bool = False,
    by_deadline: bool = False,
) -> dict[str, Any]:
    annotations = {"dynamollm.io/unrouted-at": "2026-01-01T00:00:00Z"} if unrouted else {}
    annotations |= {"dynamollm.io/scheduling": "EarliestDeadlineFirst"} if by_deadline else {}
    labels = {
        "dynamollm.io/service": SERVICE,
        "dynamollm.io/component": "engine",
        "dynamollm.io/pool": pool,
        "dynamollm.io/tensor-parallel": str(tp),
    }
    return {
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class FakeApi:
    """Lists and watches of pods and configmaps; remembers every query."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {"pods": {}, "configmaps": {}}
        self.version = 1
        self.queries: list[tuple[str, dict[str, str]]] = []
        self.refuse = False
        self.gone = False
        self._queues: dict[str, set[asyncio.Queue[bytes | None]]] = {"pods": set(), "configmaps": set()}
        self._past: dict[str, list[tuple[int, bytes]]] = {"pods": [], "configmaps": []}
        self.app = web.Application()
        self.app.router.add_get("/api/v1/namespaces/llm/{kind}", self._get)

    def put(self, kind: str, item: dict[str, Any]) -> None:
        name = item["metadata"]["name"]
        known = name in self.objects[kind]
        self._stamp(item)
        self.objects[kind][name] = item
        self._tell(kind, "MODIFIED" if known else "ADDED", item)

    def put_pod(self, *args: Any, **kwargs: Any) -> None:
        self.put("pods", pod(*args, **kwargs))

    def put_routing(self, document: dict[str, Any] | str) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        self.put("configmaps", {"metadata": {"name": f"{SERVICE}-routing"}, "data": {"routing.json": text}})

    def delete(self, kind: str, name: str) -> None:
        item = self.objects[kind].pop(name)
        self._stamp(item)
        self._tell(kind, "DELETED", item)

    def forget_watches(self) -> None:
        """Leave watches open and tell them nothing more: silent death."""
        for queues in self._queues.values():
            queues.clear()

    def end_watches(self) -> None:
        for queues in self._queues.values():
            for queue in queues:
                queue.put_nowait(None)

    def send(self, kind: str, event: dict[str, Any]) -> None:
        for queue in self._queues[kind]:
            queue.put_nowait(_line(event))

    def watching(self, kind: str) -> int:
        return len(self._queues[kind])

    def _stamp(self, item: dict[str, Any]) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)

    def _tell(self, kind: str, event: str, item: dict[str, Any]) -> None:
        told = {"type": event, "object": item}
        self._past[kind].append((self.version, _line(told)))
        self.send(kind, told)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        query = dict(request.query)
        self.queries.append((kind, query))
        if self.refuse:
            return web.json_response({"kind": "Status", "code": 500}, status=500)
        if "watch" not in query:
            body = {"metadata": {"resourceVersion": str(self.version)}, "items": list(self.objects[kind].values())}
            return web.json_response(body)
        if self.gone:
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        # A watch begins where its list ended: what happened between the two is told first.
        for version, line in self._past[kind]:
            if version > int(query["resourceVersion"]):
                queue.put_nowait(line)
        self._queues[kind].add(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (line := await queue.get()) is not None:
                # In two parts: an event may be cut anywhere.
                await response.write(line[:10])
                await response.write(line[10:])
        finally:
            self._queues[kind].discard(queue)
        return response


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def event(text: str = " word") -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


def sse(tokens: int) -> bytes:
    return event() * tokens + b"data: [DONE]\n\n"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeEngine:
    """Listens on a pod's address, and answers as it is told."""

    ip: str
    handler: Handler
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    cancelled: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, await request.read()))
        try:
            return await self.handler(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def streams(tokens: int) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(sse(tokens))
        return response

    return handler


def held(gate: asyncio.Event, *, first: bytes = event(), rest: bytes = b"data: [DONE]\n\n") -> Handler:
    """Send the first bytes, and the rest when the gate opens."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if first:
            await response.write(first)
        await gate.wait()
        await response.write(rest)
        return response

    return handler


def answers(status: int, body: dict[str, Any]) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handler


async def drops(request: web.Request) -> web.StreamResponse:
    """Close the connection before the first byte."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
