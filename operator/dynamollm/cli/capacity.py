"""``dynamollm capacity``: what one instance carries of a class mix within the SLO, by order, TP degree and clock."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from dynamollm.adapters.manifests import read_documents
from dynamollm.cli.names import Name
from dynamollm.cli.read_documents import find_profile, find_service, find_service_spec
from dynamollm.cli.read_load import read_load
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.fit import check_clock, fitting_profile
from dynamollm.core.names import ORDERS
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Service
from dynamollm.core.service import service_from_spec
from dynamollm.core.whatif import Carried, carried, check_lengths

CLOCKS_SHOWN: Final = 8
"""Clocks of a profile that are shown where none is asked for: evenly spaced, the lowest and the highest among them."""

_FILE = click.Path(path_type=Path)


@click.command("capacity")
@click.option(
    "-f",
    "--file",
    "files",
    type=_FILE,
    multiple=True,
    required=True,
    help="Manifests: an InferenceService and its PerformanceProfile. Files with one or more documents, or folders; may be repeated.",
)
@click.option(
    "--load", "load_file", type=_FILE, required=True, help="The mix: class → rate_per_s, input_tokens, output_tokens."
)
@click.option("--service", "name", help="Which InferenceService, where -f has several.")
@click.option(
    "--order",
    type=Name([order.value for order in Order], also=ORDERS),
    multiple=True,
    help="Order of service, may be repeated [default: both].",
)
@click.option("--tensor-parallel", type=int, multiple=True, help="TP degree, may be repeated [default: the service's].")
@click.option(
    "--clock", type=int, multiple=True, help="SM clock in MHz, may be repeated [default: eight of the profile's]."
)
@click.option("--output", type=Name(["table", "json"]), default="table", show_default=True, help="What to print.")
def command(
    *,
    files: tuple[Path, ...],
    load_file: Path,
    name: str | None,
    order: tuple[str, ...],
    tensor_parallel: tuple[int, ...],
    clock: tuple[int, ...],
    output: str,
) -> None:
    """Print the rate of a class mix that one instance carries within the SLO, and its watts.

    Only the shares of the load matter, not its total.
    """
    documents = read_documents(files)
    manifest = find_service(documents, name=name)
    spec = find_service_spec(manifest)
    profile = fitting_profile(spec, find_profile(documents, name=spec.profile_ref.name, asked_by=manifest))
    service = service_from_spec(manifest.namespace, manifest.name, spec)
    load = read_load(load_file)
    check_lengths(load, service.boundaries)
    rows = carried(
        service,
        profile,
        load,
        orders=[Order(one) for one in dict.fromkeys(order)] or tuple(Order),
        tensor_parallel=_degrees(tuple(dict.fromkeys(tensor_parallel)), service, profile),
        clocks_mhz=_clocks(tuple(dict.fromkeys(clock)), profile),
    )
    if output == "json":
        click.echo(json.dumps(_as_json(service, profile, rows), indent=2, ensure_ascii=False))
    else:
        _print_tables(service, profile, rows)


def _degrees(asked: Sequence[int], service: Service, profile: Profile) -> Sequence[int]:
    for degree in asked:
        if degree not in profile.tensor_parallel:
            raise InvalidInputError(
                f"--tensor-parallel is {degree}, and PerformanceProfile {profile.name} holds for "
                f"{', '.join(map(str, profile.tensor_parallel))}: take one of them"
            )
    return asked or service.tensor_parallel


def _clocks(asked: Sequence[int], profile: Profile) -> Sequence[int]:
    for clock_mhz in asked:
        check_clock(clock_mhz, profile, field="--clock")
    clocks = profile.clocks_mhz
    if asked or len(clocks) <= CLOCKS_SHOWN:
        return asked or clocks
    last = len(clocks) - 1
    return [clocks[round(index * last / (CLOCKS_SHOWN - 1))] for index in range(CLOCKS_SHOWN)]


def _as_json(service: Service, profile: Profile, rows: Sequence[Carried]) -> dict[str, Any]:
    return {
        "service": f"{service.namespace}/{service.name}",
        "profile": profile.name,
        "rule": str(service.slo.rule),
        "percentile": service.slo.percentile,
        "instances": [
            {
                "order": str(row.order),
                "tensorParallel": row.tensor_parallel,
                "clockMHz": row.clock_mhz,
                "ratePerSecond": round(row.rate_per_s, 4),
                "powerWatts": round(row.power_w, 1),
                "halfRatePowerWatts": round(row.half_power_w, 1),
                "joulesPerRequest": None if row.joules_per_request is None else round(row.joules_per_request, 2),
            }
            for row in rows
        ],
    }


def _print_tables(service: Service, profile: Profile, rows: Sequence[Carried]) -> None:
    slo, console = service.slo, Console()
    title = f"{service.namespace}/{service.name} on {profile.name}: {slo.rule}, {slo.percentile:g} %"
    console.print(f"[bold]{title}[/bold]", highlight=False)
    for order in dict.fromkeys(row.order for row in rows):
        console.print(_table(order, [row for row in rows if row.order is order]), highlight=False)
    console.print("* least energy per request in this order of service", highlight=False)


def _table(order: Order, rows: Sequence[Carried]) -> Table:
    best = min((row.joules_per_request for row in rows if row.joules_per_request is not None), default=None)
    table = Table(title=str(order), title_justify="left")
    for heading in ("TP", "clock MHz", "carries /s", "per GPU /s", "W", "W at half", "J/request"):
        table.add_column(heading, justify="right")
    for row in rows:
        joules = row.joules_per_request
        if joules is None:
            table.add_row(str(row.tensor_parallel), str(row.clock_mhz), "none")
            continue
        table.add_row(
            str(row.tensor_parallel),
            str(row.clock_mhz),
            f"{row.rate_per_s:.2f}",
            f"{row.rate_per_s / row.tensor_parallel:.2f}",
            f"{row.power_w:.0f}",
            f"{row.half_power_w:.0f}",
            f"{joules:.0f}{' *' if joules == best else '  '}",
        )
    return table
