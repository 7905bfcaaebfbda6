"""The engine's GPUs through real pynvml on the stand-in library."""

import ctypes
import logging
from pathlib import Path

import pynvml
import pytest

from dynamollm.engine import gpus as engine_gpus
from dynamollm.engine.gpus import Accelerators, NoGpus, open_accelerators
from lab import nvml as standin


@pytest.fixture
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's state, of which this process sees two GPUs of four."""
    # pynvml opens the library by name, which finds one that is loaded already.
    ctypes.CDLL(str(standin.ensure_library() / standin.LIBRARY_NAME))
    file = tmp_path / "gpus"
    uuids = standin.create(state_file=file, node="gpu-node-01", gpus=4)
    monkeypatch.setenv("DYNAMOLLM_NVML_STATE", str(file))
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", ",".join(uuids[1:3]))
    return file


def opened() -> Accelerators:
    return open_accelerators(tensor_parallel=2, idle_w=115.0, max_clock_mhz=1980)


def power(file: Path) -> list[float]:
    return [gpu.power_w for gpu in standin.read(state_file=file).gpus]


@pytest.mark.usefixtures("state_file")
def test_the_slowest_gpu_sets_the_clock() -> None:
    gpus = opened()
    assert gpus.clock_mhz() == 1980
    pynvml.nvmlInit()
    pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByIndex(1), 1095, 1095)
    pynvml.nvmlShutdown()
    assert gpus.clock_mhz() == 1095
    gpus.close()


def test_power_is_published_to_its_own_gpus_and_given_back(state_file: Path) -> None:
    gpus = opened()
    assert power(state_file) == [75, 115, 115, 75]
    gpus.publish(power_w=512.5, util_percent=80)
    assert power(state_file) == [75, 512.5, 512.5, 75]
    gpus.close()
    assert power(state_file) == [75, 75, 75, 75]


def test_the_last_known_clock_stands_where_nvml_fails(state_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpus = opened()
    pynvml.nvmlInit()
    pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByIndex(0), 1200, 1200)
    pynvml.nvmlShutdown()
    assert gpus.clock_mhz() == 1200
    uuid = standin.gpu_uuids(node="gpu-node-01", gpus=4)[1]
    standin.set_fault(state_file=state_file, uuid=uuid, fault=standin.Fault.UNKNOWN_ERROR)
    with caplog.at_level(logging.WARNING):
        assert [gpus.clock_mhz() for _ in range(3)] == [1200] * 3
    assert len([record for record in caplog.records if "1200 MHz stands" in record.message]) == 1
    standin.set_fault(state_file=state_file, uuid=uuid, fault=standin.Fault.UNKNOWN_ERROR, on=False)
    gpus.close()


def test_without_nvml_it_runs_at_the_highest_clock_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise engine_gpus.GpuError("cannot initialise NVML", reason="LibraryNotFound")

    monkeypatch.setattr(engine_gpus, "Gpus", missing)
    gpus = opened()
    assert isinstance(gpus, NoGpus)
    assert [gpus.clock_mhz() for _ in range(3)] == [1980] * 3
    assert [record.message for record in caplog.records] == [
        "no GPUs to read a clock from, running at 1980 MHz: cannot initialise NVML"
    ]
