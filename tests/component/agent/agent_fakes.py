"""What an agent talks to, played in the test's event loop: the API that it watches, the kubelet's PodResources, engines."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
from aiohttp import web

from dynamollm.adapters import podresources_pb2 as pb

SCALE = 50.0
"""Simulated seconds per second: the agent's five seconds are a tenth."""


class FakeApi:
    """Lists and watches of DaemonSets and pods, with the selectors that the agent sends."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {"daemonsets": {}, "pods": {}}
        self._watchers: list[tuple[str, asyncio.Queue[dict[str, Any]]]] = []
        self._version = 1
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, host: str) -> None:
        app = web.Application()
        app.router.add_get("/apis/apps/v1/namespaces/dynamollm-system/daemonsets", self._daemonsets)
        app.router.add_get("/api/v1/pods", self._pods)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, 6443).start()
        self.url = f"http://{host}:6443"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def put(self, kind: str, item: dict[str, Any]) -> None:
        self._version += 1
        name = item["metadata"]["name"]
        item["metadata"]["resourceVersion"] = str(self._version)
        change = "MODIFIED" if name in self.objects[kind] else "ADDED"
        self.objects[kind][name] = item
        self._tell(kind, {"type": change, "object": item})

    def delete(self, kind: str, name: str) -> None:
        self._version += 1
        item = self.objects[kind].pop(name)
        item["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind, {"type": "DELETED", "object": item})

    def _tell(self, kind: str, event: dict[str, Any]) -> None:
        for watched, queue in self._watchers:
            if watched == kind:
                queue.put_nowait(event)

    async def _daemonsets(self, request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"] == "metadata.name=dynamollm-agent"
        return await self._answer("daemonsets", request, lambda item: item["metadata"]["name"] == "dynamollm-agent")

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        assert request.query["labelSelector"] == "dynamollm.io/component=engine"
        node = request.query["fieldSelector"].removeprefix("spec.nodeName=")
        return await self._answer(
            "pods",
            request,
            lambda item: (
                item["spec"]["nodeName"] == node
                and item["metadata"]["labels"].get("dynamollm.io/component") == "engine"
            ),
        )

    async def _answer(
        self, kind: str, request: web.Request, chosen: Callable[[dict[str, Any]], bool]
    ) -> web.StreamResponse:
        if "watch" not in request.query:
            items = [item for item in self.objects[kind].values() if chosen(item)]
            return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        since = int(request.query["resourceVersion"])
        for item in self.objects[kind].values():
            if int(item["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "MODIFIED", "object": item})
        self._watchers.append((kind, queue))
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            while True:
                event = await queue.get()
                if chosen(event["object"]):
                    await response.write(json.dumps(event).encode() + b"\n")
        self._watchers.remove((kind, queue))
        return response


class FakeKubelet:
    """PodResources: (namespace, pod) → device ids."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.devices: dict[tuple[str, str], list[str]] = {}
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            self._list,
            request_deserializer=pb.ListPodResourcesRequest.FromString,
            response_serializer=pb.ListPodResourcesResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})]
        )
        self._server.add_insecure_port(f"unix://{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _list(self, _request: object, _context: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse(
            pod_resources=[
                pb.PodResources(
                    namespace=namespace,
                    name=name,
                    containers=[
                        pb.ContainerResources(
                            name="engine",
                            devices=[
                                pb.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=[device])
                                for device in devices
                            ]
                            + [pb.ContainerDevices(resource_name="example.com/nic", device_ids=["nic-0"])],
                        )
                    ],
                )
                for (namespace, name), devices in self.devices.items()
            ]
        )


class FakeEngine:
    """An engine's /metrics: a queue, and tokens at a rate per simulated second."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.waiting = 0
        self.running = 4
        self._rate = 0.0
        self._tokens = 0.0
        self._since = time.monotonic()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, 8000).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def serve(self, tokens_per_s: float, *, waiting: int = 0) -> None:
        self._settle()
        self._rate, self.waiting = tokens_per_s, waiting

    def _settle(self) -> None:
        now = time.monotonic()
        self._tokens += self._rate * (now - self._since) * SCALE
        self._since = now

    async def _metrics(self, _request: web.Request) -> web.Response:
        self._settle()
        labels = '{engine="0",model_name="m"}'
        lines = {
            "vllm:num_requests_running": self.running,
            "vllm:num_requests_waiting": self.waiting,
            "vllm:prompt_tokens_total": self._tokens / 4,
            "vllm:generation_tokens_total": self._tokens * 3 / 4,
        }
        return web.Response(text="".join(f"{name}{labels} {value}\n" for name, value in lines.items()))
