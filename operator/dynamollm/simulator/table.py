"""Results as a table in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def table_of(answers: Sequence[Mapping[str, Any]], *, title: str, rule: str) -> Table:
    """Return one line for each answer; energy also relative to the first, which is SinglePool where it was asked for."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("order", no_wrap=True)
    for name in ("energy kWh", "rel.", "servers", "cost USD", "CO2 kg", "SLO", "changes"):
        table.add_column(name, justify="right")
    base = answers[0]["result"]["energy_kwh"] if answers else 0.0
    for answer in answers:
        one = answer["result"]
        attained = one["slo_attainment"]["within_five" if rule == "x5" else "total"]
        settings = "".join(f" {name} {value}" for name, value in answer["settings"].items())
        table.add_row(
            one["policy"] + settings,
            one["order"],
            f"{one['energy_kwh']:.2f}",
            f"{one['energy_kwh'] / base:.2f}" if base else "",
            f"{one['servers']:.1f}",
            f"{one['cost_usd']:.2f}",
            f"{one['carbon_kg']:.2f}",
            f"{100 * attained:.2f} %" + ("" if one["meets_slo"] else " MISSED"),
            str(one["reconfigurations"]),
            style=None if one["meets_slo"] else "red",
        )
    return table
