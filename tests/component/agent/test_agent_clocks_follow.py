"""Clocks follow the plan and the load of each engine."""

import pytest

from component.agent.agent_world import NODE, World

SERVICE = {"node": NODE, "namespace": "llm", "service": "chat", "pool": "ll", "tensor_parallel": "2"}


async def test_every_gpu_of_an_instance_follows_its_load(world: World) -> None:
    busy = await world.pod("chat-a", 0, 1)
    quiet = await world.pod("chat-b", 4, 5)
    busy.serve(1500)
    quiet.serve(300)
    world.plan()
    await world.start_agent()
    await world.eventually(world.locked(gpu0=1200, gpu1=1200, gpu4=900, gpu5=900))
    # More than the ladder carries: safe clock. A queue: safe clock, at once.
    busy.serve(5000)
    quiet.serve(300, waiting=50)
    await world.eventually(world.locked(gpu0=1605, gpu1=1605, gpu4=1605, gpu5=1605))
    quiet.serve(300)
    await world.eventually(world.locked(gpu0=1605, gpu1=1605, gpu4=900, gpu5=900))
    metrics = await world.cycles(1)
    gpu = {"node": NODE, "gpu": world.uuids[4]}
    assert metrics.value("dynamollm_gpu_clock_limit_mhz", **gpu) == 900
    assert metrics.value("dynamollm_gpu_sm_clock_mhz", **gpu) == 900
    assert (metrics.value("dynamollm_gpu_clock_changes_total", **gpu) or 0) >= 3
    assert metrics.value("dynamollm_gpu_clock_limit_mhz", node=NODE, gpu=world.uuids[7]) is None
    assert metrics.value("dynamollm_gpu_clock_changes_total", node=NODE, gpu=world.uuids[7]) == 0
    assert world.journal() == {world.uuids[slot]: clock for slot, clock in ((0, 1605), (1, 1605), (4, 900), (5, 900))}


async def test_the_groups_limits_bound_the_ladder(world: World) -> None:
    engine = await world.pod("chat-a", 0, 1)
    engine.serve(100)
    world.plan(min_mhz=1005, max_mhz=1500)
    await world.start_agent()
    await world.eventually(world.locked(gpu0=1005, gpu1=1005))
    engine.serve(9000)
    await world.eventually(world.locked(gpu0=1500, gpu1=1500))


@pytest.mark.parametrize("serving", [True, False])
async def test_an_engine_that_does_not_answer_runs_at_its_safe_clock(world: World, *, serving: bool) -> None:
    engine = await world.pod("chat-a", 0, 1, serving=serving)
    world.plan()
    if serving:
        engine.serve(100)
        await world.start_agent()
        await world.eventually(world.locked(gpu0=900, gpu1=900))
        await engine.stop()
    else:
        await world.start_agent()
    await world.eventually(world.locked(gpu0=1605, gpu1=1605))
    metrics = await world.cycles(1)
    errors = metrics.value("dynamollm_agent_errors_total", node=NODE, gpu="", reason="EngineMetricsUnknown")
    assert errors is not None


async def test_pods_that_come_and_go(world: World) -> None:
    world.plan()
    await world.start_agent()
    engine = await world.pod("chat-a", 2, 3)
    engine.serve(100)
    await world.eventually(world.locked(gpu2=900, gpu3=900))
    await world.remove_pod("chat-a")
    await world.eventually(world.locked())
    await world.eventually(lambda: world.journal() == {})
    other = await world.pod("chat-b", 3, 4)
    other.serve(100)
    await world.eventually(world.locked(gpu3=900, gpu4=900))


async def test_a_pod_whose_group_the_plan_does_not_name_keeps_default_clocks(world: World) -> None:
    named = await world.pod("chat-a", 0, 1)
    await world.pod("code-a", 2, 3, service="code")
    named.serve(100)
    world.plan()
    await world.start_agent()
    await world.eventually(world.locked(gpu0=900, gpu1=900))
    metrics = await world.cycles(2)
    assert world.locked(gpu0=900, gpu1=900)()
    # It is ours all the same: its joules are counted.
    assert metrics.value("dynamollm_service_power_watts", **(SERVICE | {"service": "code"})) == 800


async def test_watts_and_joules_are_of_the_services_gpus_alone(world: World) -> None:
    engine = await world.pod("chat-a", 0, 1)
    engine.serve(100)
    world.plan()
    await world.start_agent()
    # Not the safe clock: it stands for one cycle alone, until two readings make a rate.
    await world.eventually(world.locked(gpu0=900, gpu1=900))
    before = await world.cycles(1)
    least_j = [world.gpu(slot).energy_j for slot in range(8)]
    after = await world.cycles(5)
    most_j = [world.gpu(slot).energy_j for slot in range(8)]
    assert after.value("dynamollm_service_power_watts", **SERVICE) == 800
    assert after.value("dynamollm_gpu_power_watts", node=NODE, gpu=world.uuids[7]) == 75
    assert after.value("dynamollm_gpu_held", gpu=world.uuids[0], **SERVICE) == 1
    assert after.value("dynamollm_gpu_held", gpu=world.uuids[7], **SERVICE) is None

    def used(name: str, **labels: str) -> float:
        return (after.value(name, **labels) or 0) - (before.value(name, **labels) or 0)

    used_by_gpus = [used("dynamollm_gpu_energy_joules_total", node=NODE, gpu=uuid) for uuid in world.uuids]
    assert used("dynamollm_service_energy_joules_total", **SERVICE) == pytest.approx(sum(used_by_gpus[:2]), abs=0.01)
    # The last cycle read each meter after one look of ours and before the other.
    for slot, uuid in enumerate(world.uuids):
        assert (
            least_j[slot]
            <= (after.value("dynamollm_gpu_energy_joules_total", node=NODE, gpu=uuid) or 0)
            <= most_j[slot]
        )
    assert after.series("dynamollm_service_energy_joules_total") == [SERVICE]
