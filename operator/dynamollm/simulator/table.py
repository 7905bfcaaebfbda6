"""Results as a table in a terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dynamollm.simulator.relative import Answer, base_in_words, relative

_NAME_COLUMNS: Final = len("SinglePoolElastic fcfs")
_LATENCY: Final = {"ttft": "TTFT", "token_gap": "gap"}


def table_of(answers: Sequence[Answer], *, title: str, rule: str, note: str = "") -> Group:
    """Return one line for each answer, in 80 columns; energy also relative to SinglePool's, where that was asked for.

    ``note``: a sentence below it.
    """
    legend = f"rel.: energy over that of {base_in_words(answers)}" if answers else ""
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    # The names of policies stay whole: figures are as short as they may be, and what the SLO is judged by takes more lines.
    table.add_column("policy, order", no_wrap=True)
    for name in ("energy\nkWh", "rel.", "servers", "cost\nUSD", "CO2\nkg"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("SLO", justify="right")
    for name in ("failed", "changes"):
        table.add_column(name, justify="right", no_wrap=True)
    for answer in answers:
        one = answer["result"]
        share = relative(answer, answers)
        table.add_row(
            _name(answer),
            short(one["energy_kwh"]),
            "" if share is None else f"{share:.2f}",
            f"{one['servers']:.1f}",
            short(one["cost_usd"]),
            short(one["carbon_kg"]),
            judged_by(one, answer["settings"].get("slo-rule", rule)) + ("" if one["meets_slo"] else " MISSED"),
            str(one["failed"]),
            str(one["reconfigurations"]),
            style=None if one["meets_slo"] else "red",
        )
    # Not the table's own title and caption, which are as narrow as it is.
    below = (Text(line, style="italic") for line in (legend, note) if line)
    return Group(Text(title, style="bold"), table, *below)


def _name(answer: Answer) -> str:
    """Return policy and order, and on lines of their own the settings that are swept."""
    result = answer["result"]
    settings = (f" {name} {value}" for name, value in answer["settings"].items())
    lines = (line for one in settings for line in textwrap.wrap(one, _NAME_COLUMNS, subsequent_indent=" "))
    return "\n".join([f"{result['policy']} {result['order']}", *lines])


def short(value: float) -> str:
    """Return a figure with up to four digits, or all that are before its point."""
    return f"{value:.{2 if value < 99.995 else 1 if value < 999.95 else 0}f}"  # noqa: PLR2004 - where a digit more begins


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
