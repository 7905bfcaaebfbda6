import time

import pynvml
import pytest

from component.nvml.standin_node import Node
from dynamollm.adapters.nvml import SimulatedGpuLoad
from lab import nvml as standin


@pytest.mark.parametrize("time_scale", [1.0, 8.0, 0.5])
def test_energy_is_power_over_simulated_time(node: Node, time_scale: float) -> None:
    standin.create(state_file=node.file, node="gpu-node-07", gpus=4, time_scale=time_scale)
    pynvml.nvmlInit()
    try:
        load = SimulatedGpuLoad.open()
        assert load is not None
        handle = pynvml.nvmlDeviceGetHandleByUUID(node.uuids[0])
        expected_j, slack_j = 0.0, 0.0
        load.publish(node.uuids[0], power_w=75, util_percent=0, context=False)
        began = time.monotonic()
        start_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        since = time.monotonic()
        slack_j += 75 * (since - began) * time_scale
        for power_w, next_w in ((75, 400), (400, 650.25), (650.25, 115)):
            time.sleep(0.05)
            before = time.monotonic()
            load.publish(node.uuids[0], power_w=next_w, util_percent=50, context=True)
            after = time.monotonic()
            expected_j += power_w * (before - since) * time_scale
            slack_j += max(power_w, next_w) * (after - before) * time_scale
            since = after
        used_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000 - start_j
        slack_j += 650.25 * (time.monotonic() - since) * time_scale
        # What is not exactly known is only how long the calls themselves took.
        assert expected_j - 0.01 <= used_j <= expected_j + slack_j + 0.01
    finally:
        pynvml.nvmlShutdown()


def test_rest_watts_depend_on_the_context(nvml: Node) -> None:
    load = SimulatedGpuLoad.open()
    assert load is not None
    handle = pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0])
    load.publish(nvml.uuids[0], power_w=0, util_percent=0, context=True)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 115_000
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert process.pid == nvml.read().context_pid
    load.publish(nvml.uuids[0], power_w=433.2, util_percent=88, context=True)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 433_200
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 88
    load.publish(nvml.uuids[0], power_w=0, util_percent=0, context=False)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 75_000


def test_release_leaves_an_idle_gpu_and_its_lock(nvml: Node) -> None:
    load = SimulatedGpuLoad.open()
    assert load is not None
    load.publish(nvml.uuids[0], power_w=500, util_percent=90, context=True)
    pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0]), 900, 900)
    standin.release(state_file=nvml.file, uuids=nvml.uuids[:2])
    gpu = nvml.read()
    assert (gpu.power_w, gpu.util_percent, gpu.context_pid, gpu.sm_clock_mhz) == (75.0, 0, None, 345)
    assert gpu.lock_mhz == (900, 900)


def test_a_driver_reload_starts_the_counter_at_zero(nvml: Node) -> None:
    load = SimulatedGpuLoad.open()
    assert load is not None
    load.publish(nvml.uuids[0], power_w=700, util_percent=100, context=True)
    time.sleep(0.02)
    before_j = nvml.read().energy_j
    standin.reload_driver(state_file=nvml.file)
    assert nvml.read().energy_j < before_j
