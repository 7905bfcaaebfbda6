"""What a run looked like over time, by pool, on an even grid of minutes or coarser: what the report plots."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.engine_room import EngineRoom
from dynamollm.simulator.virtual_cluster import VirtualCluster


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; powers are means since the sample before."""

    time_s: float
    """Of the trace."""
    power_w: dict[str, float]
    """By pool, GPUs that are held."""
    instances: dict[tuple[str, int], int]
    """By pool and TP degree, those that hold GPUs."""
    clock_mhz: dict[str, float]
    """Mean over a pool's serving GPUs."""
    requests: NDArray[np.int64]
    """[class] that ended or failed since the sample before."""
    met: NDArray[np.int64]
    """[class], those of them within their SLO."""


@dataclass(slots=True)
class Timeline:
    """Takes a sample every ``step_s``."""

    step_s: float
    samples: list[Sample] = field(default_factory=list)
    _energy_j: NDArray[np.float64] | None = None
    _requests: NDArray[np.int64] | None = None
    _met: NDArray[np.int64] | None = None
    _last_s: float = 0.0

    def begin(self, room: EngineRoom, *, time_s: float) -> None:
        """Count from now on."""
        self._energy_j, self._last_s = room.energy_j(), time_s
        self._requests, self._met = _ended(room), room.fleet.by_class["met"].copy()

    def take(self, room: EngineRoom, cluster: VirtualCluster, *, time_s: float) -> None:
        """Add a sample."""
        if self._energy_j is None or self._requests is None or self._met is None:
            raise ValueError("a timeline that has not begun has no samples")
        energy_j, ended, met = room.energy_j(), _ended(room), room.fleet.by_class["met"].copy()
        power_w = (energy_j - self._energy_j) / max(time_s - self._last_s, 1e-9)
        instances: dict[tuple[str, int], int] = {}
        clocks: dict[str, list[tuple[int, int]]] = {}
        for pod in cluster.pods.values():
            if pod.node is None:
                continue
            instances[pod.key] = instances.get(pod.key, 0) + 1
            if pod.is_ready:
                clocks.setdefault(pod.key[0], []).append((room.clock_mhz(pod), pod.tensor_parallel))
        self.samples.append(
            Sample(
                time_s=time_s,
                power_w={name: float(power_w[index]) for name, index in room.pools.items() if power_w[index] > 0},
                instances=instances,
                clock_mhz={
                    name: sum(mhz * gpus for mhz, gpus in pairs) / sum(gpus for _, gpus in pairs)
                    for name, pairs in clocks.items()
                },
                requests=ended - self._requests,
                met=met - self._met,
            )
        )
        self._energy_j, self._requests, self._met, self._last_s = energy_j, ended, met, time_s


def _ended(room: EngineRoom) -> NDArray[np.int64]:
    served = room.fleet.ttft.sum(axis=1)
    return np.asarray(served + room.fleet.by_class["failed"])
