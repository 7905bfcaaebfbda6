import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from component.nvml.standin_node import Node
from lab import nvml as standin


def handles() -> list[object]:
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]


def test_uuids_follow_from_the_node_name(node: Node) -> None:
    digest = hashlib.sha1(b"gpu-node-07").hexdigest()[:8]
    assert node.uuids == [f"GPU-{digest}-0000-0000-0000-00000000000{slot}" for slot in range(4)]


def test_pynvml_loads_it_by_name_from_the_library_path(node: Node, library: Path) -> None:
    code = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion())"
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "DYNAMOLLM_NVML_STATE": str(node.file)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "580.95.05"]


def test_a_gpu_is_the_same_by_index_uuid_and_pci_address(nvml: Node) -> None:
    for slot, handle in enumerate(handles()):
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        assert uuid == nvml.uuids[slot]
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        for again in (
            pynvml.nvmlDeviceGetHandleByUUID(uuid),
            pynvml.nvmlDeviceGetHandleByPciBusId(pci.busId),
            pynvml.nvmlDeviceGetHandleByPciBusId(pci.busIdLegacy),
        ):
            assert pynvml.nvmlDeviceGetUUID(again) == uuid
        assert pynvml.nvmlDeviceGetIndex(handle) == slot
        assert pynvml.nvmlDeviceGetMinorNumber(handle) == slot


@pytest.mark.usefixtures("nvml")
def test_it_says_what_an_idle_h100_says() -> None:
    handle = handles()[0]
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 75_000
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == 700_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 700_000
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == pynvml.NVML_FEATURE_ENABLED
    assert pynvml.nvmlDeviceGetMigMode(handle) == [0, 0]
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 0
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == 32
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 32
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    assert memory.total == 81559 * 2**20
    assert memory.used + memory.free == memory.total
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    assert second.used + second.free + second.reserved == second.total == memory.total


@pytest.mark.parametrize(
    ("visible", "slots"),
    [("all", [0, 1, 2, 3]), ("{1}", [1]), ("{3},{1}", [1, 3]), ("none", []), ("GPU-elsewhere", []), ("", [])],
)
def test_a_container_sees_its_own_gpus_counted_from_zero(
    node: Node, monkeypatch: pytest.MonkeyPatch, visible: str, slots: list[int]
) -> None:
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", visible.format(*node.uuids))
    pynvml.nvmlInit()
    try:
        assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles()] == [node.uuids[slot] for slot in slots]
        assert [pynvml.nvmlDeviceGetIndex(handle) for handle in handles()] == list(range(len(slots)))
        for slot, uuid in enumerate(node.uuids):
            if slot not in slots:
                with pytest.raises(pynvml.NVMLError_NotFound):
                    pynvml.nvmlDeviceGetHandleByUUID(uuid)
    finally:
        pynvml.nvmlShutdown()


def test_what_does_not_exist_is_refused_as_by_the_driver(nvml: Node) -> None:
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-00000000-0000-0000-0000-000000000000")
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByPciBusId("00000000:FF:00.0")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(len(nvml.uuids))
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetFanSpeed(pynvml.nvmlDeviceGetHandleByIndex(0))


def test_nothing_answers_before_initialisation(node: Node) -> None:
    del node
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_reenumeration_moves_indices_and_leaves_handles(nvml: Node) -> None:
    last = pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[3])
    standin.reenumerate(state_file=nvml.file)
    assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles()] == [nvml.uuids[slot] for slot in (3, 0, 1, 2)]
    assert pynvml.nvmlDeviceGetIndex(last) == 0
    assert pynvml.nvmlDeviceGetUUID(last) == nvml.uuids[3]
