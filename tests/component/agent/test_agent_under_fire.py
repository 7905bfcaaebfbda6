"""Drivers that reload, GPUs that break, cap, move or are not ours alone."""

import signal

import pytest

from component.agent.agent_world import NODE, World
from lab import nvml as standin
from lab.nvml import Fault

LOCKED = {"gpu0": 900, "gpu1": 900}


@pytest.fixture
async def locked(world: World) -> World:
    """An agent that holds two locks."""
    engine = await world.pod("chat-a", 0, 1)
    engine.serve(100)
    world.plan()
    await world.start_agent()
    await world.eventually(world.locked(**LOCKED))
    return world


async def test_a_driver_reload_is_noticed_and_locks_are_set_again(locked: World) -> None:
    standin.reload_driver(state_file=locked.state_file)
    await locked.eventually(locked.locked(**LOCKED))
    metrics = await locked.cycles(1)
    assert metrics.value("dynamollm_gpu_locks_lost_total", node=NODE, gpu=locked.uuids[0]) == 1
    used = metrics.value("dynamollm_service_energy_joules_total", **_service())
    assert used is not None
    assert used > 0


async def test_a_lock_that_somebody_reset_is_set_again(locked: World) -> None:
    writes = locked.gpu(0).lock_writes
    locked.reset_by_somebody(0)
    await locked.eventually(lambda: locked.gpu(0).lock_writes >= writes + 2)
    await locked.eventually(locked.locked(**LOCKED))


async def test_indices_may_move(locked: World) -> None:
    standin.reenumerate(state_file=locked.state_file)
    locked.engines["chat-a"].serve(1500)
    await locked.eventually(locked.locked(gpu0=1200, gpu1=1200))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault.UNKNOWN_ERROR, "Unknown"), (Fault.LOST, "GpuIsLost"), (Fault.NO_PERMISSION, "NoPermission")],
)
async def test_a_gpu_that_refuses_is_skipped_and_tried_again(locked: World, fault: Fault, reason: str) -> None:
    locked.fault(1, fault)
    locked.engines["chat-a"].serve(1500)
    await locked.eventually(locked.locked(gpu0=1200, gpu1=900))
    metrics = await locked.cycles(1)
    errors = metrics.value("dynamollm_agent_errors_total", node=NODE, gpu=locked.uuids[1], reason=reason)
    assert errors is not None
    assert (await locked.get("/healthz"))[0] == 200
    locked.fault(1, fault, on=False)
    await locked.eventually(locked.locked(gpu0=1200, gpu1=1200))


@pytest.mark.parametrize(("fault", "reason"), [(Fault.POWER_CAP, "Power"), (Fault.THERMAL, "Thermal")])
async def test_success_but_not_reached_is_told_and_not_fought(locked: World, fault: Fault, reason: str) -> None:
    locked.engines["chat-a"].serve(5000)
    await locked.eventually(locked.locked(gpu0=1605, gpu1=1605))
    locked.fault(0, fault, mhz=1200)
    writes = locked.gpu(0).lock_writes
    metrics = await locked.cycles(3)
    gpu = {"node": NODE, "gpu": locked.uuids[0]}
    assert metrics.value("dynamollm_gpu_clock_unreached", **gpu, reason=reason) == 1
    assert metrics.value("dynamollm_gpu_sm_clock_mhz", **gpu) == 1200
    assert metrics.value("dynamollm_gpu_clock_limit_mhz", **gpu) == 1605
    assert metrics.series("dynamollm_gpu_clock_unreached") == [{**gpu, "reason": reason}]
    assert locked.gpu(0).lock_writes == writes


async def test_a_gpu_that_turns_mig_is_let_go_with_its_instance(locked: World) -> None:
    locked.fault(1, Fault.MIG)
    await locked.eventually(locked.locked())
    metrics = await locked.cycles(1)
    assert metrics.value("dynamollm_agent_refused", node=NODE, gpu=locked.uuids[1], reason="Mig") == 1
    # The watts of the partitioned one are unknown to the service; those of the other still count.
    assert metrics.value("dynamollm_service_power_watts", **_service()) == 400


@pytest.mark.parametrize("how", ["second holder", "time-slicing"])
async def test_a_shared_gpu_is_let_go_and_counted_to_nobody(locked: World, how: str) -> None:
    if how == "second holder":
        locked.kubelet.devices["other", "training-0"] = [locked.uuids[0], locked.uuids[1]]
    else:
        locked.kubelet.devices["llm", "chat-a"] = [f"{uuid}::1" for uuid in locked.uuids[:2]]
    await locked.eventually(locked.locked())
    first = await locked.cycles(1)
    second = await locked.cycles(3)
    for uuid in locked.uuids[:2]:
        assert second.value("dynamollm_agent_refused", node=NODE, gpu=uuid, reason="Shared") == 1
        assert second.value("dynamollm_gpu_power_watts", node=NODE, gpu=uuid) == 400
    assert second.value("dynamollm_service_power_watts", **_service()) is None
    joules = [scrape.value("dynamollm_service_energy_joules_total", **_service()) for scrape in (first, second)]
    assert joules[0] == joules[1]


async def test_a_foreign_pods_gpu_is_never_touched(world: World) -> None:
    world.kubelet.devices["other", "training-0"] = [world.uuids[6]]
    world.load(6, power_w=700)
    await world.pod("elsewhere", 7, node="gpu-node-09")
    engine = await world.pod("chat-a", 0, 1)
    engine.serve(100)
    world.plan()
    await world.start_agent()
    await world.eventually(world.locked(**LOCKED))
    metrics = await world.cycles(2)
    assert world.gpu(6).lock_writes == world.gpu(7).lock_writes == 0
    assert metrics.value("dynamollm_gpu_power_watts", node=NODE, gpu=world.uuids[6]) == 700
    assert await world.end_agent(signal.SIGTERM) == 0
    assert world.gpu(6).lock_writes == 0


def _service() -> dict[str, str]:
    return {"node": NODE, "namespace": "llm", "service": "chat", "pool": "ll", "tensor_parallel": "2"}
