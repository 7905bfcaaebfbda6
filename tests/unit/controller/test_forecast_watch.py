"""The forecast's own error reaches status and metrics, is worked out now and then, and is not there while load is unknown."""

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.samples import Sample

from dynamollm.controller.forecast_watch import ForecastWatch
from dynamollm.core.classes import RequestClass
from dynamollm.core.records import PolicyName
from unit.controller.world import World
from unit.core.decision_world import history, make_service

NOW_S = 1_000_000.0


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


async def test_metrics_have_each_figure_of_the_status() -> None:
    world = World()
    world.load(5.0, minutes=3600)
    load = world.source.reading.load
    assert load is not None
    # A season, so that the naive forecast's error is another than the forecast's own.
    per_minute = 300 * (1 + 0.8 * np.sin(2 * np.pi * np.arange(3600) / 1440))
    noisy = {RequestClass.MM: tuple((np.random.default_rng(1).poisson(per_minute) / 60.0).tolist())}
    world.source.reading = replace(world.source.reading, load=replace(load, rate_per_s=noisy))
    await world.settle()
    forecast, metrics = world.status["forecast"], shown(world)
    figures = {
        "errorBasisPoints": ("error_ratio", 10_000),
        "coverageBasisPoints": ("coverage_ratio", 10_000),
        "pinballPerSecondMilli": ("pinball_loss_per_second", 1000),
        "naivePinballPerSecondMilli": ("naive_pinball_loss_per_second", 1000),
    }
    for name, (metric, unit) in figures.items():
        assert forecast[name] == round(unit * metrics[f"dynamollm_operator_forecast_{metric}", ""]) > 0
    assert len({forecast[name] for name in figures}) == len(figures)


def test_it_looks_as_far_ahead_as_the_policy_plans() -> None:
    rising = {RequestClass.MM: [1 + minute / 60 for minute in range(360)]}
    load = history(rising, end_s=NOW_S)
    watched = {
        policy: ForecastWatch().look(make_service(policy=policy), load, startup_s=120.0, now_s=NOW_S)
        for policy in (PolicyName.JOINT, PolicyName.DYNAMO_LLM)
    }
    ahead_min = {policy: 60 * (one.expected_per_s - 1) - 359 for policy, one in watched.items() if one is not None}
    # 2 min and 30 min of an interval, and 2 min of start-up, to within the forecast's own buckets.
    assert ahead_min == {
        PolicyName.JOINT: pytest.approx(4, abs=2),
        PolicyName.DYNAMO_LLM: pytest.approx(32, abs=2),
    }


async def test_while_load_is_unknown_there_is_no_forecast() -> None:
    world = World()
    world.load(5.0, minutes=120)
    await world.settle()
    world.source.reading = replace(world.source.reading, load=None, reason="RouterDown", problem="down")
    await world.cycle()
    assert "mode" not in world.status.get("forecast", {})
