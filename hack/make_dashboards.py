"""Writes the Grafana dashboards of the chart: `make chart`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lab.helm import CHART

FOLDER: Final = CHART / "files/dashboards"
_WIDTH, _HEIGHT = 8, 7
"""Of a panel, in Grafana's units: three in a row of 24."""
_SELECTED: Final = 'namespace=~"$namespace",service=~"$service"'


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: queries by legend."""

    title: str
    text: str
    unit: str
    queries: Mapping[str, str]
    top: float | None = None
    """End of the axis where the values have one."""


SERVICES: Final = (
    Panel(
        "Requests",
        "Arrivals by predicted class (input and output length: S, M, L).",
        "reqps",
        {"{{class}}": f"sum by (class) (rate(dynamollm_router_arrivals_total{{{_SELECTED}}}[$__rate_interval]))"},
    ),
    Panel(
        "SLO attainment",
        "Share of requests inside both their TTFT and their mean TBT.",
        "percentunit",
        {
            "{{namespace}}/{{service}}": f'sum by (namespace, service) (rate(dynamollm_router_slo_requests_total{{{_SELECTED},met="true"}}[$__rate_interval])) / '
            f"sum by (namespace, service) (rate(dynamollm_router_slo_requests_total{{{_SELECTED}}}[$__rate_interval]))"
        },
        top=1.0,
    ),
    Panel(
        "Ends",
        "How requests end: ok, rejected (no room, or a request that the engine refuses), error (an instance failed it), aborted (the client left).",
        "reqps",
        {"{{outcome}}": f"sum by (outcome) (rate(dynamollm_router_requests_total{{{_SELECTED}}}[$__rate_interval]))"},
    ),
    Panel(
        "Time to first token",
        "99th percentile by class.",
        "s",
        {
            "{{class}}": f"histogram_quantile(0.99, sum by (class, le) (rate(dynamollm_router_ttft_seconds_bucket{{{_SELECTED}}}[$__rate_interval])))"
        },
    ),
    Panel(
        "Time between tokens",
        "99th percentile by class, of each request's mean.",
        "s",
        {
            "{{class}}": f"histogram_quantile(0.99, sum by (class, le) (rate(dynamollm_router_tbt_seconds_bucket{{{_SELECTED}}}[$__rate_interval])))"
        },
    ),
    Panel(
        "In flight",
        "Requests in flight by pool.",
        "short",
        {"{{pool}}": f"sum by (pool) (dynamollm_router_in_flight{{{_SELECTED}}})"},
    ),
    Panel(
        "GPUs",
        "GPUs that services hold by pool, and GPUs of the plan.",
        "short",
        {
            "{{pool}}": f"count by (pool) (dynamollm_gpu_held{{{_SELECTED}}})",
            "planned": f"sum(dynamollm_operator_plan_gpus{{{_SELECTED}}})",
        },
    ),
    Panel(
        "Power",
        "GPU power by pool, and what the plan expects at the planned load.",
        "watt",
        {
            "{{pool}}": f"sum by (pool) (dynamollm_service_power_watts{{{_SELECTED}}})",
            "expected": f"sum(dynamollm_operator_plan_power_watts{{{_SELECTED}}})",
        },
    ),
    Panel(
        "Correction",
        "What the profile's capacities are divided by, as requests missed their SLO; 1: by nothing.",
        "short",
        {"{{namespace}}/{{service}}": f"dynamollm_operator_plan_correction_ratio{{{_SELECTED}}}"},
    ),
    Panel(
        "Energy for a request",
        "GPU energy over completed requests.",
        "joule",
        {
            "{{namespace}}/{{service}}": f"sum by (namespace, service) (rate(dynamollm_service_energy_joules_total{{{_SELECTED}}}[$__rate_interval])) / "
            f"sum by (namespace, service) (rate(dynamollm_router_completions_total{{{_SELECTED}}}[$__rate_interval]))"
        },
    ),
    Panel(
        "Clock limits",
        "SM clock that GPUs of a pool are locked to.",
        "rotmhz",
        {
            "{{pool}}": f"avg by (pool) (dynamollm_gpu_clock_limit_mhz * on (node, gpu) group_left (namespace, service, pool) dynamollm_gpu_held{{{_SELECTED}}})"
        },
    ),
    Panel(
        "Actions",
        "What the operator did, by kind.",
        "short",
        {"{{kind}}": f"sum by (kind) (increase(dynamollm_operator_actions_total{{{_SELECTED}}}[$__rate_interval]))"},
    ),
    Panel(
        "Load unknown",
        "Cycles without load, by reason: the plan is held meanwhile.",
        "cps",
        {
            "{{reason}}": f"sum by (reason) (rate(dynamollm_operator_unknown_observations_total{{{_SELECTED}}}[$__rate_interval]))"
        },
    ),
)
NODES: Final = (
    Panel("Power", "GPU power by node.", "watt", {"{{node}}": "sum by (node) (dynamollm_gpu_power_watts)"}),
    Panel("SM clock", "Mean SM clock by node.", "rotmhz", {"{{node}}": "avg by (node) (dynamollm_gpu_sm_clock_mhz)"}),
    Panel("Locked GPUs", "GPUs with a lock.", "short", {"{{node}}": "count by (node) (dynamollm_gpu_clock_limit_mhz)"}),
    Panel(
        "Clock changes",
        "Times that locked clocks were set or reset.",
        "cps",
        {"{{node}}": "sum by (node) (rate(dynamollm_gpu_clock_changes_total[$__rate_interval]))"},
    ),
    Panel(
        "Locks lost",
        "Locks that somebody else, or a driver's reload, took away.",
        "short",
        {"{{node}}": "sum by (node) (increase(dynamollm_gpu_locks_lost_total[$__rate_interval]))"},
    ),
    Panel(
        "Clock below its lock",
        "GPUs under load whose clock stays below their lock, by reason.",
        "short",
        {"{{reason}}": "sum by (reason) (dynamollm_gpu_clock_unreached)"},
    ),
    Panel(
        "Refused",
        "GPUs that an agent does not touch, by reason.",
        "short",
        {"{{reason}}": "sum by (reason) (dynamollm_agent_refused)"},
    ),
    Panel(
        "Agent errors",
        "By reason; docs/agent.md has them.",
        "cps",
        {"{{node}} {{reason}}": "sum by (node, reason) (rate(dynamollm_agent_errors_total[$__rate_interval]))"},
    ),
    Panel(
        "Clock plan",
        "Time until the plan's lease ends.",
        "s",
        {"{{node}}": "dynamollm_agent_plan_ends_timestamp_seconds - time()"},
    ),
    Panel(
        "Cycles of the operator",
        "By result.",
        "cps",
        {"{{result}}": "sum by (result) (rate(dynamollm_operator_cycles_total[$__rate_interval]))"},
    ),
    Panel(
        "Time of a cycle",
        "99th percentile.",
        "s",
        {
            "cycle": "histogram_quantile(0.99, sum by (le) (rate(dynamollm_operator_cycle_seconds_bucket[$__rate_interval])))"
        },
    ),
    Panel(
        "Writes",
        "Objects that the operator writes, by kind.",
        "cps",
        {"{{kind}}": "sum by (kind) (rate(dynamollm_operator_writes_total[$__rate_interval]))"},
    ),
)


def dashboard(uid: str, title: str, panels: tuple[Panel, ...], *, variables: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a dashboard in Grafana's model, for any data source of type Prometheus."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["dynamollm"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                *(
                    {
                        "name": name,
                        "type": "query",
                        "datasource": {"type": "prometheus", "uid": "$datasource"},
                        "query": f"label_values(dynamollm_router_arrivals_total, {name})",
                        "includeAll": True,
                        "multi": True,
                        "current": {"text": "All", "value": "$__all"},
                        "refresh": 2,
                    }
                    for name in variables
                ),
            ]
        },
        "panels": [_panel(index, panel) for index, panel in enumerate(panels)],
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "$datasource"}
    per_row = 24 // _WIDTH
    axis = {"unit": panel.unit, "min": 0} | ({"max": panel.top} if panel.top is not None else {})
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": {
            "x": index % per_row * _WIDTH,
            "y": index // per_row * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": axis, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def dashboards() -> dict[str, str]:
    """Return the text of each file of the chart's folder files/dashboards."""
    made = {
        "dynamollm-services.json": dashboard(
            "dynamollm-services", "dynamollm: services", SERVICES, variables=("namespace", "service")
        ),
        "dynamollm-nodes.json": dashboard("dynamollm-nodes", "dynamollm: nodes and operator", NODES),
    }
    return {name: json.dumps(body, indent=1) + "\n" for name, body in made.items()}


def main() -> None:
    """Write them."""
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
