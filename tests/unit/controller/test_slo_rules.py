"""Whether the SLO is met depends on the rule of the service."""

from dataclasses import replace

import pytest

from dynamollm.core.classes import RequestClass
from dynamollm.core.protocols import Attainment
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
