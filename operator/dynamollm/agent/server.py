"""HTTP face of the agent: /metrics for Prometheus, /healthz for the kubelet."""

import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest


class Heartbeat:
    """Tells whether the loop still turns."""

    def __init__(self, *, longest_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._monotonic = monotonic
        self._last_s = monotonic()

    def beat(self) -> None:
        """Note that a cycle ended."""
        self._last_s = self._monotonic()

    def stalled_s(self) -> float | None:
        """Return for how many wall seconds the loop has been silent, if that is too long; else None."""
        silent_s = self._monotonic() - self._last_s
        return silent_s if silent_s > self._longest_s else None


async def start_server(*, registry: CollectorRegistry, heartbeat: Heartbeat, host: str, port: int) -> web.AppRunner:
    """Serve until the runner's ``cleanup``.

    Raises:
        OSError: the address is taken.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(_request: web.Request) -> web.Response:
        stalled_s = heartbeat.stalled_s()
        if stalled_s is None:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"no cycle has ended for {stalled_s:.0f} s\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
