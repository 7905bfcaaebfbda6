"""``dynamollm simulate``: what a policy would have done on a trace."""

import sys
from pathlib import Path
from typing import Any, Final

import click

from dynamollm.cli.names import Name
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import RULES

_ORDER_HELP: Final = "Order of service in the engines: fcfs, edf, or both with a comma between."


@click.command(name="simulate")
@click.option(
    "--trace",
    required=True,
    metavar="FILE[:COLUMN]",
    help="CSV of requests, hourly CSV with its column, or Prometheus JSON.",
)
@click.option(
    "--policy",
    default="all",
    show_default=True,
    metavar="NAME[,NAME…]|all",
    help="Policies; Clairvoyant knows the load to come, and is what to compare with.",
)
@click.option("--order", default="fcfs", show_default=True, metavar="fcfs[,edf]", help=_ORDER_HELP)
@click.option("--profile", default="modern", show_default=True, metavar="modern|paper|FILE", help="PerformanceProfile.")
@click.option(
    "--slo-rule",
    type=Name([*RULES], also={rule: short for short, rule in RULES.items()}),
    default="att",
    show_default=True,
    help="When the SLO counts as kept.",
)
@click.option(
    "--servers",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Servers of eight GPUs; auto: the fewest that SinglePool needs.",
)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Times the trace's rate.")
@click.option(
    "--released-watts",
    type=click.FloatRange(0, 5000),
    default=0.0,
    show_default=True,
    help="What a GPU of the cluster draws that is not held.",
)
@click.option(
    "--accuracy",
    type=click.FloatRange(0, 1),
    default=0.81,
    show_default=True,
    help="Share of output classes that are predicted right.",
)
@click.option(
    "--overheads",
    type=Name(["measured", "optimised", "cold"]),
    default="measured",
    show_default=True,
    help="What changes cost: today's, the paper's optimised, the paper's cold.",
)
@click.option(
    "--startup-seconds",
    type=click.FloatRange(0, 3600),
    help="Start-up time of an instance, in place of what --overheads says.",
)
@click.option(
    "--idle-watts",
    type=click.FloatRange(0, 5000),
    help="Of a GPU whose engine is loaded and idle, in place of the profile's.",
)
@click.option("--pools", type=click.IntRange(1, 9), help="Pin the number of pools.")
@click.option(
    "--emergency",
    type=Name(["clock", "resteer", "squash"]),
    default="clock",
    show_default=True,
    help="How far an instance goes whose queue grows.",
)
@click.option(
    "--service",
    type=click.Path(path_type=Path),
    help="InferenceService manifest with SLOs, classes and behavior [default: the paper's SLOs].",
)
@click.option(
    "--prices",
    type=click.Path(path_type=Path),
    help="ClusterPolicy manifest with prices and carbon intensity [default: docs/simulator.md].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same result.")
@click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=VALUE,…",
    help="Vary a setting, may be repeated: accuracy, load, pools, startup, idle-watts, profile, slo-rule, released-watts, overheads, seed.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes to spread the runs over.")
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="Of Dask: spread the runs over its workers in place of processes here (pip install 'dynamollm[dask]').",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep answers there, and take those that are there already.",
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write plots as one HTML file.")
@click.option("--output", type=Name(["table", "json"]), default="table", show_default=True, help="What is printed.")
def command(**options: Any) -> None:
    """Replay a trace against policies with the operator's own decision code.

    Prints energy, cost, carbon and SLO attainment of each.
    """
    try:
        # Each part starts with its own imports alone.
        from dynamollm.cli.simulate_run import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"{error.name} is not installed, which simulate needs: pip install 'dynamollm[simulator]'"
        ) from None
    sys.exit(run(**options))
