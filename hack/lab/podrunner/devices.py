"""Which GPU belongs to which container: the device manager of one node."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

GPU: Final = "nvidia.com/gpu"


class NoDevicesError(Exception):
    """The node has fewer free GPUs than a pod asks for."""


@dataclass(slots=True)
class DeviceManager:
    """The GPUs of a node, by UUID."""

    uuids: tuple[str, ...]
    _held: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Pod UID → container → UUIDs."""

    def allocate(self, pod: dict[str, Any]) -> dict[str, tuple[str, ...]]:
        """Give a pod's containers their GPUs until it is released; a pod that has some keeps them.

        Init containers have ended when the others start, so the others get the same GPUs again.

        Raises:
            NoDevicesError: too few are free; the pod gets none.
        """
        uid = pod["metadata"]["uid"]
        if uid in self._held:
            return self._held[uid]
        inits = {one["name"]: gpus_of(one) for one in pod["spec"].get("initContainers", [])}
        mains = {one["name"]: gpus_of(one) for one in pod["spec"]["containers"]}
        wanted, free = max(sum(mains.values()), *inits.values(), 0), self._free()
        if wanted > len(free):
            raise NoDevicesError(f"requested {wanted} of {GPU}, {len(free)} are free")
        given = {name: tuple(free[:count]) for name, count in inits.items() if count}
        for name, count in mains.items():
            if count:
                given[name], free = tuple(free[:count]), free[count:]
        self._held[uid] = given
        return given

    def _free(self) -> Sequence[str]:
        taken = {uuid for containers in self._held.values() for uuids in containers.values() for uuid in uuids}
        return [uuid for uuid in self.uuids if uuid not in taken]

    def held(self, uid: str) -> dict[str, tuple[str, ...]]:
        """Return the GPUs of a pod's containers, empty where it has none."""
        return self._held.get(uid, {})

    def release(self, uid: str) -> list[str]:
        """Take a pod's GPUs back and return them."""
        return list(dict.fromkeys(uuid for uuids in self._held.pop(uid, {}).values() for uuid in uuids))


def gpus_of(container: dict[str, Any]) -> int:
    """Return how many GPUs a container asks for."""
    resources = container.get("resources", {})
    return int(resources.get("limits", {}).get(GPU, resources.get("requests", {}).get(GPU, 0)))
