"""Prices of a moment, and what is done where a service needs one that nobody told."""

from typing import Any

import pytest

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.core.prices import missing_price, priced, prices_at
from dynamollm.core.records import Objective, Prices, Service
from dynamollm.core.service import service_from_spec

MIDNIGHT_S = 1_767_225_600.0  # 2026-01-01 00:00 UTC
HOUR_S = 3600.0
DAY_AND_NIGHT = {
    # Not in order: a map's entries may come in any.
    "electricityPriceSchedule": [
        {"fromHour": 22, "microUSDPerKWh": 90_000},
        {"fromHour": 7, "microUSDPerKWh": 180_000},
    ],
    "carbonIntensitySchedule": [{"fromHour": 8, "gramsPerKWh": 120}, {"fromHour": 17, "gramsPerKWh": 310}],
}


def policy(**fields: Any) -> ClusterPolicySpec:
    return ClusterPolicySpec.model_validate(fields)


def service(**fields: Any) -> Service:
    spec = {
        "model": {"name": "m"},
        "engine": {"type": "Simulated"},
        "gpu": {"product": "H100"},
        "profileRef": {"name": "p"},
        "slo": {"ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000}, "tbtMilliseconds": 100},
        **fields,
    }
    return service_from_spec("llm", "chat", InferenceServiceSpec.model_validate(spec))


def test_constants_are_converted_to_the_cores_units() -> None:
    told = policy(
        gpuPriceMicroUSDPerHour=2_500_000,
        releasedGPUWatts=75,
        electricityPriceMicroUSDPerKWh=120_000,
        carbonIntensityGramsPerKWh=250,
    )
    expected = Prices(electricity_usd_per_kwh=0.12, gpu_usd_per_hour=2.5, carbon_g_per_kwh=250.0, released_gpu_w=75.0)
    assert prices_at(told, now_s=MIDNIGHT_S) == expected
    assert prices_at(policy(), now_s=MIDNIGHT_S) == Prices()


@pytest.mark.parametrize(
    ("hour", "usd_per_kwh", "grams"),
    [
        (0.0, 0.09, 310.0),  # before the first entry of a day the last one of the day before holds
        (6.999, 0.09, 310.0),
        (7.0, 0.18, 310.0),
        (8.0, 0.18, 120.0),
        (16.999, 0.18, 120.0),
        (17.0, 0.18, 310.0),
        (22.0, 0.09, 310.0),
        (23.999, 0.09, 310.0),
        (31.0, 0.18, 310.0),  # the next day
    ],
)
def test_a_schedule_holds_by_hour_of_the_day(hour: float, usd_per_kwh: float, grams: float) -> None:
    prices = prices_at(policy(**DAY_AND_NIGHT), now_s=MIDNIGHT_S + hour * HOUR_S)
    assert prices.electricity_usd_per_kwh == pytest.approx(usd_per_kwh)
    assert prices.carbon_g_per_kwh == grams


PRICED = {"gpuPriceMicroUSDPerHour": 1, "electricityPriceMicroUSDPerKWh": 1}
NO_GPUS = "and no price of GPUs is known: set gpuPriceMicroUSDPerHour in ClusterPolicy default"
MISSING = [
    # service, policy, objective that is planned by, words of the complaint
    ({}, {}, Objective.ENERGY, ""),
    ({"objective": "Cost"}, {}, Objective.ENERGY, "spec.objective is Cost, and no price is known: set gpuPrice"),
    ({"objective": "Cost"}, PRICED, Objective.COST, ""),
    ({"objective": "Cost"}, {"gpuPriceMicroUSDPerHour": 0, "electricityPriceMicroUSDPerKWh": 1}, Objective.COST, ""),
    ({"objective": "Cost"}, {"gpuPriceMicroUSDPerHour": 1, **DAY_AND_NIGHT}, Objective.COST, ""),
    # What is unknown is not zero.
    ({"objective": "Cost"}, DAY_AND_NIGHT, Objective.COST, f"spec.objective is Cost, {NO_GPUS}"),
    (
        {"objective": "Cost"},
        {"gpuPriceMicroUSDPerHour": 1},
        Objective.COST,
        "spec.objective is Cost, and no price of electricity is known: set electricityPriceMicroUSDPerKWh",
    ),
    ({}, {"electricityPriceMicroUSDPerKWh": 1}, Objective.ENERGY, ""),
    (
        {"limits": {"maxCostCentsPerHour": 1230}},
        {"electricityPriceMicroUSDPerKWh": 1},
        Objective.ENERGY,
        f"spec.limits.maxCostCentsPerHour is 1230, {NO_GPUS}, 0 where there is none to pay; until then electricity alone",
    ),
    ({"objective": "Carbon"}, PRICED, Objective.ENERGY, "spec.objective is Carbon, and no carbon intensity is known"),
    ({"objective": "Carbon"}, {"carbonIntensityGramsPerKWh": 0}, Objective.CARBON, ""),
    ({"objective": "Carbon"}, DAY_AND_NIGHT, Objective.CARBON, ""),
    (
        {"limits": {"maxCostCentsPerHour": 1230}},
        {},
        Objective.ENERGY,
        "spec.limits.maxCostCentsPerHour is 1230, and no",
    ),
    ({"limits": {"maxCostCentsPerHour": 1230}}, PRICED, Objective.ENERGY, ""),
]


@pytest.mark.parametrize(("fields", "told", "objective", "words"), MISSING)
def test_an_objective_without_prices_is_energy_and_is_said(
    fields: dict[str, Any], told: dict[str, Any], objective: Objective, words: str
) -> None:
    assert priced(service(**fields), policy(**told), now_s=MIDNIGHT_S).objective is objective
    complaint = missing_price(service(**fields), policy(**told))
    assert complaint.startswith(words)
    assert bool(complaint) == bool(words)
