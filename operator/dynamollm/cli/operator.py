"""``dynamollm operator``: the controller."""

import asyncio
import logging

import click

from dynamollm.adapters.allocator import keep_freed_memory
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.jsonlog import log_json
from dynamollm.api import names
from dynamollm.cli.listen import host_option
from dynamollm.controller.run import OperatorSettings, run_operator


@click.command
@host_option
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    help="Where lease and agents are (env POD_NAMESPACE).",
)
@click.option("--pod-name", envvar="POD_NAME", required=True, help="Name of this pod (env POD_NAME).")
@click.option("--prometheus-url", envvar="PROMETHEUS_URL", required=True, help="Of Prometheus (env PROMETHEUS_URL).")
@click.option(
    "--scrape-interval-seconds",
    envvar="SCRAPE_INTERVAL_SECONDS",
    type=click.FloatRange(min=0.1, max=120),
    default=15.0,
    show_default=True,
    help="How often Prometheus scrapes, wall time (env SCRAPE_INTERVAL_SECONDS).",
)
@click.option(
    "--image",
    envvar="DYNAMOLLM_IMAGE",
    required=True,
    help="Image of routers and simulated engines (env DYNAMOLLM_IMAGE).",
)
def command(
    *, host: str, namespace: str, pod_name: str, prometheus_url: str, scrape_interval_seconds: float, image: str
) -> None:
    """Reconcile InferenceServices: one active process by a lease, others wait.

    DYNAMOLLM_TIME_SCALE and DYNAMOLLM_TIME_ANCHOR set simulated time.
    """
    log_json()
    keep_freed_memory()
    # kopf's own lines say that it called a handler; ours say what came of it.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    options = OperatorSettings(
        host=host,
        namespace=namespace,
        pod_name=pod_name,
        prometheus_url=prometheus_url,
        scrape_interval_s=scrape_interval_seconds,
        image=image,
    )
    asyncio.run(run_operator(options, clock=Clock.from_env()))
