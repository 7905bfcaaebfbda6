import json
from datetime import UTC, datetime

import pytest

from dynamollm.agent.plan import PlanReader, clock_for
from dynamollm.api.clockplan import ClockGroup, ClockLadderStep
from dynamollm.core.loadmeter import EngineLoad

ISSUED = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NOW = ISSUED.timestamp()
GROUP = ClockGroup(
    min_mhz=600,
    max_mhz=1800,
    safe_mhz=1755,
    ladder=(
        ClockLadderStep(max_tokens_per_second=1000, clock_mhz=900),
        ClockLadderStep(max_tokens_per_second=2000, clock_mhz=1200),
    ),
)


def text(issued_at: str = "2026-11-23T12:00:00Z", lease_s: float = 900) -> str:
    return json.dumps({"version": 1, "issuedAt": issued_at, "leaseSeconds": lease_s, "groups": {}})


@pytest.mark.parametrize(
    ("plan", "wall_s", "in_force"),
    [
        (text(), NOW, True),
        (text(), NOW + 899.9, True),
        (text(), NOW + 900.0, False),
        (text("2026-11-23T14:00:00+02:00"), NOW + 899.9, True),
        (text("2026-11-23T14:00:00+02:00"), NOW + 900.1, False),
        (text("2026-11-23T12:00:00"), NOW + 899.9, True),  # no zone: UTC, whatever this machine's is
        (text("2026-11-23T12:00:00"), NOW + 900.1, False),
        (None, NOW, False),
        ("", NOW, False),
        ("{}", NOW, False),
        (text(lease_s=0), NOW, False),
        (text().replace('"version": 1', '"version": 2'), NOW, False),
    ],
)
def test_a_plan_is_in_force_until_its_lease_ends(plan: str | None, wall_s: float, *, in_force: bool) -> None:
    assert (PlanReader().in_force(plan, wall_s=wall_s) is not None) is in_force


def test_an_unreadable_plan_leaves_the_last_good_one_to_its_lease() -> None:
    reader = PlanReader()
    assert reader.in_force(text(), wall_s=NOW) is not None
    assert reader.in_force("nonsense", wall_s=NOW + 100) is not None
    assert reader.unreadable
    assert reader.in_force("nonsense", wall_s=NOW + 901) is None
    assert reader.in_force(text("2026-11-23T12:15:00Z"), wall_s=NOW + 901) is not None
    assert not reader.unreadable
    assert reader.in_force(None, wall_s=NOW + 901) is None


@pytest.mark.parametrize(
    ("load", "clock_mhz"),
    [
        (None, 1755),
        (EngineLoad(tokens_per_s=None, waiting=0, running=1), 1755),
        (EngineLoad(tokens_per_s=500.0, waiting=0, running=4), 900),
        (EngineLoad(tokens_per_s=1500.0, waiting=0, running=4), 1200),
        (EngineLoad(tokens_per_s=2500.0, waiting=0, running=4), 1755),
    ],
)
def test_the_clock_follows_the_ladder_and_unknown_load_is_safe(load: EngineLoad | None, clock_mhz: int) -> None:
    assert clock_for(GROUP, load, current_mhz=None) == clock_mhz


@pytest.mark.parametrize(
    ("min_mhz", "max_mhz", "rate", "clock_mhz"),
    [(1005, 1800, 10.0, 1005), (210, 800, 10.0, 800), (210, 1500, 1e6, 1500)],
)
def test_the_limits_are_the_groups(min_mhz: int, max_mhz: int, rate: float, clock_mhz: int) -> None:
    group = GROUP.model_copy(update={"min_mhz": min_mhz, "max_mhz": max_mhz})
    load = EngineLoad(tokens_per_s=rate, waiting=0, running=4)
    assert clock_for(group, load, current_mhz=None) == clock_mhz
