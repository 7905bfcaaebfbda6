"""What the ClusterPolicy's prices and the service's pins do in a cycle."""

from dataclasses import replace
from typing import Any

import pytest

from unit.controller.world import World


def put_policy(world: World, **spec: Any) -> None:
    world.kube.put(
        {
            "apiVersion": "dynamollm.io/v1alpha1",
            "kind": "ClusterPolicy",
            "metadata": {"name": "default", "generation": 1},
            "spec": spec,
        }
    )


async def measure(world: World, *, watt_hours: float) -> dict[str, Any]:
    """Let so much energy have been drawn so far, and return the status after a cycle that is due for a write."""
    world.source.reading = replace(world.source.reading, energy_j=watt_hours * 3600)
    world.reconciler._measured_s = float("-inf")
    await world.cycle()
    return world.status


async def test_energy_costs_what_its_hour_did() -> None:
    world = World()
    put_policy(world, electricityPriceMicroUSDPerKWh=100_000, carbonIntensityGramsPerKWh=300)
    status = await measure(world, watt_hours=1_000)
    assert (status["costMicroUSD"], status["carbonMilligrams"]) == (100_000, 300_000)
    put_policy(world, electricityPriceMicroUSDPerKWh=200_000, carbonIntensityGramsPerKWh=100)
    status = await measure(world, watt_hours=1_500)
    assert (status["costMicroUSD"], status["carbonMilligrams"]) == (200_000, 350_000)
    put_policy(world)
    status = await measure(world, watt_hours=2_000)
    assert (status["costMicroUSD"], status["carbonMilligrams"]) == (200_000, 350_000)


async def test_without_prices_no_cost_is_made_up() -> None:
    world = World()
    status = await measure(world, watt_hours=1_000)
    assert status["energyWattHours"] == 1_000
    assert not {"costMicroUSD", "carbonMilligrams"} & status.keys()


async def test_a_price_that_is_missing_is_said() -> None:
    world = World()
    await world.cycle()
    assert world.condition("PricesKnown") == ("True", "PricesGiven")
    world.put_service(objective="Cost")
    await world.cycle()
    assert world.condition("PricesKnown") == ("False", "PriceMissing")
    put_policy(world, electricityPriceMicroUSDPerKWh=100_000)
    await world.cycle()
    assert world.condition("PricesKnown") == ("False", "PriceMissing")
    put_policy(world, gpuPriceMicroUSDPerHour=2_000_000, electricityPriceMicroUSDPerKWh=100_000)
    await world.cycle()
    assert world.condition("PricesKnown") == ("True", "PricesGiven")


async def test_a_price_that_changes_is_not_another_plan() -> None:
    world = World()
    put_policy(world, gpuPriceMicroUSDPerHour=2_000_000, electricityPriceMicroUSDPerKWh=100_000)
    world.load(2.0)
    await world.settle()
    basis = world.status["plan"]["basis"]
    put_policy(world, gpuPriceMicroUSDPerHour=2_000_000, electricityPriceMicroUSDPerKWh=150_000)
    await world.cycle()
    assert world.status["plan"]["basis"] == basis
    world.put_service(objective="Cost")
    await world.cycle()
    assert world.status["plan"]["basis"] != basis


@pytest.mark.parametrize(("clock_mhz", "result"), [(1200, "planned"), (1201, "unfit"), (210, "unfit")])
async def test_a_pinned_clock_must_be_one_that_was_measured(clock_mhz: int, result: str) -> None:
    world = World()
    world.put_service(pins={"clockMHz": clock_mhz})
    assert await world.cycle() == result
    if result == "unfit":
        assert world.condition("ProfileValid") == ("False", "ClockNotProfiled")
        message = next(one["message"] for one in world.status["conditions"] if one["type"] == "ProfileValid")
        assert message.startswith(f"spec.pins.clockMHz is {clock_mhz}, and PerformanceProfile")


async def test_the_cluster_policy_bounds_the_watts_of_all_services_together() -> None:
    world = World()
    world.load(30.0)
    await world.settle()
    free_w = world.status["power"]["expectedWatts"]
    other = world.service | {"metadata": {"name": "other", "namespace": "llm"}}
    other["spec"] = other["spec"] | {"priority": 1}  # of equals each would give back a part
    world.kube.put(other | {"status": {"power": {"expectedWatts": 1_000}}})
    put_policy(world, maxWatts=1_000 + free_w // 2)
    plan = world.status["plan"]
    for key in ("scaleDecidedS", "shardDecidedS"):
        plan[key] = 0.0  # epochs are over
    await world.cycle()
    assert 0 < world.status["power"]["expectedWatts"] <= free_w // 2
    assert world.condition("Planned")[1] == "CapacityUnavailable"
