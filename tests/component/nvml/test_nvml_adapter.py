from collections.abc import Iterator

import pytest

from component.nvml.standin_node import Node
from dynamollm.adapters import nvml as adapter
from dynamollm.adapters.nvml import ClockLimit, GpuError, Gpus, SimulatedGpuLoad
from lab import nvml as standin
from lab.nvml import Fault


@pytest.fixture
def gpus(node: Node) -> Iterator[Gpus]:
    del node
    opened = Gpus()
    yield opened
    opened.close()


def test_a_reading_is_typed_and_in_units(gpus: Gpus, node: Node) -> None:
    load = SimulatedGpuLoad.open()
    assert load is not None
    load.publish(node.uuids[0], power_w=433.2, util_percent=88.4, context=True)
    gpus.lock_clock(node.uuids[0], clock_mhz=1200)
    reading = gpus.read(node.uuids[0])
    assert (reading.sm_clock_mhz, reading.power_w, reading.mig, reading.limits) == (1200, 433.2, False, frozenset())
    assert gpus.sm_clock_mhz(node.uuids[0]) == 1200
    gpus.reset_clock(node.uuids[0])
    assert gpus.sm_clock_mhz(node.uuids[0]) == 1980
    assert gpus.read(node.uuids[1]).limits == {ClockLimit.IDLE}
    assert gpus.supported_clocks_mhz(node.uuids[0]) == tuple(range(210, 1981, 15))


def test_a_lost_gpu_is_left_out_and_named_in_its_error(gpus: Gpus, node: Node) -> None:
    node.fault(Fault.LOST, slot=1)
    assert gpus.uuids() == (node.uuids[0], node.uuids[2], node.uuids[3])
    with pytest.raises(GpuError, match=node.uuids[1]) as caught:
        gpus.read(node.uuids[1])
    assert caught.value.reason == "GpuIsLost"


@pytest.mark.parametrize(("fault", "reason"), [(Fault.NO_PERMISSION, "NoPermission"), (Fault.UNKNOWN_ERROR, "Unknown")])
def test_errors_carry_a_stable_reason(gpus: Gpus, node: Node, fault: Fault, reason: str) -> None:
    node.fault(fault)
    with pytest.raises(GpuError) as caught:
        gpus.lock_clock(node.uuids[0], clock_mhz=900)
    assert caught.value.reason == reason


def test_a_driver_reload_is_survived(gpus: Gpus, node: Node) -> None:
    gpus.lock_clock(node.uuids[0], clock_mhz=900)
    standin.reload_driver(state_file=node.file)
    assert gpus.read(node.uuids[0]).energy_j >= 0
    gpus.lock_clock(node.uuids[0], clock_mhz=900)
    assert node.read().lock_mhz == (900, 900)


def test_locks_follow_the_uuid_through_reenumeration(gpus: Gpus, node: Node) -> None:
    assert gpus.uuids()[0] == node.uuids[0]
    standin.reenumerate(state_file=node.file)
    assert gpus.uuids()[0] == node.uuids[3]
    gpus.lock_clock(node.uuids[0], clock_mhz=900)
    assert [node.read(slot).lock_mhz for slot in range(4)] == [(900, 900), None, None, None]


def test_no_state_is_an_error_with_a_remedy(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOLLM_NVML_STATE", str(node.file) + ".missing")
    with pytest.raises(GpuError, match="load NVIDIA's driver"):
        Gpus()


def test_load_of_an_unknown_gpu_is_refused(node: Node) -> None:
    del node
    load = SimulatedGpuLoad.open()
    assert load is not None
    with pytest.raises(GpuError, match="GPU-none") as caught:
        load.publish("GPU-none", power_w=1, util_percent=1, context=True)
    assert caught.value.reason == "NotFound"


@pytest.mark.parametrize("library", ["libc.so.6", "libabsent.so.1"])
def test_a_library_that_is_no_standin_has_no_load(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(adapter, "_LIBRARY", library)
    assert SimulatedGpuLoad.open() is None
