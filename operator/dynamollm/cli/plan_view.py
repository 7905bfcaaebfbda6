"""What ``dynamollm plan`` prints: tables for people, JSON for scripts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.cli.plan_runner_up import in_words
from dynamollm.core.objective import grams_per_hour, usd_per_hour
from dynamollm.core.plan_codec import encode
from dynamollm.core.policies.base import Reason
from dynamollm.core.prices import tells_carbon, tells_cost, unpriced
from dynamollm.core.profile import Profile
from dynamollm.core.records import GroupPlan, Plan, Service, SloRule
from dynamollm.core.runnerup import RunnerUp
from dynamollm.core.whatif import ExpectedLatency

_UNBOUND: Final[Mapping[str, str]] = {
    Reason.CAPACITY_UNAVAILABLE: "the GPUs that may be had",
    Reason.SLO_UNATTAINABLE: "none, but for the SLO: it is kept at no clock and TP degree",
}
"""What stands where no cheaper plan was to be had either."""

_JUDGED: Final[Mapping[SloRule, str]] = {
    SloRule.PER_REQUEST: "of the requests within their own TTFT and mean TBT",
    SloRule.PER_CLASS_PERCENTILE: "of each class's first tokens, and of its gaps between tokens (the table has their mean by request)",
    SloRule.FIVE_TIMES_ALONE: "of the requests done within five times what they take alone; limits of TTFT and TBT do not count",
}
"""Of what the percentile is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, and what it means."""

    service: Service
    profile: Profile
    plan: Plan
    before: Plan | None
    latency: tuple[ExpectedLatency, ...]
    runner_up: RunnerUp | None
    policy: ClusterPolicySpec
    missing: str
    """Which price is missing; empty: none."""

    @property
    def hopeless(self) -> tuple[str, ...]:
        """Classes whose SLO no instance keeps."""
        return tuple(str(one.request_class) for one in self.latency if not one.attainable)

    @property
    def usd_per_hour(self) -> float | None:
        """Electricity and GPUs; None: no price is known."""
        if not tells_cost(self.policy):
            return None
        return float(usd_per_hour(self.service.prices, watts=self.plan.power_w, gpus=self.plan.gpus))

    @property
    def carbon_g_per_hour(self) -> float | None:
        """CO2 equivalent; None: no intensity is known."""
        if not tells_carbon(self.policy):
            return None
        return grams_per_hour(self.service.prices, watts=self.plan.power_w)


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the answer as JSON; units are in the names, null is unknown, a latency of null has no bound."""
    service, plan = answer.service, answer.plan
    return {
        "service": f"{service.namespace}/{service.name}",
        "profile": answer.profile.name,
        "policy": str(service.policy),
        "objective": str(service.objective),
        "reason": str(plan.reason),
        "message": plan.message,
        "binding": plan.binding or None,
        "runnerUp": answer.runner_up and in_words(answer.runner_up, service, plan),
        "priceMissing": answer.missing or None,
        "gpus": plan.gpus,
        "powerWatts": round(plan.power_w, 1),
        "usdPerHour": _rounded(answer.usd_per_hour, 4),
        "usdPerHourWithout": [what for what, _, _ in unpriced(answer.policy)]
        if answer.usd_per_hour is not None
        else [],
        "carbonGramsPerHour": _rounded(answer.carbon_g_per_hour, 1),
        "pools": [
            {
                "name": pool.name,
                "classes": [str(request_class) for request_class in pool.classes],
                "ratePerSecond": round(pool.rate_per_s, 4),
                "capacityPerSecond": round(pool.capacity_per_s, 4),
                "powerWatts": round(pool.power_w, 1),
                "groups": [
                    {
                        "tensorParallel": group.tensor_parallel,
                        "instances": group.instances,
                        "clockMHz": group.clock_mhz,
                    }
                    for group in pool.groups
                ],
            }
            for pool in plan.pools
        ],
        "latency": {
            str(one.request_class): {
                "pool": one.pool,
                "sloAttainable": one.attainable,
                "ttftMilliseconds": _percentiles(one.ttft_p50_ms, one.ttft_p99_ms),
                "tbtMilliseconds": _percentiles(one.tbt_p50_ms, one.tbt_p99_ms),
                "sloMilliseconds": {
                    "ttft": service.slo.ttft_ms[one.request_class],
                    "tbt": service.slo.tbt_ms[one.request_class],
                },
            }
            for one in answer.latency
        },
        "plan": encode(plan),
    }


def print_tables(answer: Answer, console: Console | None = None) -> None:
    """Print the answer for people."""
    console = console or Console()
    plan, service = answer.plan, answer.service
    console.print(f"[bold]{service.namespace}/{service.name}[/bold]  {plan.reason}: {plan.message}", highlight=False)
    facts = {
        "policy": f"{service.policy}, least {str(service.objective).lower()}, {service.order}",
        "SLO": f"{service.slo.rule}, {service.slo.percentile:g} % {_JUDGED[service.slo.rule]}",
        "GPUs": str(plan.gpus) if answer.before is None else f"{answer.before.gpus} → {plan.gpus}",
        "power": f"{plan.power_w / 1e3:.2f} kW",
        "cost": "unknown: no -f has a ClusterPolicy with prices"
        if answer.usd_per_hour is None
        else f"{answer.usd_per_hour:.2f} USD/h{_without(answer.policy)}",
        "carbon": "unknown: no -f has a ClusterPolicy with an intensity"
        if answer.carbon_g_per_hour is None
        else f"{answer.carbon_g_per_hour / 1e3:.2f} kg/h",
        "binding": _binding(plan),
        "runner-up": in_words(answer.runner_up, service, plan)
        if answer.runner_up
        else "none: no other plan was weighed",
    }
    if answer.hopeless:
        facts["unattainable"] = (
            f"{' '.join(answer.hopeless)}: no TP degree keeps it, not even for one request alone; relax slo, or allow a "
            "larger TP degree in gpu.tensorParallel"
        )
    if answer.missing:
        facts["price"] = answer.missing
    grid = Table.grid(padding=(0, 2))
    for key, text in facts.items():
        grid.add_row(key, text)
    console.print(grid, highlight=False)
    console.print(_pools(plan), highlight=False)
    console.print(_latencies(answer), highlight=False)


def _without(policy: ClusterPolicySpec) -> str:
    """Return which part of the cost is unknown, in words; empty: none."""
    return "".join(f", of {counted} alone: {field} is not set" for _, field, counted in unpriced(policy))


def _binding(plan: Plan) -> str:
    binding = plan.binding or _UNBOUND.get(plan.reason, "none: no limit makes it dearer")
    short = plan.reason == Reason.CAPACITY_UNAVAILABLE and any(p.capacity_per_s < p.rate_per_s for p in plan.pools)
    return f"{binding}: not all of the load is carried" if short else binding


def _pools(plan: Plan) -> Table:
    table = Table("pool", "classes", "instances", "clock", title="Plan", title_justify="left")
    for heading in ("load /s", "carries /s", "power"):
        table.add_column(heading, justify="right")
    for pool in plan.pools:
        groups = [group for group in pool.groups if group.instances]
        table.add_row(
            pool.name,
            " ".join(str(request_class) for request_class in pool.classes),
            "\n".join(_instances(group) for group in groups) or "none",
            "\n".join(f"{group.clock_mhz} MHz" for group in groups),
            f"{pool.rate_per_s:.2f}",
            f"{pool.capacity_per_s:.2f}",
            f"{pool.power_w / 1e3:.2f} kW",
        )
    return table


def _instances(group: GroupPlan) -> str:
    return f"{group.instances} × TP{group.tensor_parallel}"


def _latencies(answer: Answer) -> Table:
    table = Table("class", "pool", title="Expected latency, ms", title_justify="left")
    for heading in ("TTFT P50", "P99", "SLO", "TBT P50", "P99", "SLO"):
        table.add_column(heading, justify="right")
    slo = answer.service.slo
    for one in answer.latency:
        table.add_row(
            str(one.request_class) if one.attainable else f"{one.request_class}: SLO cannot be kept",
            one.pool,
            _ms(one.ttft_p50_ms),
            _ms(one.ttft_p99_ms),
            _ms(slo.ttft_ms[one.request_class]),
            _ms(one.tbt_p50_ms),
            _ms(one.tbt_p99_ms),
            _ms(slo.tbt_ms[one.request_class]),
        )
    return table


def _ms(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "no bound"


def _percentiles(p50: float, p99: float) -> Mapping[str, float | None]:
    return {"p50": _finite(p50), "p99": _finite(p99)}


def _finite(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
