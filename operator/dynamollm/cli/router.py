"""``dynamollm router``: the OpenAI-compatible front of one service."""

import asyncio
import logging

import click

from dynamollm.cli.listen import host_option


@click.command(name="router")
@click.option("--service", required=True, help="Name of the InferenceService.")
@click.option("--namespace", required=True, help="Its namespace.")
@host_option
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
def command(*, service: str, namespace: str, host: str, port: int) -> None:
    """Run a service's router: request → class → pool → least-loaded instance.

    Watches the service's pods and the ConfigMap SERVICE-routing with the pod's service account.
    DYNAMOLLM_TIME_SCALE and DYNAMOLLM_TIME_ANCHOR set simulated time.
    """
    import uvloop  # noqa: PLC0415 - each part starts with its own imports alone

    from dynamollm.adapters.clock import Clock  # noqa: PLC0415
    from dynamollm.adapters.podwatch import ApiAccess  # noqa: PLC0415
    from dynamollm.router.fleet import Fleet  # noqa: PLC0415
    from dynamollm.router.proxy import Timeouts  # noqa: PLC0415
    from dynamollm.router.server import RouterServer  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    clock = Clock.from_env()

    async def run() -> None:
        server = RouterServer(
            namespace=namespace,
            service=service,
            api=ApiAccess.in_cluster(),
            clock=clock,
            fleet=Fleet(),
            timeouts=Timeouts.on(clock),
        )
        await server.serve(host=host, port=port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
