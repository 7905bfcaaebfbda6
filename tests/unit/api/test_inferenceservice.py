from dataclasses import asdict
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dynamollm.api.common import RequestClassName
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.inferenceservice_engine import Engine
from dynamollm.api.inferenceservice_slo import SloSpec
from dynamollm.api.inferenceservice_status import InferenceServiceStatus
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.records import (
    Behavior,
    ForecastSettings,
    Intervals,
    Limits,
    Objective,
    Order,
    Pins,
    PolicyName,
    Service,
    Slo,
    SloRule,
)

MINIMAL: dict[str, Any] = {
    "model": {"name": "m"},
    "engine": {"image": "engine:1"},
    "gpu": {"product": "NVIDIA-H100-80GB-HBM3"},
    "profileRef": {"name": "p"},
    "slo": {"ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000}, "tbtMilliseconds": 100},
}


def group(tensor_parallel: int, desired: int, clock_mhz: int) -> dict[str, int]:
    return {"tensorParallel": tensor_parallel, "desired": desired, "clockMHz": clock_mhz}


@pytest.mark.parametrize("missing", list(MINIMAL))
def test_what_has_no_default_is_required(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        InferenceServiceSpec.model_validate({key: value for key, value in MINIMAL.items() if key != missing})


def test_the_defaults_are_those_of_the_core() -> None:
    spec = InferenceServiceSpec.model_validate(MINIMAL)
    assert spec.classes.input_tokens.short == ClassBoundaries().input_short
    assert spec.classes.input_tokens.medium == ClassBoundaries().input_medium
    assert spec.classes.output_tokens.short == ClassBoundaries().output_short
    assert spec.classes.output_tokens.medium == ClassBoundaries().output_medium
    assert spec.limits.min_instances == Limits().min_instances
    assert spec.limits.max_gpus == Limits().max_gpus
    assert spec.behavior.scale_down_stabilization_seconds == Behavior().scale_down_stabilization_s
    assert spec.behavior.tolerance_percent / 100 == Behavior().tolerance
    assert spec.behavior.min_saving_percent / 100 == Behavior().min_saving
    assert spec.behavior.drain_timeout_seconds == Behavior().drain_timeout_s
    assert spec.behavior.pending_timeout_seconds == Behavior().pending_timeout_s
    assert spec.behavior.max_correction_percent / 100 == Behavior().max_correction
    assert spec.intervals.scale_seconds == Intervals().scale_s
    assert spec.intervals.shard_seconds == Intervals().shard_s
    assert spec.intervals.clock_seconds == Intervals().clock_s
    assert spec.forecast.band_percentile / 100 == ForecastSettings().band
    assert spec.forecast.initial_requests_per_minute / 60 == ForecastSettings().initial_rate_per_s
    assert spec.limits.max_watts == Limits().max_watts
    assert spec.limits.max_cost_cents_per_hour == Limits().max_usd_per_hour
    assert spec.engine.scheduling == Service.__dataclass_fields__["order"].default
    assert spec.objective == Service.__dataclass_fields__["objective"].default
    assert spec.priority == Service.__dataclass_fields__["priority"].default
    assert spec.slo.rule == Slo.__dataclass_fields__["rule"].default
    assert asdict(Pins()) == spec.pins.model_dump()
    assert spec.gpu.tensor_parallel == Service.__dataclass_fields__["tensor_parallel"].default
    assert spec.gpu.per_node == Service.__dataclass_fields__["gpus_per_node"].default


def test_the_names_are_those_of_the_core() -> None:
    assert get_args(RequestClassName) == tuple(RequestClass)
    for model, field, words in (
        (InferenceServiceSpec, "policy", PolicyName),
        (InferenceServiceSpec, "objective", Objective),
        (Engine, "scheduling", Order),
        (SloSpec, "rule", SloRule),
    ):
        assert set(get_args(model.model_fields[field].annotation)) == set(words)


def test_a_resource_survives_a_round_trip() -> None:
    spec = InferenceServiceSpec.model_validate(
        MINIMAL | {"slo": MINIMAL["slo"] | {"overrides": [{"class": "LL", "tbtMilliseconds": 200}]}}
    )
    resource = spec.to_resource()
    assert resource["slo"]["overrides"] == [{"class": "LL", "tbtMilliseconds": 200}]
    assert resource["limits"] == {"minInstances": 1, "maxGPUs": 96}
    assert InferenceServiceSpec.model_validate(resource) == spec


def test_an_opaque_plan_is_kept_whole() -> None:
    plan = {"pools": [{"anything": 1.5, "nested": {"deep": None}}]}
    status = InferenceServiceStatus.model_validate({"plan": plan, "gpus": {"desired": 4}})
    assert status.plan == plan
    assert status.gpus is not None
    assert status.gpus.desired == 4


@pytest.mark.parametrize(
    ("status", "pool_count", "display"),
    [
        ({}, 0, {}),
        ({"gpus": {"ready": 36, "limit": 96}}, 0, {"gpus": "36/96"}),
        ({"power": {"expectedWatts": 14_060}}, 0, {"power": "14.1 kW"}),
        ({"power": {"expectedWatts": 14_060, "observedWatts": 0}}, 0, {"power": "0.0 kW"}),
        ({"slo": {"attainmentBasisPoints": 9_937}}, 0, {"slo": "99.4 %"}),
        ({"pools": [{"name": "a", "groups": [group(2, 1, 1005)]}]}, 1, {"clock": "1005 MHz"}),
        (
            {"pools": [{"name": "a", "groups": [group(2, 1, 1005), group(4, 2, 1980)]}, {"name": "b"}]},
            1,
            {"clock": "1005-1980 MHz"},
        ),
        ({"pools": [{"name": "going", "groups": [group(2, 0, 1005)]}]}, 0, {}),
    ],
)
def test_the_columns_are_derived_from_the_status(
    status: dict[str, Any], pool_count: int, display: dict[str, str]
) -> None:
    shown = InferenceServiceStatus.model_validate(status).with_display()
    assert shown.pool_count == pool_count
    assert shown.display is not None
    assert shown.display.to_resource() == display
