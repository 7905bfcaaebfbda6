"""What a local cluster should be like."""

import re
from dataclasses import dataclass
from typing import Final

from dynamollm.core.errors import InvalidInputError
from lab.nodes import MAX_NODES
from lab.nvml import MAX_GPUS
from lab.paths import node_dir, state_dir

_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")
_SOCKET: Final = "root/var/lib/kubelet/pod-resources/kubelet.sock"
_SOCKET_BYTES: Final = 107
"""What the kernel allows for the path of a Unix socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterOptions:
    """What a local cluster should be like."""

    name: str = "default"
    """Clusters of different names stand side by side."""
    nodes: int = 12
    gpus_per_node: int = 8
    time_scale: float = 1.0
    """Simulated seconds per wall second."""
    time_anchor_s: float = 0.0
    """Where simulated and wall time meet, unix seconds (see dynamollm.adapters.clock)."""
    scrape_interval_s: float = 1.0
    """Wall seconds between two scrapes of a pod."""
    audit: bool = False
    """Write what service accounts ask the API server into logs/audit.log: who needs which right."""

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidInputError: names the value and what to give instead.
        """
        if not _NAME.fullmatch(self.name):
            raise InvalidInputError(
                f"cluster name {self.name!r}: give 1 to 20 lower-case letters, digits and dashes, a letter first"
            )
        if not 1 <= self.nodes <= MAX_NODES:
            raise InvalidInputError(f"{self.nodes} nodes: give 1 to {MAX_NODES}")
        if not 0 <= self.gpus_per_node <= MAX_GPUS:
            raise InvalidInputError(f"{self.gpus_per_node} GPUs on a node: give 0 to {MAX_GPUS}")
        if not self.time_scale > 0:
            raise InvalidInputError(f"time scale {self.time_scale}: give a number above 0 (1 is real time)")
        if not self.scrape_interval_s >= 0.1:  # noqa: PLR2004 - below it Prometheus only scrapes late
            raise InvalidInputError(f"scrape interval {self.scrape_interval_s} s: give at least 0.1")
        socket = str(node_dir(state_dir(self.name), "gpu-node-00") / _SOCKET)
        if len(socket) > _SOCKET_BYTES:
            raise InvalidInputError(
                f"{socket} is too long for a Unix socket ({len(socket)} of {_SOCKET_BYTES} bytes): "
                "give a shorter name, or point TMPDIR to a shorter folder"
            )
