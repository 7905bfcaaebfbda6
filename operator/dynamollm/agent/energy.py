"""Who used the joules: the energy of each GPU, counted to the service whose pod held it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamollm.adapters.nvml import GpuReading


@dataclass(frozen=True, slots=True, order=True)
class Consumer:
    """A shard group of a service."""

    namespace: str
    service: str
    pool: str
    tensor_parallel: int


@dataclass(slots=True)
class EnergyAccount:
    """Joules by consumer since this agent started. A stretch between two readings goes to who held the GPU at its start."""

    joules: dict[Consumer, float] = field(default_factory=dict)
    _last: dict[str, tuple[float, Consumer | None]] = field(default_factory=dict)

    def add(self, *, readings: Mapping[str, GpuReading], consumers: Mapping[str, Consumer]) -> None:
        """Count up to these readings; ``consumers`` says who holds each GPU (UUID) from now on."""
        for consumer in consumers.values():
            self.joules.setdefault(consumer, 0.0)
        for uuid, reading in readings.items():
            before, holder = self._last.get(uuid, (reading.energy_j, None))
            # A counter that fell started at zero when the driver was loaded anew: what it shows is what was used since.
            used = reading.energy_j - before if reading.energy_j >= before else reading.energy_j
            if holder is not None:
                self.joules[holder] += used
            self._last[uuid] = (reading.energy_j, consumers.get(uuid))
