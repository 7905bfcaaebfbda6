"""What energy and GPUs cost at a moment, from the ClusterPolicy, and whether that is enough for what a service asks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.core.records import Objective, Prices, Service

MICRO: Final = 1e6
HOUR_S: Final = 3600.0
HOURS_PER_DAY: Final = 24
_BY_ENERGY: Final = "until then plans minimise energy, whatever it costs"


def prices_at(policy: ClusterPolicySpec, *, now_s: float) -> Prices:
    """Return the prices of a moment (unix seconds); what the policy does not say counts nothing: ``unpriced`` says so."""
    return Prices(
        electricity_usd_per_kwh=(electricity_price_micro_usd_per_kwh(policy, now_s=now_s) or 0) / MICRO,
        gpu_usd_per_hour=(policy.gpu_price_micro_usd_per_hour or 0) / MICRO,
        carbon_g_per_kwh=float(carbon_intensity_g_per_kwh(policy, now_s=now_s) or 0),
        released_gpu_w=float(policy.released_gpu_watts),
    )


def electricity_price_micro_usd_per_kwh(policy: ClusterPolicySpec, *, now_s: float) -> int | None:
    """Return the price of electricity of a moment (unix seconds), µUSD/kWh; None: the policy has none."""
    entries = [(entry.from_hour, entry.micro_usd_per_kwh) for entry in policy.electricity_price_schedule]
    return _at(entries, now_s=now_s) if entries else policy.electricity_price_micro_usd_per_kwh


def carbon_intensity_g_per_kwh(policy: ClusterPolicySpec, *, now_s: float) -> int | None:
    """Return the carbon intensity of a moment (unix seconds), g/kWh; None: the policy has none."""
    entries = [(entry.from_hour, entry.grams_per_kwh) for entry in policy.carbon_intensity_schedule]
    return _at(entries, now_s=now_s) if entries else policy.carbon_intensity_grams_per_kwh


def missing_price(service: Service, policy: ClusterPolicySpec) -> str:
    """Return what the service asks for that the policy has no price for, the remedy, and what holds until then; empty: nothing.

    A price of 0 is a price; one that is absent is unknown.
    """
    if service.objective is Objective.CARBON and not tells_carbon(policy):
        return (
            "spec.objective is Carbon, and no carbon intensity is known: set carbonIntensityGramsPerKWh or "
            f"carbonIntensitySchedule in ClusterPolicy default; {_BY_ENERGY}"
        )
    cents_per_hour = None if service.limits.max_usd_per_hour is None else round(100 * service.limits.max_usd_per_hour)
    if service.objective is Objective.COST:
        asked = "spec.objective is Cost"
    elif cents_per_hour is not None:
        asked = f"spec.limits.maxCostCentsPerHour is {cents_per_hour}"
    else:
        return ""
    if tells_cost(policy):
        return "".join(
            f"{asked}, and no price of {what} is known: set {field} in ClusterPolicy default, 0 where there is none to pay; "
            f"until then {counted} alone counts"
            for what, field, counted in unpriced(policy)
        )
    return (
        f"{asked}, and no price is known: set gpuPriceMicroUSDPerHour, electricityPriceMicroUSDPerKWh or "
        f"electricityPriceSchedule in ClusterPolicy default; {_BY_ENERGY}"
    )


def unpriced(policy: ClusterPolicySpec) -> tuple[tuple[str, str, str], ...]:
    """Return which parts of the cost are unknown: what it is, the field that would tell, and what the cost is of then."""
    parts = []
    if policy.gpu_price_micro_usd_per_hour is None:
        parts.append(("GPUs", "gpuPriceMicroUSDPerHour", "electricity"))
    if policy.electricity_price_micro_usd_per_kwh is None and not policy.electricity_price_schedule:
        parts.append(("electricity", "electricityPriceMicroUSDPerKWh", "the price of GPUs"))
    return tuple(parts)


def priced(service: Service, policy: ClusterPolicySpec, *, now_s: float) -> Service:
    """Return the service at the prices of a moment, minimising energy where those of its own objective are missing.

    Without a price every plan would be as good as any other. At one place and time carbon is proportional to energy,
    so that a plan of least energy is one of least carbon too.
    """
    known = {Objective.ENERGY: True, Objective.COST: tells_cost(policy), Objective.CARBON: tells_carbon(policy)}
    objective = service.objective if known[service.objective] else Objective.ENERGY
    return replace(service, prices=prices_at(policy, now_s=now_s), objective=objective)


def tells_cost(policy: ClusterPolicySpec) -> bool:
    """Tell whether the policy has a price of GPUs or of electricity."""
    return len(unpriced(policy)) < len(("GPUs", "electricity"))


def tells_carbon(policy: ClusterPolicySpec) -> bool:
    """Tell whether the policy has a carbon intensity."""
    return policy.carbon_intensity_grams_per_kwh is not None or bool(policy.carbon_intensity_schedule)


def _at(entries: Sequence[tuple[int, int]], *, now_s: float) -> int:
    """Return the value of the last entry that has begun today; before the first one, yesterday's last holds."""
    hour = now_s / HOUR_S % HOURS_PER_DAY
    ordered = sorted(entries)
    return next((value for from_hour, value in reversed(ordered) if from_hour <= hour), ordered[-1][1])
