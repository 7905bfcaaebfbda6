"""Results as one self-contained HTML file: plots that zoom and tell their values, no network needed to look at them."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from plotly.offline import get_plotlyjs

from dynamollm.core.classes import RequestClass
from dynamollm.core.names import RULES
from dynamollm.core.records import Slo, SloRule
from dynamollm.simulator.relative import Answer, base_in_words, label, relative
from dynamollm.simulator.table import judged_by, short

_COLOURS: Final = (
    *("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951"),
    *("#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0"),
    # The same, darker: eight policies in two orders of service are sixteen.
    *("#26407f", "#926b0d", "#a3402f", "#3c766a", "#226632"),
    *("#a34f72", "#673c99", "#566d91", "#5e3f2e", "#575a60"),
)
_MISSED: Final = "#b3261e"
_LINE_PX: Final = 20
_LETTER_PX: Final = 7.5
"""Of legends: height of a line, and about the width of a letter."""
_PLOT_PX: Final = 480
"""The narrowest that a plot gets beside another."""

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; margin: 0 auto; padding: 24px; max-width: 1180px; background: #fff }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 4px } p { margin: 4px 0 12px; color: #4a4f57 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid #e3e5e8 } td { white-space: nowrap } th { font-weight: 600 }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left } .missed { color: #b3261e }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 8px 20px }
figure { margin: 0; min-width: 0 } figcaption { font-weight: 600; margin: 8px 0 0 } select { font: inherit; padding: 3px 8px } .run[hidden] { display: none }
"""

_SCRIPT: Final = """
const drawn = new Set();
function draw(id) {
  if (drawn.has(id)) return;
  drawn.add(id);
  Plotly.newPlot(id, PLOTS[id].data, PLOTS[id].layout, {displayModeBar: false, responsive: true});
}
function show(run) {
  for (const one of document.querySelectorAll('.run')) one.hidden = one.dataset.run !== run;
  for (const one of document.querySelectorAll(`.run[data-run="${run}"] .plot`)) draw(one.id);
}
for (const one of document.querySelectorAll('.plot')) if (!one.closest('.run')) draw(one.id);
const choice = document.getElementById('run');
choice.addEventListener('change', () => show(choice.value));
show(choice.value);
document.body.dataset.ready = 'true';
"""

_LATENCIES: Final = (
    "99th percentile by request class (input, then output: short, medium, long); the line is the SLO's limit. {hatched} "
    "The scale of milliseconds is logarithmic."
)
_HATCHED: Final[Mapping[SloRule, str]] = {
    SloRule.PER_REQUEST: (
        "The rule att asks that {percentile:g} % of all requests together keep both limits, so this percentile of a class may "
        "be above its line. Hatched: where a policy misses that, the classes of which fewer than {percentile:g} % do."
    ),
    SloRule.FIVE_TIMES_ALONE: (
        "The rule x5 looks at neither, but at how long a request takes beside one alone: no bar is hatched, and whether it "
        "was kept is in the table."
    ),
    SloRule.PER_CLASS_PERCENTILE: "By the rule p99 what is above it misses the SLO, and is hatched.",
}
"""What hatched bars mean, by the rule in force."""

_INCOMPARABLE: Final = (
    '<p class="missed">Policies that miss the SLO are red and hatched: what they save is not comparable.</p>'
)


def report_html(answers: Sequence[Answer], *, title: str, about: str, slo: Slo) -> str:
    """Return the report.

    Args:
        answers: at least one.
        title: the trace.
        about: one sentence on profile, rule and accounting.
        slo: limits by class, drawn beside the latencies.
    """
    plots: dict[str, Any] = {}
    body = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>",
        _table(answers, rule=next(name for name, rule in RULES.items() if rule is slo.rule)),
        "<h2>Energy, cost and carbon</h2>",
        "" if all(one["result"]["meets_slo"] for one in answers) else _INCOMPARABLE,
        '<div class="pair">',
        *_bars(answers, plots),
        f"</div><h2>Latency against the SLO</h2><p>{_latency_legend(answers, slo)}</p>",
        '<div class="pair">',
        *_latencies(answers, plots, slo),
        "</div><h2>Over time</h2>",
        _choice(answers),
        *(_over_time(number, answer, plots) for number, answer in enumerate(answers)),
    ]
    script = f"const PLOTS = {_json(plots)};{_SCRIPT}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{''.join(body)}<script>{script}</script></body></html>"
    )


def _table(answers: Sequence[Answer], *, rule: str) -> str:
    names = (
        *("policy", "order", "energy kWh", "relative", "servers", "GPU h", "cost USD", "CO2 kg", "power p50 / p99 kW"),
        *("SLO", "failed", "changes"),
    )
    rows = []
    for one in answers:
        result = one["result"]
        share = relative(one, answers)
        settings = html.escape(label(one).removeprefix(f"{result['policy']} "))
        cells = (
            html.escape(result["policy"]),
            settings,
            f"{result['energy_kwh']:.2f}",
            "" if share is None else f"{share:.2f}",
            f"{result['servers']:.1f}",
            f"{result['gpu_hours']:.1f}",
            f"{result['cost_usd']:.2f}",
            f"{result['carbon_kg']:.2f}",
            f"{result['power_w']['p50'] / 1e3:.1f} / {result['power_w']['p99'] / 1e3:.1f}",
            judged_by(result, one["settings"].get("slo-rule", rule)) + ("" if result["meets_slo"] else " missed"),
            str(result["failed"]),
            str(result["reconfigurations"]),
        )
        mark = "" if result["meets_slo"] else ' class="missed"'
        rows.append(f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    header = "".join(f"<th>{name}</th>" for name in names)
    legend = f"<p>relative: energy over that of {html.escape(base_in_words(answers))}.</p>"
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>{legend}"


# ------------------------------------------------------------------ plots
def _bars(answers: Sequence[Answer], plots: dict[str, Any]) -> list[str]:
    names = [label(one) for one in answers]
    kept = [one["result"]["meets_slo"] for one in answers]
    marker = {
        "color": [_COLOURS[0] if one else _MISSED for one in kept],
        "pattern": _hatched(not one for one in kept),
    }
    shares = [relative(one, answers) for one in answers]

    def bars(field: str, texts: Sequence[str] | None) -> dict[str, Any]:
        values = [one["result"][field] for one in answers]
        return {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "x": values,
            "marker": marker,
            "text": [
                text + ("" if one else ", missed")
                for text, one in zip(texts or [f"{value:.2f}" for value in values], kept, strict=True)
            ],
            "textposition": "auto",
        }

    texts = [
        short(one["result"]["energy_kwh"]) + ("" if share is None else f" ({share:.2f})")
        for one, share in zip(answers, shares, strict=True)
    ]
    found = []
    for name, field, unit, shown in (
        ("energy", "energy_kwh", "GPU energy, kWh (relative, as in the table)", texts),
        ("cost", "cost_usd", "electricity and held GPUs, USD", None),
        ("carbon", "carbon_kg", "CO2 equivalent, kg", None),
        ("servers", "servers", "servers held, mean", None),
    ):
        layout = _layout(height=50 + 28 * len(answers))
        layout["yaxis"] = {"autorange": "reversed", "automargin": True}
        layout["xaxis"] = {"rangemode": "tozero", "automargin": True}
        found.append(_plot(name, unit, [bars(field, shown)], layout, plots))
    return found


def _latencies(answers: Sequence[Answer], plots: dict[str, Any], slo: Slo) -> list[str]:
    found = []
    by_gap = slo.rule is SloRule.PER_CLASS_PERCENTILE
    for name, field, limits, unit in (
        ("ttft", "ttft_ms", slo.ttft_ms, "TTFT p99"),
        (
            "tbt",
            _tbt_field(slo),
            slo.tbt_ms,
            "time between tokens p99, of all gaps" if by_gap else "mean TBT of a request p99",
        ),
    ):
        classes = [c for c in RequestClass if any(c.value in one["result"][field] for one in answers)]
        data: list[dict[str, Any]] = []
        for number, one in enumerate(answers):
            p99 = [one["result"][field].get(c.value, {}).get("p99") for c in classes]
            by = _missed_by(one, field, slo)
            missed = [c in by for c in classes]
            data.append(
                {
                    "type": "bar",
                    "name": label(one),
                    "x": [c.value for c in classes],
                    "y": p99,
                    "marker": {
                        "color": _COLOURS[number % len(_COLOURS)],
                        "pattern": _hatched(missed),
                        "line": {"color": _MISSED, "width": [2 if one else 0 for one in missed]},
                    },
                }
            )
        data.append(
            {
                "type": "scatter",
                "name": "SLO",
                "mode": "lines+markers",
                "x": [c.value for c in classes],
                "y": [limits[c] for c in classes],
                "line": {"color": "#1c1f24", "shape": "hvh", "width": 2},
            }
        )
        layout = _layout(height=330, legend=[one["name"] for one in data])
        shown = [ms for one in data for ms in one["y"] if ms]
        layout["yaxis"] = {**_logarithmic(shown), "automargin": True, "title": {"text": "ms, logarithmic"}}
        found.append(_plot(name, unit, data, layout, plots))
    return found


def _missed_by(answer: Answer, latency: str, slo: Slo) -> set[RequestClass]:
    """Return the classes by which an answer misses the SLO, by its own rule, and in this latency as far as can be told."""
    result, rule = answer["result"], _rule_of(answer, slo)
    if result["meets_slo"] or rule is SloRule.FIVE_TIMES_ALONE:
        return set()
    above = {
        field: {c for c in RequestClass if (result[field].get(c.value, {}).get("p99") or 0.0) > limits[c]}
        for field, limits in (("ttft_ms", slo.ttft_ms), (_tbt_field(slo), slo.tbt_ms))
    }
    if rule is SloRule.PER_CLASS_PERCENTILE:
        return above[latency]
    attained = result["slo_attainment"]["by_class"]
    missed = {c for c in RequestClass if 100 * attained.get(c.value, 1.0) < slo.percentile}
    # A request has to keep both limits: where neither percentile tells which it was, it was some of each.
    return missed - (set.union(*above.values()) - above[latency])


def _tbt_field(slo: Slo) -> str:
    return "token_gap_ms" if slo.rule is SloRule.PER_CLASS_PERCENTILE else "tbt_ms"


def _latency_legend(answers: Sequence[Answer], slo: Slo) -> str:
    rules = dict.fromkeys(_rule_of(one, slo) for one in answers)
    return _LATENCIES.format(hatched=" ".join(_HATCHED[rule].format(percentile=slo.percentile) for rule in rules))


def _rule_of(answer: Answer, slo: Slo) -> SloRule:
    """Return the rule that an answer was judged by: it may be swept."""
    return RULES.get(answer["settings"].get("slo-rule", ""), slo.rule)


def _hatched(which: Iterable[bool]) -> dict[str, Any]:
    shapes = ["/" if one else "" for one in which]
    return {"shape": shapes, "fillmode": "overlay", "fgcolor": "#ffffff", "solidity": 0.12, "size": 10}


def _logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """Return an axis with ticks at 1, 2 and 5 of every power of ten, written out; its lowest value has a bar too."""
    low, high = min(values, default=1.0) / 1.5, max(values, default=1.0) * 1.2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _choice(answers: Sequence[Answer]) -> str:
    best = min(
        range(len(answers)),
        key=lambda number: (not answers[number]["result"]["meets_slo"], answers[number]["result"]["energy_kwh"]),
    )
    options = "".join(
        f'<option value="{number}"{" selected" if number == best else ""}>{html.escape(label(one))}</option>'
        for number, one in enumerate(answers)
    )
    return f'<p><label>Policy <select id="run">{options}</select></label></p>'


def _over_time(number: int, answer: Answer, plots: dict[str, Any]) -> str:
    series = answer["series"]
    hours = series["hours"]
    found = []
    for name, field, unit, stacked in (
        ("power", "power_w", "power of held GPUs by pool, W", True),
        ("gpus", "gpus", "GPUs held by pool", True),
        ("instances", "instances", "instances by pool", True),
        ("degrees", "degrees", "instances by TP degree", True),
        ("clock", "clock_mhz", "SM clock by pool, mean over serving GPUs, MHz", False),
    ):
        data = [
            {
                "type": "scatter",
                "mode": "lines",
                "name": pool,
                "x": hours,
                "y": values,
                "line": {"width": 0.8 if stacked else 1.6, "color": _COLOURS[index % len(_COLOURS)], "shape": "hv"},
                **({"stackgroup": "one"} if stacked else {}),
            }
            for index, (pool, values) in enumerate(series[field].items())
        ]
        layout = _layout(height=290, legend=list(series[field]), hours=True)
        found.append(_plot(f"{name}-{number}", unit, data, layout, plots))
    attained = {
        "type": "scatter",
        "mode": "lines",
        "x": hours,
        "y": [None if share is None else 100 * share for share in series["attainment"]],
        "line": {"color": _COLOURS[0], "width": 1.6},
    }
    layout = _layout(height=290, hours=True)
    layout["yaxis"] = {"automargin": True, "autorangeoptions": {"maxallowed": 100.5}}
    found.append(_plot(f"attainment-{number}", "requests within their SLO, %", [attained], layout, plots))
    return f'<div class="run pair" data-run="{number}" hidden>{"".join(found)}</div>'


def _layout(*, height: int, legend: Sequence[str] = (), hours: bool = False) -> dict[str, Any]:
    """Return a layout; ``height`` is without the legend, which is above the plot: below it are the axis and its title."""
    widest = 60 + _LETTER_PX * max(map(len, legend), default=0)
    lines = -(-len(legend) // max(1, int(_PLOT_PX / widest)))
    layout: dict[str, Any] = {
        "height": height + _LINE_PX * lines,
        "margin": {"l": 60, "r": 12, "t": 12, "b": 44},
        "showlegend": bool(legend),
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1c1f24"},
        "plot_bgcolor": "#f7f8f9",
        "paper_bgcolor": "#ffffff",
        "hovermode": "x unified" if hours else "closest",
        "barmode": "group",
    }
    if hours:
        layout["xaxis"] = {"title": {"text": "hours since the trace's beginning"}}
        layout["yaxis"] = {"rangemode": "tozero", "automargin": True}
    return layout


def _plot(name: str, title: str, data: list[dict[str, Any]], layout: dict[str, Any], plots: dict[str, Any]) -> str:
    plots[name] = {"data": data, "layout": layout}
    drawn = f'<div class="plot" id="{name}" style="height:{layout["height"]}px"></div>'
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{drawn}</figure>"


def _json(value: Any) -> str:
    # A string that ends the script element would end the script.
    return orjson.dumps(value).decode().replace("</", "<\\/")
