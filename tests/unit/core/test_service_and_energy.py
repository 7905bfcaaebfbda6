"""From the resource's units to the core's, and from joules to what people pay."""

import pytest

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.energy import carbon_milligrams, cost_micro_usd, watt_hours
from dynamollm.core.records import (
    Behavior,
    ForecastSettings,
    Intervals,
    Limits,
    Objective,
    Order,
    Pins,
    PolicyName,
    SloRule,
)
from dynamollm.core.service import service_from_spec

MINIMAL = {
    "model": {"name": "m"},
    "engine": {"type": "Simulated"},
    "gpu": {"product": "H100"},
    "profileRef": {"name": "p"},
    "slo": {"ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000}, "tbtMilliseconds": 100},
}


def test_defaults_of_the_resource_are_those_of_the_core() -> None:
    service = service_from_spec("llm", "chat", InferenceServiceSpec.model_validate(MINIMAL))
    assert (service.namespace, service.name, service.policy) == ("llm", "chat", PolicyName.JOINT)
    assert (service.tensor_parallel, service.gpus_per_node) == ((2, 4, 8), 8)
    assert service.boundaries == ClassBoundaries()
    assert service.behavior == Behavior()
    assert service.intervals == Intervals()
    assert service.limits == Limits()
    assert service.forecast == ForecastSettings()
    assert service.slo.percentile == 99.0
    assert [service.slo.ttft_ms[c] for c in (RequestClass.SL, RequestClass.ML, RequestClass.LS)] == [250, 400, 2000]


def test_units_are_converted_and_overrides_win() -> None:
    spec = InferenceServiceSpec.model_validate(
        {
            **MINIMAL,
            "policy": "SinglePool",
            "engine": {"type": "Simulated", "scheduling": "EarliestDeadlineFirst"},
            "objective": "Cost",
            "pins": {"tensorParallel": 4, "clockMHz": 1200, "instances": 3, "pools": 1},
            "priority": 7,
            "limits": {"maxWatts": 60_000, "maxCostCentsPerHour": 19_250},
            "gpu": {"product": "H100", "tensorParallel": [8, 4]},
            "slo": {
                **MINIMAL["slo"],  # type: ignore[dict-item]
                "rule": "PerClassPercentile",
                "overrides": [{"class": "LL", "ttftMilliseconds": 5000}, {"class": "SS", "tbtMilliseconds": 40}],
            },
            "behavior": {"tolerancePercent": 25, "minSavingPercent": 5},
            "forecast": {"bandPercentile": 90, "initialRequestsPerMinute": 90},
        }
    )
    service = service_from_spec("llm", "chat", spec)
    assert service.policy is PolicyName.SINGLE_POOL
    assert service.tensor_parallel == (4, 8)
    assert (service.slo.rule, service.order) == (SloRule.PER_CLASS_PERCENTILE, Order.EARLIEST_DEADLINE_FIRST)
    assert (service.objective, service.priority) == (Objective.COST, 7)
    assert service.pins == Pins(tensor_parallel=4, clock_mhz=1200, instances=3, pools=1)
    assert (service.limits.max_watts, service.limits.max_usd_per_hour) == (60_000.0, 192.5)
    assert (service.slo.ttft_ms[RequestClass.LL], service.slo.tbt_ms[RequestClass.LL]) == (5000.0, 100.0)
    assert (service.slo.ttft_ms[RequestClass.SS], service.slo.tbt_ms[RequestClass.SS]) == (250.0, 40.0)
    assert service.behavior.min_saving == 0.05
    assert (service.behavior.tolerance, service.forecast.band, service.forecast.initial_rate_per_s) == (0.25, 0.9, 1.5)


@pytest.mark.parametrize(
    ("energy_j", "wh", "micro_usd", "milligrams"),
    [(0.0, 0.0, 0.0, 0.0), (3600.0, 1.0, 120.0, 400.0), (7.2e6, 2000.0, 240_000.0, 800_000.0)],
)
def test_energy_in_other_units(energy_j: float, wh: float, micro_usd: float, milligrams: float) -> None:
    assert watt_hours(energy_j) == pytest.approx(wh)
    assert cost_micro_usd(energy_j, price_micro_usd_per_kwh=120_000) == pytest.approx(micro_usd)
    assert carbon_milligrams(energy_j, intensity_g_per_kwh=400) == pytest.approx(milligrams)
