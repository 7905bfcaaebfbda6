"""The forecast's own error reaches status and metrics, is worked out now and then, and is not there while load is unknown."""

from dataclasses import replace

from prometheus_client.samples import Sample

from unit.controller.world import World


def shown(world: World) -> dict[tuple[str, str], float]:
    samples: list[Sample] = [one for metric in world.shared.metrics.registry.collect() for one in metric.samples]
    return {(one.name, one.labels.get("mode", "")): one.value for one in samples if "_forecast_" in one.name}


async def test_status_and_metrics_show_how_well_the_forecast_does() -> None:
    world = World()
    world.load(5.0, minutes=120)
    await world.settle()
    forecast = world.status["forecast"]
    assert forecast["mode"] == "Reactive"
    assert forecast["ratePerSecondMilli"] == 5000
    assert (forecast["errorBasisPoints"], forecast["coverageBasisPoints"]) == (0, 10_000)
    assert forecast["pinballPerSecondMilli"] == forecast["naivePinballPerSecondMilli"] == 0
    metrics = shown(world)
    assert metrics["dynamollm_operator_forecast_mode", "Reactive"] == 1
    assert metrics["dynamollm_operator_forecast_mode", "Weekly"] == 0
    assert metrics["dynamollm_operator_forecast_coverage_ratio", ""] == 1
    world.shared.metrics.forget(world.reconciler.key)
    assert shown(world) == {}


async def test_while_load_is_unknown_there_is_no_forecast() -> None:
    world = World()
    world.load(5.0, minutes=120)
    await world.settle()
    world.source.reading = replace(world.source.reading, load=None, reason="RouterDown", problem="down")
    await world.cycle()
    assert "mode" not in world.status.get("forecast", {})
