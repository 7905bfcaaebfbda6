"""The engine's HTTP side: vLLM's paths, streams, health, and an end that aborts nothing."""

import asyncio
import contextlib
import itertools
import signal

import orjson
from aiohttp import web

from dynamollm.adapters.clock import Clock
from dynamollm.engine import chunks, metrics
from dynamollm.engine.errors import ApiError
from dynamollm.engine.pacer import Pacer
from dynamollm.engine.requests import OUTPUT_TOKENS_HEADER, TIMING_HEADER, GenerationRequest, parse
from dynamollm.engine.stream import Stream

_MAX_BODY_BYTES = 64 << 20
_SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class EngineServer:
    """Serves one model from one paced batch.

    Args:
        model: the name that requests must give.
        pacer: generates the tokens.
        engine_metrics: what ``/metrics`` renders.
        clock: simulated time.
        max_model_tokens: the most tokens, prompt and answer together, that one request may hold.
        startup_s: simulated seconds until the engine is healthy, as loading the weights takes.
    """

    def __init__(
        self,
        *,
        model: str,
        pacer: Pacer,
        engine_metrics: metrics.EngineMetrics,
        clock: Clock,
        max_model_tokens: int,
        startup_s: float,
    ) -> None:
        self._model = model
        self._pacer = pacer
        self._metrics = engine_metrics
        self._clock = clock
        self._max_model_tokens = max_model_tokens
        self._startup_s = startup_s
        self._ready = False
        self._draining = False
        self._ids = itertools.count(1)

    def app(self) -> web.Application:
        """Return the application, its routes set."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._render_metrics)
        return app

    async def serve(self, *, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is in flight and refuse the rest.

        Only the kubelet's SIGKILL at the end of the grace period cuts a stream.
        """
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, host, port, backlog=1024).start()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        driving = asyncio.create_task(self._pacer.run())
        loading = asyncio.create_task(self._load())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({driving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self._draining = True
        loading.cancel()
        stopping.cancel()
        if not driving.done():
            await self._pacer.drained()
            driving.cancel()
        await runner.cleanup()
        # A crash of the pacer surfaces here, and the process ends with it: an engine without one serves nothing.
        with contextlib.suppress(asyncio.CancelledError):
            await driving

    async def _load(self) -> None:
        await self._clock.sleep(self._startup_s)
        self._ready = True

    async def _health(self, _request: web.Request) -> web.Response:
        # Still 200 while draining: the probe is the liveness one too, and must not kill streams that are ending.
        return web.Response(status=200 if self._ready else 503)

    async def _render_metrics(self, _request: web.Request) -> web.Response:
        self._pacer.refresh()
        return web.Response(body=self._metrics.render().encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _models(self, _request: web.Request) -> web.Response:
        entry = {
            "id": self._model,
            "object": "model",
            "owned_by": "dynamollm",
            "max_model_len": self._max_model_tokens,
        }
        return _json(orjson.dumps({"object": "list", "data": [entry]}))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            self._check_serving()
            wanted = parse(
                await request.read(),
                chat=chat,
                model=self._model,
                max_model_tokens=self._max_model_tokens,
                forced_output=request.headers.get(OUTPUT_TOKENS_HEADER),
            )
            self._check_serving()  # reading a long prompt takes a while
        except ApiError as error:
            return _json(error.body(), status=error.status)
        return await self._answer(request, wanted)

    def _check_serving(self) -> None:
        if self._draining or not self._ready:
            state = "shutting down" if self._draining else "still loading"
            raise ApiError(503, f"the engine is {state}: send the request to another instance")

    async def _answer(self, request: web.Request, wanted: GenerationRequest) -> web.StreamResponse:
        number = next(self._ids)
        renderer = chunks.Renderer(
            wanted, request_id=str(number), model=self._model, created_s=int(self._clock.now_s())
        )
        stream = self._pacer.submit(
            request_id=number,
            input_tokens=wanted.input_tokens,
            output_tokens=wanted.output_tokens,
            priority=wanted.priority,
            finish_reason=wanted.finish_reason,
            whole=not wanted.stream,
        )
        try:
            if wanted.stream:
                return await _send_stream(request, stream, renderer)
            while not stream.done:
                await stream.take()
            return _json(renderer.whole())
        finally:
            # The client went away, or the answer is complete and this does nothing.
            self._pacer.close(stream)


async def _send_stream(request: web.Request, stream: Stream, renderer: chunks.Renderer) -> web.StreamResponse:
    response = web.StreamResponse(headers=_SSE_HEADERS)
    response.enable_chunked_encoding()
    await response.prepare(request)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while not stream.done:
            count = await stream.take()
            whole = sent + count >= stream.output_tokens
            remark = chunks.timing(stream) if whole and TIMING_HEADER in request.headers else b""
            await response.write(renderer.tokens(sent, count, remark=remark))
            sent += count
        await response.write_eof()
    return response


def _json(body: bytes, *, status: int = 200) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else {}  # noqa: PLR2004 - HTTP
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
