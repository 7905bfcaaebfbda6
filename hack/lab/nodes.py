"""The simulated GPU nodes: Node objects as a kubelet on a DGX H100 would register them, and their stand-in GPUs."""

import datetime as dt
from pathlib import Path
from typing import Any, Final

from lab import nvml
from lab.loopback import Subnet
from lab.paths import node_dir, nvml_state

LABEL_SIMULATED: Final = "dynamollm.io/simulated"
SELECTOR: Final = f"{LABEL_SIMULATED}=true"
GPU_PRODUCT: Final = "NVIDIA-H100-80GB-HBM3"
MAX_NODES: Final = 100
"""What one cluster's loopback addresses and one machine's processes carry."""
_CAPACITY: Final = {"cpu": "224", "memory": "2Ti", "ephemeral-storage": "10Ti", "pods": "110"}
"""A DGX H100: two CPUs of 56 cores, 2 TiB."""


def node_name(index: int) -> str:
    """Return the name of a node."""
    return f"gpu-node-{index:02}"


def make_gpus(state: Path, *, nodes: int, gpus: int, time_scale: float) -> None:
    """Make the state of every node's GPUs."""
    for name in map(node_name, range(nodes)):
        (node_dir(state, name) / "root").mkdir(parents=True)
        nvml.create(state_file=nvml_state(state, name), node=name, gpus=gpus, time_scale=time_scale)


def node_manifest(index: int, *, gpus: int, subnet: Subnet) -> dict[str, Any]:
    """Return a Node that is ready from its first moment; kwok keeps it so."""
    name = node_name(index)
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    capacity = _CAPACITY | {"nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                LABEL_SIMULATED: "true",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": name,
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": GPU_PRODUCT,
                "nvidia.com/gpu.count": str(gpus),
            },
        },
        # The pods that run as processes take their addresses from here.
        "spec": {"podCIDR": subnet.node_pods(index), "podCIDRs": [subnet.node_pods(index)]},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": subnet.node_address(index)},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "simulated",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                }
            ],
        },
    }
