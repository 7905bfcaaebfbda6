"""The demo's screen: pools, clocks, watts, SLO attainment and energy, drawn from the last look at the cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dynamollm.core.classes import RequestClass
from lab.demo.summary import ClassTally, Summary, Tally, percentile
from lab.demo.world import Look, Reconfigurations

EVENTS = 5


@dataclass(frozen=True, slots=True)
class Moment:
    """What is drawn at one moment; energies in Wh since the replay began."""

    simulated_s: float
    duration_s: float
    scale: float
    look: Look
    changes: Reconfigurations
    clock_changes: float
    tally: Tally
    rate_per_s: float
    energy_wh: float | None
    single_pool_wh: float | None


def screen(moment: Moment) -> RenderableType:
    """Return the whole screen."""
    return Group(
        _header(moment),
        _pools(moment.look),
        _classes(moment.tally),
        _energy(moment),
        _events(moment.look.events),
    )


def line(moment: Moment) -> str:
    """Return one plain line, for where there is no terminal."""
    status = moment.look.service.get("status", {})
    return (
        f"{_clock_time(moment.simulated_s)} of {_clock_time(moment.duration_s)}  {moment.rate_per_s:.1f} req/s  "
        f"{moment.tally.requests} done, {moment.tally.failed} failed  SLO {_percent(moment.tally.attainment)}  "
        f"GPUs {status.get('display', {}).get('gpus', '?')}  {_groups_text(moment.look)}  {_watts(moment.look.power_w)}  "
        f"{_wh(moment.energy_wh)} (SinglePool {_wh(moment.single_pool_wh)})"
    )


def _header(moment: Moment) -> RenderableType:
    text = Text.assemble(
        ("dynamollm", "bold"),
        f"  {_clock_time(moment.simulated_s)} of {_clock_time(moment.duration_s)} simulated, {moment.scale:g}× real time   ",
        (f"{moment.rate_per_s:.1f} req/s", "cyan"),
        f"   {moment.tally.requests:,} requests done, ",
        (f"{moment.tally.failed} failed", "green" if moment.tally.failed == 0 else "bold red"),
    )
    bar = Table.grid()  # a bar alone ends no line
    bar.add_row(ProgressBar(total=moment.duration_s, completed=min(moment.simulated_s, moment.duration_s), width=78))
    return Group(text, bar)


def _pools(look: Look) -> RenderableType:
    table = Table(title="Pools", title_justify="left", expand=False)
    for column in ("pool", "classes"):
        table.add_column(column)
    for column in ("planned req/s", "capacity req/s", "instances", "clock now MHz", "power W"):
        table.add_column(column, justify="right")
    for pool in look.service.get("status", {}).get("pools", []):
        name = pool["name"]
        table.add_row(
            name,
            " ".join(pool.get("classes", [])) or "draining",
            _milli(pool.get("ratePerSecondMilli")),
            _milli(pool.get("capacityPerSecondMilli")),
            "\n".join(_group_text(group) for group in pool.get("groups", [])),
            _span(look.pool_clocks_mhz.get(name, ())),
            _number(look.pool_power_w.get(name)),
        )
    return table


def _group_text(group: Mapping[str, Any]) -> str:
    draining = f", {group['draining']} draining" if group.get("draining") else ""
    return f"{group.get('ready', 0)}/{group.get('desired', 0)} × TP{group['tensorParallel']}{draining}"


def _classes(tally: Tally) -> RenderableType:
    table = Table(title="Requests by class, as the client saw them", title_justify="left", expand=False)
    table.add_column("class")
    for column in ("requests", "failed", "in SLO", "TTFT p50 / p99 ms", "SLO ms", "TBT p50 / p99 ms", "SLO ms"):
        table.add_column(column, justify="right")
    for request_class, one in tally.classes.items():
        table.add_row(request_class.value, *_class_cells(tally, request_class, one))
    table.add_section()
    table.add_row("all", f"{tally.requests:,}", str(tally.failed), _percent(tally.attainment), "", "", "", "")
    return table


def _class_cells(tally: Tally, request_class: RequestClass, one: ClassTally) -> list[str]:
    return [
        f"{one.requests:,}",
        str(one.failed),
        _percent(one.attainment),
        f"{_number(percentile(one.ttft_ms, 0.5))} / {_number(percentile(one.ttft_ms, 0.99))}",
        _number(tally.slo.ttft_ms[request_class]),
        f"{_number(percentile(one.tbt_ms, 0.5))} / {_number(percentile(one.tbt_ms, 0.99))}",
        _number(tally.slo.tbt_ms[request_class]),
    ]


def _energy(moment: Moment) -> RenderableType:
    text = Text.assemble(
        "GPU power ",
        (_watts(moment.look.power_w), "bold"),
        "   energy so far ",
        (_wh(moment.energy_wh), "bold"),
        "   SinglePool on the same requests ",
        (_wh(moment.single_pool_wh), "bold"),
        _saving(moment.energy_wh, moment.single_pool_wh),
        f"\nscalings {moment.changes.scalings}   re-shardings {moment.changes.reshardings}   "
        f"clock changes {moment.clock_changes:,.0f}   GPUs {moment.look.service.get('status', {}).get('display', {}).get('gpus', '?')}",
    )
    return Panel(text, title="Energy", title_align="left", expand=False)


def _saving(ours: float | None, theirs: float | None) -> Text:
    if ours is None or not theirs:
        return Text("")
    saving = 1 - ours / theirs
    return Text(f"   {-saving:+.0%}", style="bold green" if saving > 0 else "bold red")


def _events(events: Sequence[str]) -> RenderableType:
    return Panel("\n".join(events[-EVENTS:]) or "none yet", title="Events", title_align="left", expand=False)


def summary_table(summary: Summary) -> RenderableType:
    """Return the closing table."""
    saving = 1 - summary.energy_wh / summary.energy_wh_single_pool if summary.energy_wh_single_pool else None
    table = Table(title="Summary", title_justify="left", show_header=False, expand=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in (
        ("requests", f"{summary.tally.requests:,}"),
        ("failed", str(summary.tally.failed)),
        ("inside their SLO", _percent(summary.tally.attainment)),
        ("inside it with real work × speed", _percent(summary.tally.attainment_stretched)),
        ("inside it by the operator's status", _percent(summary.attainment_in_status)),
        ("GPU energy (released GPUs at 0 W)", _wh(summary.energy_wh)),
        ("GPU energy (released GPUs idle at 75 W)", _wh(summary.energy_wh_released_idle)),
        ("GPU energy of SinglePool, same requests", _wh(summary.energy_wh_single_pool)),
        ("SinglePool's requests inside their SLO", _percent(summary.single_pool_attainment)),
        ("saving against SinglePool", _percent(saving)),
        ("scalings", str(summary.scalings)),
        ("re-shardings", str(summary.reshardings)),
        ("clock changes", f"{summary.clock_changes:,}"),
        ("simulated time", _clock_time(summary.simulated_seconds)),
        ("wall time", f"{summary.seconds:.0f} s"),
    ):
        table.add_row(what, value)
    return Group(_classes(summary.tally), table)


def _groups_text(look: Look) -> str:
    pools = look.service.get("status", {}).get("pools", [])
    return " ".join(
        f"{pool['name']}:{'+'.join(_group_text(group) for group in pool.get('groups', []))}" for pool in pools
    )


def _span(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def _clock_time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _milli(value: int | None) -> str:
    return "–" if value is None else f"{value / 1000:.2f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def _watts(value: float | None) -> str:
    return "unknown" if value is None else f"{value / 1000:.2f} kW"


def _wh(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} Wh"
