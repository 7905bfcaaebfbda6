import pytest
from pydantic import ValidationError

from dynamollm.api.common import Rule, Spec, Status, camel_case


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model", "model"),
        ("per_node", "perNode"),
        ("max_gpus", "maxGPUs"),
        ("clock_mhz", "clockMHz"),
        ("min_clock_mhz", "minClockMHz"),
        ("compute_reference_mhz", "computeReferenceMHz"),
        ("energy_watt_hours", "energyWattHours"),
        ("ttft_milliseconds", "ttftMilliseconds"),
        ("electricity_price_micro_usd_per_kwh", "electricityPriceMicroUSDPerKWh"),
        ("cost_micro_usd", "costMicroUSD"),
        ("gpu_price_micro_usd_per_hour", "gpuPriceMicroUSDPerHour"),
        ("released_gpu_watts", "releasedGPUWatts"),
        ("gpu", "gpu"),
    ],
)
def test_field_names_are_camel_case_with_units_spelled_right(name: str, expected: str) -> None:
    assert camel_case(name) == expected


class Inner(Spec):
    clock_mhz: int | None = None


class Outer(Spec):
    inner: Inner = Inner()


class Reported(Status):
    clock_mhz: int | None = None


def test_a_spec_refuses_a_field_that_does_not_exist() -> None:
    with pytest.raises(ValidationError, match="clockMhz"):
        Inner.model_validate({"clockMhz": 1005})


def test_a_status_ignores_a_field_of_another_version() -> None:
    assert Reported.model_validate({"clockMHz": 1005, "fromTheFuture": 1}) == Reported(clock_mhz=1005)


def test_a_resource_is_written_in_camel_case_without_what_is_unset() -> None:
    assert Outer(inner=Inner(clock_mhz=1005)).to_resource() == {"inner": {"clockMHz": 1005}}
    assert Outer().to_resource() == {"inner": {}}


def test_a_spec_is_a_value() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().inner = Inner(clock_mhz=1)  # type: ignore[misc]
    assert hash(Outer()) == hash(Outer())


def test_a_rule_holds_only_the_entries_that_are_set() -> None:
    assert Rule(rule="a", message="b", holds=bool).to_schema() == {"rule": "a", "message": "b"}
    assert Rule(
        rule="a", message="b", detail="c %d %s", values=("x", "y"), field_path=".d", holds=bool
    ).to_schema() == {
        "rule": "a",
        "message": "b",
        "messageExpression": "'c %d %s'.format([dyn(x), dyn(y)])",
        "fieldPath": ".d",
    }
