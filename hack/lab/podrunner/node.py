"""What a node gives its pods: addresses, GPUs, a file system for hostPath volumes, and the PodResources API."""

import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from lab import nvml
from lab.paths import node_dir, nvml_state
from lab.podrunner import podresources
from lab.podrunner.devices import GPU, DeviceManager
from lab.podrunner.podresources import Holding


class Node:
    """One node, as its pods see it."""

    def __init__(self, item: dict[str, Any], *, state: Path, time_scale: float) -> None:
        self.name: str = item["metadata"]["name"]
        self.folder = node_dir(state, self.name)
        self.root = self.folder / "root"
        addresses = item.get("status", {}).get("addresses", [])
        self.host_ip = next((one["address"] for one in addresses if one["type"] == "InternalIP"), "127.0.0.1")
        network = ip_network(item["spec"]["podCIDR"])
        # The longest unused is given next: who still talks to an old pod must not meet a new one.
        self._addresses = deque(str(address) for address in network.hosts())
        self._state_file = nvml_state(state, self.name)
        gpus = int(item["status"].get("capacity", {}).get(GPU, 0))
        self.allocatable: dict[str, str] = item["status"].get("allocatable", {})
        self.devices = DeviceManager(tuple(nvml.gpu_uuids(node=self.name, gpus=gpus)))
        if gpus and not self._state_file.exists():
            nvml.create(state_file=self._state_file, node=self.name, gpus=gpus, time_scale=time_scale)
        # What an earlier runner left: its pods have ended and are started anew.
        self._idle(self.devices.uuids)
        shutil.rmtree(self.folder / "pods", ignore_errors=True)
        self._pods: dict[str, dict[str, Any]] = {}
        self._socket = self.root / podresources.SOCKET
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)

    def address(self) -> str:
        """Return an address for a pod."""
        return self._addresses.popleft()

    def admit(self, pod: dict[str, Any]) -> None:
        """Remember a pod for the PodResources API."""
        self._pods[pod["metadata"]["uid"]] = pod

    def release(self, uid: str, address: str) -> None:
        """Take back what a pod had. Its GPUs are as a process leaves them: idle, locks kept."""
        self._idle(self.devices.release(uid))
        if self._pods.pop(uid, None) and address:
            self._addresses.append(address)

    def cleared(self, uid: str, container: str) -> None:
        """Leave a container's GPUs as the end of its process does; it keeps them for its next start."""
        self._idle(self.devices.held(uid).get(container, ()))

    def _idle(self, uuids: Iterable[str]) -> None:
        if self._state_file.exists():
            nvml.release(state_file=self._state_file, uuids=uuids)

    # ------------------------------------------------------------------ PodResources
    async def serve(self) -> None:
        """Answer on the kubelet's socket until cancelled."""
        await podresources.serve(self, self._socket)

    def holdings(self) -> Sequence[Holding]:
        """Return the pods that have not ended, with the GPUs of their containers."""
        return [
            Holding(
                namespace=pod["metadata"]["namespace"],
                name=pod["metadata"]["name"],
                containers={
                    one["name"]: self.devices.held(uid).get(one["name"], ()) for one in pod["spec"]["containers"]
                },
            )
            for uid, pod in self._pods.items()
        ]

    def gpus(self) -> Sequence[str]:
        """Return the UUIDs of the node's GPUs."""
        return self.devices.uuids
