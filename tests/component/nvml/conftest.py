"""A node of stand-in GPUs, reached through the real pynvml in this process."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from component.nvml.standin_node import Node
from lab import nvml as standin


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder of the compiled stand-in, loaded: pynvml's dlopen by name finds what has that name already."""
    folder = standin.ensure_library()
    ctypes.CDLL(str(folder / standin.LIBRARY_NAME))
    return folder


@pytest.fixture
def node(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Four GPUs, no time scale, in the environment of this process."""
    del library
    file = tmp_path / "gpus"
    uuids = standin.create(state_file=file, node="gpu-node-07", gpus=4)
    monkeypatch.setenv("DYNAMOLLM_NVML_STATE", str(file))
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    return Node(file=file, uuids=uuids)


@pytest.fixture
def nvml(node: Node) -> Iterator[Node]:
    """The same, with NVML initialised."""
    pynvml.nvmlInit()
    yield node
    pynvml.nvmlShutdown()
