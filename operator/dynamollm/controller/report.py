"""The status of a service from one cycle, and what of it is worth a write. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.common import Condition
from dynamollm.api.inferenceservice_status import (
    ClassSloStatus,
    ForecastStatus,
    GpusStatus,
    GroupStatus,
    InferenceServiceStatus,
    PoolStatus,
    PowerStatus,
    SloStatus,
)
from dynamollm.controller.forecast_watch import Watched
from dynamollm.controller.look import Look
from dynamollm.controller.subject import Subject
from dynamollm.core.classes import RequestClass
from dynamollm.core.energy import JOULES_PER_WATT_HOUR, carbon_milligrams, cost_micro_usd, watt_hours
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast import recent_load
from dynamollm.core.plan_codec import encode
from dynamollm.core.prices import carbon_intensity_g_per_kwh, electricity_price_micro_usd_per_kwh
from dynamollm.core.protocols import Reading
from dynamollm.core.records import Instance, InstanceState, Plan
from dynamollm.core.sizing import rate_per_s

MEASURED: Final = (
    ("power", "observedWatts"),
    ("display", "power"),
    ("display", "slo"),
    ("energyWattHours",),
    ("costMicroUSD",),
    ("carbonMilligrams",),
    ("slo",),
    ("forecast", "observedRatePerSecondMilli"),
    ("forecast", "ratePerSecondMilli"),
    ("forecast", "errorBasisPoints"),
    ("forecast", "coverageBasisPoints"),
    ("forecast", "pinballPerSecondMilli"),
    ("forecast", "naivePinballPerSecondMilli"),
)
"""Fields that change all the time: they alone are written at most every ``MEASURED_S``."""
MEASURED_S: Final = 30.0
"""Simulated seconds."""


def status_of(
    subject: Subject,
    look: Look,
    plan: Plan,
    *,
    generation: int,
    conditions: Sequence[Condition],
    before: InferenceServiceStatus,
    now_s: float,
    watched: Watched | None = None,
) -> InferenceServiceStatus:
    """Return the status after a cycle."""
    spec, reading = subject.owner.spec, look.reading
    advise = spec.mode == "Advise"
    instances = look.observation.instances
    ready = [instance for instance in instances if instance.state is InstanceState.READY]
    energy_wh = _energy_wh(reading, before)
    gained_j = None if energy_wh is None else (energy_wh - (before.energy_watt_hours or 0)) * JOULES_PER_WATT_HOUR
    whole = encode(plan)
    return InferenceServiceStatus(
        observed_generation=generation,
        policy=spec.policy,
        gpus=GpusStatus(
            desired=plan.gpus,
            ready=sum(instance.tensor_parallel for instance in ready),
            limit=look.limit_gpus,
        ),
        pools=_pools(plan, instances),
        power=PowerStatus(expected_watts=round(plan.power_w), observed_watts=_rounded(reading.power_w)),
        energy_watt_hours=energy_wh,
        cost_micro_usd=_cost(before.cost_micro_usd, gained_j, policy=look.policy, now_s=now_s),
        carbon_milligrams=_carbon(before.carbon_milligrams, gained_j, policy=look.policy, now_s=now_s),
        slo=_slo(reading) or before.slo,
        forecast=(ForecastStatus() if watched is None else watched.status()).model_copy(
            update={
                "upper_rate_per_second_milli": round(1000 * sum(pool.rate_per_s for pool in plan.pools)),
                "observed_rate_per_second_milli": _observed_milli(subject, reading, now_s=now_s),
            }
        ),
        plan_summary=_summary(plan, instances),
        plan=None if advise else whole,
        advice=whole if advise else None,
        conditions=tuple(conditions),
    ).with_display()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch from one object to another; empty where they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := difference(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def without_measured(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status without the fields that change all the time."""
    result = dict(status)
    for head, *rest in MEASURED:
        if not rest:
            result.pop(head, None)
        elif isinstance(result.get(head), Mapping):
            result[head] = {key: value for key, value in result[head].items() if key != rest[0]}
    return result


def _pools(plan: Plan, instances: Sequence[Instance]) -> tuple[PoolStatus, ...]:
    planned = {pool.name: pool for pool in plan.pools}
    found = []
    for name in sorted(planned.keys() | {instance.pool for instance in instances}):
        pool = planned.get(name)
        groups = {} if pool is None else {group.tensor_parallel: group for group in pool.groups}
        degrees = sorted(groups.keys() | {i.tensor_parallel for i in instances if i.pool == name})
        found.append(
            PoolStatus(
                name=name,
                classes=() if pool is None else tuple(c.value for c in RequestClass if c in pool.classes),
                rate_per_second_milli=None if pool is None else round(1000 * pool.rate_per_s),
                capacity_per_second_milli=None if pool is None else round(1000 * pool.capacity_per_s),
                groups=tuple(
                    _group(
                        tensor_parallel,
                        desired=groups[tensor_parallel].instances if tensor_parallel in groups else 0,
                        clock_mhz=groups[tensor_parallel].clock_mhz if tensor_parallel in groups else None,
                        instances=[i for i in instances if (i.pool, i.tensor_parallel) == (name, tensor_parallel)],
                    )
                    for tensor_parallel in degrees
                ),
            )
        )
    return tuple(found)


def _group(tensor_parallel: int, *, desired: int, clock_mhz: int | None, instances: Sequence[Instance]) -> GroupStatus:
    return GroupStatus(
        tensor_parallel=tensor_parallel,
        desired=desired,
        ready=sum(instance.state is InstanceState.READY for instance in instances),
        routable=sum(instance.serving for instance in instances),
        draining=sum(
            instance.unrouted_s is not None or instance.state is InstanceState.TERMINATING for instance in instances
        ),
        clock_mhz=clock_mhz,
    )


def _summary(plan: Plan, instances: Sequence[Instance]) -> str:
    """Return the plan's reason, and while it is rolled out how many of its instances serve, as in "Scaled 3/5"."""
    wanted = {(pool.name, group.tensor_parallel): group.instances for pool in plan.pools for group in pool.groups}
    serving = dict.fromkeys(wanted, 0)
    for instance in instances:
        key = (instance.pool, instance.tensor_parallel)
        if instance.serving and key in serving:
            serving[key] += 1
    there = sum(min(count, serving[key]) for key, count in wanted.items())
    total = sum(wanted.values())
    done = there == total and len(instances) == total
    return str(plan.reason) if done else f"{plan.reason} {there}/{total}"


def _energy_wh(reading: Reading, before: InferenceServiceStatus) -> int | None:
    """Return the energy so far: never less than was reported, since Prometheus forgets and agents start anew."""
    if reading.energy_j is None:
        return before.energy_watt_hours
    return max(int(watt_hours(reading.energy_j)), before.energy_watt_hours or 0)


def _cost(before: int | None, gained_j: float | None, *, policy: ClusterPolicySpec, now_s: float) -> int | None:
    """Return the cost so far: what was accounted for stays at the price that it had."""
    price = electricity_price_micro_usd_per_kwh(policy, now_s=now_s)
    if gained_j is None or price is None:
        return before
    return (before or 0) + round(cost_micro_usd(gained_j, price_micro_usd_per_kwh=price))


def _carbon(before: int | None, gained_j: float | None, *, policy: ClusterPolicySpec, now_s: float) -> int | None:
    """Return the carbon so far, mg, in the same way."""
    intensity = carbon_intensity_g_per_kwh(policy, now_s=now_s)
    if gained_j is None or intensity is None:
        return before
    return (before or 0) + round(carbon_milligrams(gained_j, intensity_g_per_kwh=intensity))


def _slo(reading: Reading) -> SloStatus | None:
    if reading.attainment is None:
        return None
    requests = sum(count.requests for count in reading.attainment.values())
    met = sum(count.met for count in reading.attainment.values())
    return SloStatus(
        attainment_basis_points=int(10_000 * min(1.0, met / requests)) if requests > 0 else None,
        by_class=tuple(
            ClassSloStatus(
                request_class=request_class.value,
                attainment_basis_points=int(10_000 * min(1.0, count.met / count.requests)),
                requests=round(count.requests),
            )
            for request_class in RequestClass
            if (count := reading.attainment.get(request_class)) is not None and count.requests > 0
        ),
    )


def _observed_milli(subject: Subject, reading: Reading, *, now_s: float) -> int | None:
    try:
        load = recent_load(reading.load, now_s=now_s, boundaries=subject.service.boundaries)
    except UnknownDataError:
        return None
    return round(1000 * rate_per_s(load))


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
