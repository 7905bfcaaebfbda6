"""Results as a table in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

_LATENCY: Final = {"ttft": "TTFT", "token_gap": "gap"}


def table_of(answers: Sequence[Mapping[str, Any]], *, title: str, rule: str, note: str = "") -> Table:
    """Return one line for each answer; energy also relative to the first, which is SinglePool where it was asked for.

    ``note``: a sentence below it.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption="rel.: energy over the first line's"
        + ("" if not answers or answers[0]["result"]["meets_slo"] else ", which misses the SLO")
        + (f"\n{note}" if note else ""),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("policy, order", overflow="fold")
    for name in ("energy\nkWh", "rel.", "servers", "cost\nUSD", "CO2\nkg", "SLO", "failed", "changes"):
        # In 80 columns what the SLO is judged by takes more lines, and no figure is cut.
        table.add_column(name, justify="right")
    base = answers[0]["result"]["energy_kwh"] if answers else 0.0
    for answer in answers:
        one = answer["result"]
        settings = "".join(f" {name} {value}" for name, value in answer["settings"].items())
        table.add_row(
            f"{one['policy']} {one['order']}{settings}",
            f"{one['energy_kwh']:.2f}",
            f"{one['energy_kwh'] / base:.2f}" if base else "",
            f"{one['servers']:.1f}",
            f"{one['cost_usd']:.2f}",
            f"{one['carbon_kg']:.2f}",
            judged_by(one, rule) + ("" if one["meets_slo"] else " MISSED"),
            str(one["failed"]),
            str(one["reconfigurations"]),
            style=None if one["meets_slo"] else "red",
        )
    return table


def judged_by(result: Mapping[str, Any], rule: str) -> str:
    """Return the figure that the SLO is judged by: a share of the requests, or, by the rule p99, the worst class's percentile."""
    if rule != "p99":
        return f"{100 * result['slo_attainment']['within_five' if rule == 'x5' else 'total']:.2f} %"
    worst = result["worst_percentile"]
    if worst is None:
        return "no requests"
    what = f"{worst['class']} {_LATENCY[worst['latency']]} P{worst['percentile']:g}"
    if worst["ms"] is None:
        return f"{what}: too many failed"
    return f"{what} {worst['ms']:.0f} of {worst['limit_ms']:.0f} ms"
