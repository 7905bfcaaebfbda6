import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from component.nvml.standin_node import Node
from dynamollm.adapters.nvml import SimulatedGpuLoad
from lab import nvml as standin

SM = pynvml.NVML_CLOCK_SM


@pytest.fixture
def handle(nvml: Node) -> object:
    """A GPU that works: a context, 500 W."""
    load = SimulatedGpuLoad.open()
    assert load is not None
    load.publish(nvml.uuids[0], power_w=500, util_percent=90, context=True)
    return pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0])


def test_supported_clocks_are_an_h100s(handle: object) -> None:
    assert pynvml.nvmlDeviceGetSupportedMemoryClocks(handle) == [2619]
    assert pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, 2619) == list(range(1980, 209, -15))
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, SM) == 1980
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, 1593)


@pytest.mark.parametrize(
    ("asked", "got"),
    [(1005, 1005), (1000, 1005), (998, 1005), (997, 990), (1, 210), (0, 210), (1979, 1980), (5000, 1980)],
)
def test_a_lock_is_snapped_to_a_supported_clock(handle: object, nvml: Node, asked: int, got: int) -> None:
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, asked, asked)
    assert nvml.read().lock_mhz == (got, got)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == got
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS) == got
    assert pynvml.nvmlDeviceGetClock(handle, SM, pynvml.NVML_CLOCK_ID_CURRENT) == got


def test_a_range_runs_at_its_top_and_a_wrong_one_is_refused(handle: object, nvml: Node) -> None:
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 300, 1200)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, 1300, 1200)
    assert nvml.read().lock_mhz == (300, 1200)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 1200


def test_reset_gives_the_default_back(handle: object, nvml: Node) -> None:
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 900, 900)
    pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    assert nvml.read().lock_mhz is None
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 1980


def test_without_a_context_the_clock_is_idle_whatever_the_lock(nvml: Node) -> None:
    handle = pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[1])
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 1200, 1200)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 345
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == pynvml.nvmlClocksEventReasonGpuIdle


def test_a_lock_outlives_its_process(node: Node, library: Path) -> None:
    code = (
        "import sys, os, pynvml; pynvml.nvmlInit();"
        "pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByUUID(sys.argv[1]), 1110, 1110);"
        "os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "DYNAMOLLM_NVML_STATE": str(node.file)}
    assert subprocess.run([sys.executable, "-c", code, node.uuids[2]], env=env, check=False).returncode == -9
    assert node.read(2).lock_mhz == (1110, 1110)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (standin.Fault.POWER_CAP, pynvml.nvmlClocksEventReasonSwPowerCap),
        (standin.Fault.THERMAL, pynvml.nvmlClocksEventReasonSwThermalSlowdown),
    ],
)
def test_success_but_not_reached(handle: object, nvml: Node, fault: standin.Fault, reason: int) -> None:
    nvml.fault(fault, mhz=1350)
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 1800, 1800)
    assert nvml.read().lock_mhz == (1800, 1800)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 1350
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == reason
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 900, 900)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 900
    nvml.fault(fault, on=False)
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (standin.Fault.UNKNOWN_ERROR, pynvml.NVMLError_Unknown),
        (standin.Fault.LOST, pynvml.NVMLError_GpuIsLost),
    ],
)
def test_a_broken_gpu_breaks_alone(handle: object, nvml: Node, fault: standin.Fault, error: type[Exception]) -> None:
    nvml.fault(fault)
    for call in (
        lambda: pynvml.nvmlDeviceGetClockInfo(handle, SM),
        lambda: pynvml.nvmlDeviceSetGpuLockedClocks(handle, 900, 900),
        lambda: pynvml.nvmlDeviceResetGpuLockedClocks(handle),
        lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        lambda: pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0]),
        lambda: pynvml.nvmlDeviceGetHandleByIndex(0),
    ):
        with pytest.raises(error):
            call()
    assert pynvml.nvmlDeviceGetCount() == 4
    assert pynvml.nvmlDeviceGetPowerUsage(pynvml.nvmlDeviceGetHandleByIndex(1)) == 75_000
    nvml.fault(fault, on=False)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 1980
    assert nvml.read().lock_mhz is None


def test_no_permission_refuses_setters_alone(handle: object, nvml: Node) -> None:
    nvml.fault(standin.Fault.NO_PERMISSION)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, 900, 900)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    assert pynvml.nvmlDeviceGetClockInfo(handle, SM) == 1980
    assert nvml.read().lock_writes == 0


def test_mig_mode_shows(handle: object, nvml: Node) -> None:
    nvml.fault(standin.Fault.MIG)
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]


def test_a_driver_reload_loses_locks_and_wants_a_new_initialisation(handle: object, nvml: Node) -> None:
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 900, 900)
    standin.reload_driver(state_file=nvml.file)
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetClockInfo(handle, SM)
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()
    again = pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0])
    assert pynvml.nvmlDeviceGetClockInfo(again, SM) == 1980
    assert nvml.read().lock_mhz is None
