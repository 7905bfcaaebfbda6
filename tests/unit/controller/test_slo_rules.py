"""Whether the SLO is met depends on the rule of the service."""

from dataclasses import replace

import pytest

from dynamollm.core.classes import RequestClass
from dynamollm.core.feedback import CALM_PACE_S, CALM_STEP, STEP, correction_at
from dynamollm.core.plan_codec import decode
from dynamollm.core.records import Attainment
from unit.controller.world import World

GOOD = Attainment(requests=9_900, met=9_890)
BAD = Attainment(requests=100, met=90)
CASES = [
    ("PerRequest", {RequestClass.SS: GOOD, RequestClass.LL: BAD}, ("True", "WithinSLO")),
    ("PerClassPercentile", {RequestClass.SS: GOOD, RequestClass.LL: BAD}, ("False", "BelowSLO")),
    ("PerClassPercentile", {RequestClass.SS: GOOD, RequestClass.LL: Attainment(0, 0)}, ("True", "WithinSLO")),
    ("PerRequest", {RequestClass.LL: BAD}, ("False", "BelowSLO")),
    ("FiveTimesAlone", {RequestClass.SS: GOOD}, ("Unknown", "RuleNotMeasured")),
]


@pytest.mark.parametrize(("rule", "attainment", "expected"), CASES)
async def test_the_rule_says_what_is_met(
    rule: str, attainment: dict[RequestClass, Attainment], expected: tuple[str, str]
) -> None:
    world = World()
    world.put_service(slo={"rule": rule})
    world.source.reading = replace(world.source.reading, attainment=attainment)
    await world.cycle()
    assert world.condition("SLOMet") == expected


async def test_requests_that_missed_their_slo_lately_change_the_plan_and_are_told_of() -> None:
    world = World()
    world.put_service()
    await world.settle()
    before = decode(world.status["plan"])
    # The first instances have been there for long.
    world.status["plan"]["correctedS"] = 0.0
    world.load(3.0)
    missed = {RequestClass.MM: Attainment(requests=100.0, met=60.0)}
    world.source.reading = replace(world.source.reading, recent_attainment=missed)
    await world.cycle()
    after = decode(world.status["plan"])
    assert (before.correction, after.correction, after.reason) == (1.0, STEP, "SLOMissed")
    assert world.condition("Planned") == ("True", "SLOMissed")
    assert "SLOMissed" in world.events()
    world.status["plan"]["reason"] = "Steady"
    world.source.reading = replace(world.source.reading, recent_attainment={})
    await world.cycle()
    said = next(one["message"] for one in world.status["conditions"] if one["type"] == "Planned")
    assert said.endswith(" Capacities count for 87 % of the profile's, as requests missed their SLO before.")
    labels = {"namespace": "llm", "service": "chat"}
    metrics = world.shared.metrics.registry
    assert metrics.get_sample_value("dynamollm_operator_plan_correction_ratio", labels) == pytest.approx(STEP, rel=1e-3)


async def test_a_scale_interval_with_hardly_a_miss_is_what_corrections_are_forgotten_by() -> None:
    world = World()
    world.put_service()
    await world.settle()
    world.load(3.0)
    world.status["plan"] |= {"correction": 1.3, "correctedS": world.clock.now_s() - 2 * CALM_PACE_S}
    faded = correction_at(decode(world.status["plan"]), now_s=world.clock.now_s())
    await world.cycle()
    assert decode(world.status["plan"]).correction == 1.3
    calm = {RequestClass.MM: Attainment(requests=9_900, met=9_899)}
    world.source.reading = replace(world.source.reading, attainment=calm)
    await world.cycle()
    assert decode(world.status["plan"]).correction == pytest.approx(faded / CALM_STEP, rel=1e-3)
