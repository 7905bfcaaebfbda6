"""The conditions of a cycle: what is so, each with a stable reason and a sentence that says what to do. Pure.

Messages hold no value that changes while nothing else does: a status that is written in every cycle hides changes.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from dynamollm.controller.conditions import Conditions
from dynamollm.controller.look import Look
from dynamollm.controller.subject import Subject
from dynamollm.core.behavior import stuck_pending
from dynamollm.core.classes import RequestClass
from dynamollm.core.feedback import correction_at
from dynamollm.core.moves import (
    Action,
    SetClocks,
)
from dynamollm.core.policies.base import Reason
from dynamollm.core.prices import missing_price
from dynamollm.core.protocols import Reading
from dynamollm.core.records import (
    Attainment,
    Observation,
    Plan,
    Slo,
    SloRule,
)

_MOST_TOLD: Final = 200
"""Characters of the scheduler's words that a condition has."""


_HARDLY_CORRECTED: Final = 98
"""Percent of the profile's capacities: nearer to it nothing is said of a correction."""


def judge(
    conditions: Conditions, subject: Subject, look: Look, plan: Plan, *, actions: Sequence[Action], now_s: float
) -> None:
    """Set every condition of a service that was planned in this cycle."""
    conditions.set("ProfileValid", "True", "ProfileFits", "The profile fits model, GPU and TP degrees.")
    conditions.set("Paused", "False", "NotPaused", "The operator acts on this service.")
    conditions.set("Planned", "True", str(plan.reason), plan.message + _corrected(plan, now_s=now_s))
    _prices(conditions, subject, look)
    _metrics(conditions, look.reading)
    _slo(conditions, subject, look.reading)
    _capacity(conditions, subject, look.observation, plan, now_s=now_s)
    _ready(conditions, look)
    if subject.owner.spec.mode == "Advise":
        conditions.set(
            "Converged",
            "Unknown",
            "AdviceOnly",
            "spec.mode is Advise: status.advice has the plan, and nothing is touched; set Enforce to have it done.",
        )
    else:
        _converged(conditions, look.observation, plan, actions=actions)


def _corrected(plan: Plan, *, now_s: float) -> str:
    """Return what the plan has learned from misses before this one, in words; empty: nothing that would be seen."""
    percent = round(100 / correction_at(plan, now_s=now_s))
    if percent > _HARDLY_CORRECTED or plan.reason == Reason.SLO_MISSED:
        return ""
    return f" Capacities count for {percent} % of the profile's, as requests missed their SLO before."


def _prices(conditions: Conditions, subject: Subject, look: Look) -> None:
    if missing := missing_price(subject.service, look.policy):
        conditions.set("PricesKnown", "False", "PriceMissing", f"{missing}.")
    else:
        conditions.set("PricesKnown", "True", "PricesGiven", "No price is missing for what the service asks.")


def _metrics(conditions: Conditions, reading: Reading) -> None:
    if reading.load is None:
        reason, problem = reading.reason or "LoadUnknown", reading.problem or "The source of load gave no answer."
        conditions.set(
            "MetricsAvailable", "False", reason, f"{problem} Until then the plan is held and clocks are safe."
        )
    else:
        conditions.set("MetricsAvailable", "True", "LoadKnown", "Prometheus has recent load of every router.")


def _slo(conditions: Conditions, subject: Subject, reading: Reading) -> None:
    slo = subject.service.slo
    counts = (reading.attainment or {}).values()
    requests = sum(count.requests for count in counts)
    if slo.rule is SloRule.FIVE_TIMES_ALONE:
        conditions.set(
            "SLOMet",
            "Unknown",
            "RuleNotMeasured",
            "slo.rule is FiveTimesAlone, which plans go by and routers do not measure: status.slo has TTFT and mean TBT.",
        )
    elif reading.attainment is None:
        conditions.set("SLOMet", "Unknown", "AttainmentUnknown", "The router's SLO metrics are not known.")
    elif requests <= 0:
        conditions.set("SLOMet", "Unknown", "NoRequests", "No request ended within the last scale interval.")
    elif _attained(reading.attainment, slo):
        conditions.set("SLOMet", "True", "WithinSLO", f"At least {slo.percentile:g} % {_of_what(slo)} met their SLO.")
    else:
        conditions.set(
            "SLOMet",
            "False",
            "BelowSLO",
            f"Fewer than {slo.percentile:g} % {_of_what(slo)} met their SLO: status.slo.byClass shows which class; if "
            "the plan is at its GPU limit raise limits.maxGPUs, else measure the profile again.",
        )


def _attained(attainment: Mapping[RequestClass, Attainment], slo: Slo) -> bool:
    """Tell whether enough requests met their SLO: of all, or of each class where the rule is by class."""
    counts = [count for count in attainment.values() if count.requests > 0]
    if slo.rule is SloRule.PER_CLASS_PERCENTILE:
        return all(100 * count.met / count.requests >= slo.percentile for count in counts)
    return 100 * sum(count.met for count in counts) / sum(count.requests for count in counts) >= slo.percentile


def _of_what(slo: Slo) -> str:
    return "of the requests of every class" if slo.rule is SloRule.PER_CLASS_PERCENTILE else "of requests"


def _capacity(conditions: Conditions, subject: Subject, observation: Observation, plan: Plan, *, now_s: float) -> None:
    if stuck := stuck_pending(subject.service, observation.instances, now_s=now_s):
        name, told = stuck[0].name, textwrap.shorten(stuck[0].waits_for, _MOST_TOLD, placeholder="…")
        why = f"the scheduler says {told!r} of {name}" if told else f"kubectl describe pod {name} tells why"
        conditions.set(
            "CapacityUnavailable",
            "True",
            "PodsPending",
            f"{len(stuck)} pods waited for a node longer than behavior.pendingTimeoutSeconds and are given back: {why}; "
            "free GPUs, lower limits.maxGPUs, or mend engine.podTemplate.",
        )
    elif plan.reason == Reason.CAPACITY_UNAVAILABLE:
        conditions.set("CapacityUnavailable", "True", "GPULimit", plan.message)
    elif not plan.gpus:
        conditions.set(
            "CapacityUnavailable",
            "True",
            "GPUsUnavailable",
            "No node has the GPUs of even the smallest instance free: free some, or allow a smaller TP degree in "
            "gpu.tensorParallel; the first place that is found is planned for at once.",
        )
    elif plan.gpu_cap is not None and now_s < plan.gpu_cap_until_s:
        conditions.set(
            "CapacityUnavailable",
            "True",
            "GPUsUnavailable",
            f"No more than {plan.gpu_cap} GPUs could be had lately: the plan makes do with them for a while.",
        )
    else:
        conditions.set("CapacityUnavailable", "False", "EnoughGPUs", "Every GPU that the plan wants can be had.")


def _ready(conditions: Conditions, look: Look) -> None:
    observation = look.observation
    serving = {instance.pool for instance in observation.instances if instance.serving}
    unserved = sorted({pool for pool in observation.routing.values() if pool not in serving})
    if not look.routers_ready:
        conditions.set("Ready", "False", "RouterNotReady", "No router pod is Ready: see its log and events.")
    elif not observation.routing:
        conditions.set(
            "Ready", "False", "NothingRouted", "No instance has been Ready yet: see the engine pods' logs and events."
        )
    elif unserved:
        conditions.set(
            "Ready",
            "False",
            "PoolWithoutInstance",
            f"Classes are routed to {', '.join(unserved)}, where no instance serves: the router hands over to other "
            "pools; see those engine pods' logs and events.",
        )
    else:
        conditions.set("Ready", "True", "Serving", "Every class is routed to a pool with a serving instance.")


def _converged(conditions: Conditions, observation: Observation, plan: Plan, *, actions: Sequence[Action]) -> None:
    wanted = {(p.name, g.tensor_parallel): g.instances for p in plan.pools for g in p.groups if g.instances}
    serving: dict[tuple[str, int], int] = {}
    for instance in observation.instances:
        if instance.serving:
            key = (instance.pool, instance.tensor_parallel)
            serving[key] = serving.get(key, 0) + 1
    leaving = len(observation.instances) - sum(serving.values())
    steps = [action for action in actions if not isinstance(action, SetClocks)]
    if serving == wanted and not leaving and not steps and dict(observation.routing) == dict(plan.routing):
        conditions.set("Converged", "True", "AsPlanned", "What is there is what the plan wants.")
        return
    there = sum(min(count, serving.get(key, 0)) for key, count in wanted.items())
    conditions.set(
        "Converged",
        "False",
        "RollingOut",
        f"{there} of {sum(wanted.values())} planned instances serve, {leaving} are starting, waiting, draining or ending.",
    )
