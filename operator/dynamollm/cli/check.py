"""``dynamollm check``: is the installation whole?"""

import asyncio
import sys
from contextlib import closing
from typing import Final

import click

from dynamollm.adapters.kube import Kube
from dynamollm.adapters.promclient import PrometheusClient
from dynamollm.api import names
from dynamollm.controller.check import Check, Level

_QUERY_S: Final = 10.0
"""Wall seconds that one query may take."""


@click.command
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    help="Where operator and agents are (env POD_NAMESPACE).",
)
@click.option("--prometheus-url", envvar="PROMETHEUS_URL", required=True, help="Of Prometheus (env PROMETHEUS_URL).")
@click.option(
    "--scrape-interval-seconds",
    envvar="SCRAPE_INTERVAL_SECONDS",
    type=click.FloatRange(min=0.1, max=120),
    default=15.0,
    show_default=True,
    help="How often Prometheus scrapes, wall time (env SCRAPE_INTERVAL_SECONDS).",
)
@click.option("--agents/--no-agents", default=True, show_default=True, help="Whether there should be agents.")
def command(*, namespace: str, prometheus_url: str, scrape_interval_seconds: float, agents: bool) -> None:
    """Look at every part of the installation; exit code 1 where something does not work. Runs in `helm test`."""

    async def run() -> bool:
        bad = False
        with closing(PrometheusClient(url=prometheus_url, timeout_s=_QUERY_S)) as metrics:
            async with Kube.in_cluster() as kube:
                look = Check(
                    kube=kube,
                    metrics=metrics,
                    namespace=namespace,
                    scrape_interval_s=scrape_interval_seconds,
                    agents=agents,
                )
                async for finding in look.run():
                    click.echo(f"{finding.level.value:8} {finding.text}")
                    bad |= finding.level is Level.PROBLEM
        return bad

    if asyncio.run(run()):
        sys.exit(1)
