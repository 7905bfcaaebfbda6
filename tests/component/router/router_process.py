"""``python router_process.py API_URL HOST LINGER_S``: the router as a process, before an API without TLS."""

import asyncio
import sys

import uvloop

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.router.fleet import Fleet
from dynamollm.router.proxy import Timeouts
from dynamollm.router.server import RouterServer


async def _main() -> None:
    clock = Clock()
    server = RouterServer(
        namespace="llm",
        service="chat",
        api=ApiAccess(url=sys.argv[1]),
        clock=clock,
        fleet=Fleet(),
        timeouts=Timeouts.on(clock),
        linger_s=float(sys.argv[3]),
    )
    await server.serve(host=sys.argv[2], port=8080)


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(_main())
