"""``dynamollm agent``: the node agent."""

import asyncio
from pathlib import Path

import click

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.jsonlog import log_json
from dynamollm.adapters.podresources import KUBELET_SOCKET
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.agent.run import AgentSettings, run_agent
from dynamollm.api import names
from dynamollm.cli.listen import host_option


@click.command
@host_option
@click.option("--port", default=names.AGENT_METRICS_PORT, show_default=True, help="For /metrics and /healthz.")
@click.option("--node", envvar="NODE_NAME", required=True, help="Name of this node (env NODE_NAME).")
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    help="Where the agents' DaemonSet is (env POD_NAMESPACE).",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/dynamollm"),
    show_default=True,
    help="On the host: the record of locks.",
)
@click.option(
    "--pod-resources-socket",
    type=click.Path(path_type=Path),
    default=KUBELET_SOCKET,
    show_default=True,
    help="The kubelet's PodResources API.",
)
@click.option(
    "--interval-seconds",
    envvar="DYNAMOLLM_CLOCK_SECONDS",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Between two clock decisions, in simulated time (env DYNAMOLLM_CLOCK_SECONDS).",
)
def command(
    *,
    host: str,
    port: int,
    node: str,
    namespace: str,
    state_dir: Path,
    pod_resources_socket: Path,
    interval_seconds: float,
) -> None:
    """Apply the clock plan to this node's GPUs and export their watts and joules.

    On SIGTERM every lock on a clock is given back before it exits.
    """
    log_json()
    settings = AgentSettings(
        node=node,
        namespace=namespace,
        host=host,
        port=port,
        state_dir=state_dir,
        pod_resources_socket=pod_resources_socket,
        interval_s=interval_seconds,
    )
    asyncio.run(run_agent(settings, api=ApiAccess.in_cluster(), clock=Clock.from_env()))
