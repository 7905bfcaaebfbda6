"""A node of stand-in GPUs for tests."""

from dataclasses import dataclass
from pathlib import Path

from lab import nvml as standin


@dataclass(frozen=True)
class Node:
    """A state file and the UUIDs in it."""

    file: Path
    uuids: list[str]

    def read(self, slot: int = 0) -> standin.GpuState:
        return standin.read(state_file=self.file).gpu(self.uuids[slot])

    def fault(self, fault: standin.Fault, *, slot: int = 0, on: bool = True, mhz: int = 0) -> None:
        standin.set_fault(state_file=self.file, uuid=self.uuids[slot], fault=fault, on=on, mhz=mhz)
