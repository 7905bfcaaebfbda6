"""The clock plan: who is in it, when it is written, and what a restart keeps of it."""

from typing import Any

import pytest

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import KubeError
from dynamollm.api import names
from dynamollm.api.clockplan import ClockPlan
from dynamollm.controller.clock_plan import LEASE_S, ClockPlanPublisher
from dynamollm.core.records import Ladder, LadderStep
from unit.controller.world import AGENTS, FakeKube

A, B = ("llm", "a"), ("llm", "b")
LADDER = Ladder(steps=(LadderStep(1000.0, 1005),), safe_mhz=1980)
AGENTS_BODY = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": names.AGENT_DAEMONSET, "namespace": names.SYSTEM_NAMESPACE},
}


class Desk:
    """A publisher, its cluster and its clock."""

    def __init__(self, *, scale: float = 1.0, kube: FakeKube | None = None) -> None:
        self.now_s = 0.0
        self.kube = kube or FakeKube()
        if kube is None:
            self.kube.put(AGENTS_BODY)
        anything: Any = self.kube
        self.publisher = ClockPlanPublisher(
            kube=anything,
            clock=Clock(scale=scale),
            namespace=names.SYSTEM_NAMESPACE,
            monotonic=lambda: self.now_s,
        )

    def say(self, service: tuple[str, str], ladder: Ladder = LADDER) -> None:
        self.publisher.set(service, {("ll", 4): ladder}, min_mhz=810, max_mhz=1980)

    @property
    def plan(self) -> ClockPlan:
        annotations = self.kube.objects[AGENTS]["metadata"]["annotations"]
        return ClockPlan.model_validate_json(annotations[names.ANNOTATION_CLOCK_PLAN])


async def test_all_services_are_in_one_annotation() -> None:
    desk = Desk(scale=10.0)
    desk.say(A)
    desk.say(B)
    await desk.publisher.publish()
    assert set(desk.plan.groups) == {"llm/a/ll/4", "llm/b/ll/4"}
    group = desk.plan.groups["llm/a/ll/4"]
    assert (group.min_mhz, group.max_mhz, group.safe_mhz) == (810, 1980, 1980)
    assert [(step.max_tokens_per_second, step.clock_mhz) for step in group.ladder] == [(1000.0, 1005)]
    assert desk.plan.lease_seconds == LEASE_S / 10  # wall
    # Metadata alone: a patch of the pod template would restart every agent.
    assert desk.kube.writes == [("patch", AGENTS)]
    assert "spec" not in desk.kube.objects[AGENTS]


async def test_a_service_that_goes_takes_its_groups_along() -> None:
    desk = Desk()
    desk.say(A)
    desk.say(B)
    await desk.publisher.publish()
    desk.publisher.release(A)
    await desk.publisher.publish()
    assert set(desk.plan.groups) == {"llm/b/ll/4"}
    desk.publisher.release(B)
    await desk.publisher.publish()
    assert desk.plan.groups == {}
    desk.kube.writes.clear()
    await desk.publisher.publish()
    assert desk.kube.writes == []  # nothing to renew


async def test_a_service_whose_cycles_are_stuck_steers_nothing_after_a_lease() -> None:
    desk = Desk()
    desk.say(A)
    desk.say(B)
    desk.now_s = LEASE_S - 1
    desk.publisher.keep(B)
    desk.now_s = LEASE_S + 1
    await desk.publisher.publish()
    assert set(desk.plan.groups) == {"llm/b/ll/4"}


async def test_a_restart_keeps_what_was_published_for_services_that_exist() -> None:
    before = Desk()
    before.say(A)
    before.say(B)
    await before.publisher.publish()
    after = Desk(kube=before.kube)
    await after.publisher.resume([B])
    await after.publisher.publish()
    assert set(after.plan.groups) == {"llm/b/ll/4"}


async def test_what_cannot_be_read_is_replaced() -> None:
    desk = Desk()
    desk.kube.objects[AGENTS]["metadata"]["annotations"] = {names.ANNOTATION_CLOCK_PLAN: "{"}
    await desk.publisher.resume([A])
    desk.say(A)
    await desk.publisher.publish()
    assert set(desk.plan.groups) == {"llm/a/ll/4"}


async def test_a_plan_too_large_for_an_annotation_has_safe_clocks_only() -> None:
    desk = Desk()
    long = Ladder(steps=tuple(LadderStep(float(i), 1005) for i in range(10_000)), safe_mhz=1980)
    desk.say(A, long)
    await desk.publisher.publish()
    group = desk.plan.groups["llm/a/ll/4"]
    assert (group.ladder, group.safe_mhz) == ((), 1980)


async def test_without_agents_it_is_an_error() -> None:
    desk = Desk()
    desk.kube.objects.clear()
    desk.say(A)
    with pytest.raises(KubeError):
        await desk.publisher.publish()
