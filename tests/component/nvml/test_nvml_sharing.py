"""Many processes on one node's state: nothing is lost, and the death of one stops nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from component.nvml.standin_node import Node
from dynamollm.core.errors import InvalidInputError
from lab import nvml as standin
from lab.nvml import Fault, StandinError

LOCK_MANY = """
import sys, pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByUUID(sys.argv[1])
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 210, 210 + 15 * (i % 100))
"""
HAMMER = """
import ctypes, sys
library = ctypes.CDLL("libnvidia-ml.so.1")
uuid = sys.argv[1].encode()
library.dynamollmStandinSetLoad(uuid, 1000, 1, 1)
print("ready", flush=True)
while True:
    library.dynamollmStandinSetLoad(uuid, 1000, 1, 1)
"""


def start(code: str, node: Node, library: Path, *arguments: str) -> subprocess.Popen[str]:
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "DYNAMOLLM_NVML_STATE": str(node.file)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, text=True)


def test_no_update_is_lost_between_processes(node: Node, library: Path) -> None:
    writers = [start(LOCK_MANY, node, library, node.uuids[0], "2000") for _ in range(4)]
    for writer in writers:
        writer.communicate(timeout=240)
        assert writer.returncode == 0
    assert node.read().lock_writes == 4 * 2000


def test_a_killed_process_holds_no_lock_for_ever(node: Node, library: Path) -> None:
    for _ in range(8):
        hammers = [start(HAMMER, node, library, node.uuids[0]) for _ in range(3)]
        for hammer in hammers:
            assert hammer.stdout is not None
            assert hammer.stdout.readline() == "ready\n"
        for hammer in hammers:
            hammer.send_signal(signal.SIGKILL)
            hammer.communicate()
        # Read by another process, with a limit: one that waits for a dead holder would hang in C.
        show = [sys.executable, "-m", "lab.nvml", "show", "--file", str(node.file)]
        hack = str(Path(standin.__file__).parents[1])
        done = subprocess.run(
            show, env=os.environ | {"PYTHONPATH": hack}, capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.count("GPU-") == 4


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, "other-version"])
def test_a_file_that_is_no_state_of_ours_is_refused(node: Node, content: bytes | str | None) -> None:
    whole = bytearray(node.file.read_bytes())
    node.file.unlink()
    if content == "other-version":
        whole[8] += 1
        content = bytes(whole)
    if isinstance(content, bytes):
        node.file.write_bytes(content)
    with pytest.raises(StandinError, match=r"Driver Not Loaded|version mismatch"):
        standin.read(state_file=node.file)


def test_wrong_requests_name_the_value(node: Node) -> None:
    with pytest.raises(StandinError, match="GPU-none"):
        standin.release(state_file=node.file, uuids=["GPU-none"])
    with pytest.raises(InvalidInputError, match="99"):
        standin.create(state_file=node.file, node="n", gpus=99)
    with pytest.raises(InvalidInputError, match="scale of 0"):
        standin.create(state_file=node.file, node="n", gpus=1, time_scale=0)
    with pytest.raises(InvalidInputError, match="power-cap"):
        node.fault(Fault.POWER_CAP)


def test_faults_show_and_go(node: Node) -> None:
    node.fault(Fault.POWER_CAP, mhz=1200)
    node.fault(Fault.NO_PERMISSION)
    assert node.read().faults == {Fault.POWER_CAP, Fault.NO_PERMISSION}
    node.fault(Fault.POWER_CAP, on=False)
    assert node.read().faults == {Fault.NO_PERMISSION}
    assert node.read(1).faults == frozenset()
