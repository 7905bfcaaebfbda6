"""The router's HTTP side: OpenAI's paths, readiness, metrics, and an end that cuts no stream."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from typing import Final

import orjson
from aiohttp import web

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.podwatch import ApiAccess, ObjectWatch
from dynamollm.api.names import LABEL_COMPONENT, LABEL_SERVICE
from dynamollm.core.outputlength import OutputLengthModel
from dynamollm.router.errors import RequestRefusedError
from dynamollm.router.exchange import Exchange
from dynamollm.router.fleet import Fleet
from dynamollm.router.metrics import RouterMetrics
from dynamollm.router.parse import ClientRequest, parse
from dynamollm.router.proxy import Proxy, Timeouts, client_session
from dynamollm.router.routing import Routing
from dynamollm.router.tokens import InputEstimate

_LOG = logging.getLogger(__name__)

_MAX_BODY_BYTES: Final = 64 << 20
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LINGER_S: Final = 5.0
"""Wall seconds after SIGTERM for which new requests are still served: endpoints of a Service lag behind its pods."""

RETRY_AFTER_S: Final = 2
"""What a 503 asks clients to wait, wall seconds: about one readiness period."""


class RouterServer:
    """Serves one InferenceService.

    Args:
        namespace: of the service.
        service: its name.
        api: how to watch its pods and routing.
        clock: simulated time.
        fleet: filled by the watches.
        timeouts: for instances.
        linger_s: wall seconds for which a router that is shutting down serves new requests.
    """

    def __init__(
        self,
        *,
        namespace: str,
        service: str,
        api: ApiAccess,
        clock: Clock,
        fleet: Fleet,
        timeouts: Timeouts,
        linger_s: float = LINGER_S,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._timeouts = timeouts
        self._metrics = RouterMetrics(namespace=namespace, service=service, fleet=fleet)
        self._lengths = OutputLengthModel()
        self._estimate = InputEstimate()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._closed = False
        self._linger_s = linger_s
        core = f"/api/v1/namespaces/{namespace}"
        self._watches = (
            ObjectWatch(
                api,
                path=f"{core}/pods",
                selector={"labelSelector": f"{LABEL_SERVICE}={service},{LABEL_COMPONENT}=engine"},
                on_change=self._fleet.set_pods,
            ),
            ObjectWatch(
                api,
                path=f"{core}/configmaps",
                selector={"fieldSelector": f"metadata.name={service}-routing"},
                on_change=self._fleet.set_routing,
            ),
        )

    def app(self) -> web.Application:
        """Return the application; it watches while it runs."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render_metrics)
        app.cleanup_ctx.append(self._run)
        return app

    async def serve(self, *, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT, linger for those who have not heard, then finish what is in flight."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
            await stop.wait()
            self._draining = True
            await asyncio.sleep(self._linger_s)
            self._closed = True
            await self._idle.wait()
        finally:
            await runner.cleanup()

    async def _run(self, _app: web.Application) -> AsyncIterator[None]:
        async with client_session() as session:
            self._proxy = Proxy(fleet=self._fleet, session=session, timeouts=self._timeouts)
            self._watching = [asyncio.create_task(watch.run()) for watch in self._watches]
            yield
            for task in self._watching:
                task.cancel()
            for result in await asyncio.gather(*self._watching, return_exceptions=True):
                if not isinstance(result, asyncio.CancelledError):
                    _LOG.error("a watch had ended: %r", result)

    # ------------------------------------------------------------------ what probes and Prometheus ask
    async def _healthz(self, _request: web.Request) -> web.Response:
        # A watch waits out whatever the API does: one that has ended met a bug, and a new process is the cure.
        if any(task.done() for task in self._watching):
            return web.Response(status=500, text="a watch has ended\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._draining:
            return web.Response(status=503, text="shutting down\n")
        if not self._fleet.ready:
            return web.Response(status=503, text="waiting for the service's pods and routing\n")
        return web.Response(text="ok\n")

    async def _render_metrics(self, _request: web.Request) -> web.Response:
        self._metrics.create_pools(self._fleet.pools())
        return web.Response(body=self._metrics.render(), headers={"Content-Type": _METRICS_TYPE})

    # ------------------------------------------------------------------ what clients ask
    async def _models(self, _request: web.Request) -> web.Response:
        try:
            model = self._routing().model
        except RequestRefusedError as error:
            return _refusal(error)
        entry = {"id": model, "object": "model", "created": int(self._clock.now_s()), "owned_by": "dynamollm"}
        return web.Response(body=orjson.dumps({"object": "list", "data": [entry]}), content_type="application/json")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        arrived_s = time.perf_counter()
        self._in_flight += 1
        self._idle.clear()
        try:
            body = await request.read()
            routing = self._routing()
            exchange = self._exchange(parse(body, chat=chat), routing, arrived_s)
            return await self._proxy.forward(request, body, exchange)
        except RequestRefusedError as error:
            return _refusal(error)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def _routing(self) -> Routing:
        if self._closed:
            raise RequestRefusedError(503, "the router is shutting down: try again, another one answers")
        if not self._fleet.ready or self._fleet.routing is None:
            raise RequestRefusedError(503, "the router does not know the service's instances yet: try again")
        return self._fleet.routing

    def _exchange(self, wanted: ClientRequest, routing: Routing, arrived_s: float) -> Exchange:
        if wanted.model != routing.model:
            raise RequestRefusedError(
                404, f"the model {wanted.model!r} does not exist: this service serves {routing.model!r}"
            )
        return Exchange(
            wanted,
            routing=routing,
            arrived_s=arrived_s,
            clock=self._clock,
            lengths=self._lengths,
            estimate=self._estimate,
            metrics=self._metrics,
        )


def _refusal(error: RequestRefusedError) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}  # noqa: PLR2004 - HTTP
    return web.Response(body=error.body(), status=error.status, content_type="application/json", headers=headers)
