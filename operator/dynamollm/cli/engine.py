"""``dynamollm engine``: a simulated inference engine with vLLM's API."""

import asyncio
import logging
from pathlib import Path

import click

from dynamollm.cli.listen import host_option


@click.command(name="engine")
@click.option("--model", required=True, help="Name that requests must give.")
@click.option("--tensor-parallel-size", default=1, show_default=True, help="GPUs of this instance.")
@click.option(
    "--profile-file",
    required=True,
    type=click.Path(path_type=Path),
    help="Spec of a PerformanceProfile, JSON.",
)
@click.option(
    "--scheduling-policy",
    type=click.Choice(["fcfs", "priority"]),
    default="fcfs",
    show_default=True,
    help="Order of service: as requests come, or by their field priority, lower first.",
)
@click.option("--startup-seconds", type=float, help="Simulated seconds until healthy [default: the profile's].")
@host_option
@click.option("--port", default=8000, show_default=True, help="Port to listen on.")
def command(
    *,
    model: str,
    tensor_parallel_size: int,
    profile_file: Path,
    scheduling_policy: str,
    startup_seconds: float | None,
    host: str,
    port: int,
) -> None:
    """Run a simulated engine: vLLM's API and metrics, times and watts of a PerformanceProfile.

    Runs at the SM clock of the GPUs that NVML shows, at the highest one without NVML.
    DYNAMOLLM_TIME_SCALE and DYNAMOLLM_TIME_ANCHOR set simulated time.
    """
    import uvloop  # noqa: PLC0415 - each part starts with its own imports alone

    from dynamollm.adapters.clock import Clock  # noqa: PLC0415
    from dynamollm.engine.build import build_server  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    clock = Clock.from_env()

    async def run() -> None:
        server, gpus = build_server(
            model=model,
            tensor_parallel=tensor_parallel_size,
            profile_file=profile_file,
            by_priority=scheduling_policy == "priority",
            startup_s=startup_seconds,
            clock=clock,
        )
        try:
            await server.serve(host=host, port=port)
        finally:
            gpus.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
