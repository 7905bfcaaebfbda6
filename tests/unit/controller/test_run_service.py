"""The life of a service: no failure of one cycle ends it, and a stall shows."""

import asyncio
from typing import Any

import pytest

from dynamollm.controller import run_service as module
from dynamollm.controller.run_service import STALL_S, Progress, Wakes, run_service
from unit.controller.world import KEY, World


class Stopper:
    """kopf's stopper, which a test sets after so many waits."""

    def __init__(self, after: int) -> None:
        self.waits: list[float] = []
        self._after = after

    def __bool__(self) -> bool:
        return len(self.waits) >= self._after

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109 - kopf's signature
        self.waits.append(timeout)
        await asyncio.sleep(0)


async def live(world: World, stopper: Stopper) -> Progress:
    progress = Progress()
    await run_service(
        world.reconciler, body=lambda: world.service, stopped=stopper, wake=asyncio.Event(), progress=progress
    )
    return progress


def cycles(world: World, result: str) -> float | None:
    labels = {"namespace": "llm", "service": "chat", "result": result}
    return world.shared.metrics.registry.get_sample_value("dynamollm_operator_cycles_total", labels)


async def test_failures_back_off_are_reported_and_do_not_end_it() -> None:
    world = World()
    world.kube.failing = "configmaps"
    stopper = Stopper(after=4)
    await live(world, stopper)
    assert stopper.waits == [1.0, 2.0, 4.0, 8.0]
    assert cycles(world, "failed") == 4
    assert world.condition("Converged") == ("False", "CycleFailed")


async def test_a_bug_in_a_cycle_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("dynamollm.controller.reconcile_service.steps", broken)
    await live(world, Stopper(after=1))
    found = next(one for one in world.status["conditions"] if one["type"] == "Converged")
    assert found["reason"] == "CycleFailed"
    assert "of ours" in found["message"]


async def test_after_a_failure_it_goes_on() -> None:
    world = World()
    world.kube.failing = "configmaps"
    await live(world, Stopper(after=1))
    world.kube.failing = ""
    await live(world, Stopper(after=1))
    assert world.condition("Converged") == ("False", "RollingOut")
    assert cycles(world, "planned") == 1


async def test_a_wake_up_ends_the_rest_early() -> None:
    wake = asyncio.Event()

    class Patient(Stopper):
        async def wait(self, timeout: float) -> None:  # noqa: ASYNC109 - kopf's signature
            if timeout > 1:
                wake.set()
                await asyncio.sleep(600)

    async with asyncio.timeout(60):
        await module._rest(Patient(after=1), wake, began_s=0.0, interval_s=float("inf"))


def test_wakes_reach_those_who_sleep() -> None:
    wakes = Wakes()
    event = wakes.event(KEY)
    wakes.wake(("llm", "other"))
    assert not event.is_set()
    wakes.wake(KEY)
    assert event.is_set()
    event.clear()
    wakes.wake_all()
    assert event.is_set()
    wakes.forget(KEY)
    assert wakes.event(KEY) is not event


def test_a_service_without_cycles_is_stalled_and_one_that_is_gone_is_not() -> None:
    now_s = 0.0
    progress = Progress(monotonic=lambda: now_s)
    assert progress.stalled({KEY: None}) == []
    now_s = STALL_S + 1
    assert progress.stalled({KEY: None}) == [KEY]
    progress.beat(KEY)
    assert progress.stalled({KEY: None}) == []
    now_s = 3 * STALL_S
    assert progress.stalled({}) == []
