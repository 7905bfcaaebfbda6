"""``dynamollm uninstall``: what has to be over before the chart's objects may go."""

import asyncio

import click

from dynamollm.adapters.jsonlog import log_json
from dynamollm.adapters.kube import Kube
from dynamollm.api import names
from dynamollm.controller.uninstall import Services, Uninstall


@click.command
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    help="Where operator and agents are (env POD_NAMESPACE).",
)
@click.option(
    "--services",
    type=click.Choice([choice.value for choice in Services]),
    default=Services.KEEP.value,
    show_default=True,
    help="What becomes of InferenceServices: Keep leaves them and their pods as they are.",
)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="How long the operator may take to see all services out (with Delete).",
)
def command(*, namespace: str, services: str, timeout_seconds: float) -> None:
    """End operator and agents, give clocks back, release finalizers. Runs in the chart's pre-delete hook."""
    log_json()

    async def run() -> None:
        async with Kube.in_cluster() as kube:
            await Uninstall(
                kube=kube, namespace=namespace, services=Services(services), timeout_s=timeout_seconds
            ).run()

    asyncio.run(run())
