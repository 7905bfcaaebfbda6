"""HTTP face of the operator: /metrics for Prometheus, /healthz for the kubelet."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from dynamollm.controller.budget import Key


async def serve(
    *,
    registry: CollectorRegistry,
    stalled: Callable[[], list[Key]],
    host: str,
    metrics_port: int,
    health_port: int,
) -> list[web.AppRunner]:
    """Serve until each runner's ``cleanup``.

    Raises:
        OSError: an address is taken.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(_request: web.Request) -> web.Response:
        keys = stalled()
        if not keys:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"no cycle ends for {', '.join('/'.join(key) for key in keys)}\n")

    runners = []
    for path, handler, port in (("/metrics", metrics, metrics_port), ("/healthz", healthz, health_port)):
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        runners.append(runner)
    return runners
