"""Whose a GPU is: engine pods of ours and the GPUs they hold, and the GPUs that must not be touched."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dynamollm.adapters.nodewatch import EnginePod
from dynamollm.adapters.nvml import GpuReading
from dynamollm.adapters.podresources import GpuHolding


@dataclass(frozen=True, slots=True)
class Instance:
    """An engine pod on this node and the GPUs that it holds, by UUID."""

    pod: EnginePod
    gpus: tuple[str, ...]


class Refusal(StrEnum):
    """Why a GPU of ours is not clocked, and its energy not counted to the service."""

    SHARED = "Shared"
    """Another pod is on it, or may be: time-slicing, MPS, or a second holder."""
    MIG = "Mig"
    """Partitioned: a lock and the watts would be of all its instances together."""


def local_instances(
    *, holdings: Collection[GpuHolding], pods: Mapping[tuple[str, str], EnginePod]
) -> tuple[Instance, ...]:
    """Return our engine pods that hold GPUs."""
    gpus: dict[tuple[str, str], list[str]] = {}
    for holding in holdings:
        key = (holding.namespace, holding.pod)
        if key in pods and holding.gpu not in gpus.setdefault(key, []):
            gpus[key].append(holding.gpu)
    return tuple(Instance(pod=pods[key], gpus=tuple(uuids)) for key, uuids in gpus.items())


def refusals(
    *,
    instances: Collection[Instance],
    holdings: Collection[GpuHolding],
    readings: Mapping[str, GpuReading],
) -> dict[str, Refusal]:
    """Return the GPUs of our instances that are not ours alone, by UUID."""
    holders = Counter(
        gpu for _namespace, _pod, gpu in {(holding.namespace, holding.pod, holding.gpu) for holding in holdings}
    )
    replicated = {holding.gpu for holding in holdings if holding.shared}
    refused: dict[str, Refusal] = {}
    for uuid in (gpu for instance in instances for gpu in instance.gpus):
        reading = readings.get(uuid)
        if uuid.startswith("MIG-") or (reading is not None and reading.mig):
            refused[uuid] = Refusal.MIG
        elif holders[uuid] > 1 or uuid in replicated:
            refused[uuid] = Refusal.SHARED
    return refused
