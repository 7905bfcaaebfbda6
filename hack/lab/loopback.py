"""A piece of 127.0.0.0/8 for each cluster, so that clusters side by side never meet, whatever ports they use.

Reserved by the name of an abstract Unix socket: those live in the same network namespace as the loopback addresses, are
exclusive over all users, and go away with the process that holds one.
"""

import errno
import socket
import zlib
from dataclasses import dataclass, field
from typing import Final, Self

from lab.errors import LabError

FIRST: Final = 64
"""The lowest second octet: 127.0 to 127.63 are left to others (systemd-resolved has 127.0.0.53)."""
COUNT: Final = 64
_PORTS_TRIED: Final = 50


@dataclass(frozen=True, slots=True)
class Subnet:
    """127.N.0.0/16, held until it is closed or the process ends."""

    octet: int
    holder: socket.socket
    given: set[int] = field(default_factory=set)
    """Ports that were handed out before."""

    @classmethod
    def reserve(cls, name: str) -> Self:
        """Take a subnet that nobody has; the same cluster name gets the same one where it is free.

        Raises:
            LabError: all are taken.
        """
        wish = zlib.crc32(name.encode()) % COUNT
        for step in range(COUNT):
            octet = FIRST + (wish + step) % COUNT
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                holder.bind(f"\0dynamollm-loopback-{octet}")
            except OSError as error:
                holder.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return cls(octet, holder)
        raise LabError(f"{COUNT} local clusters are up: take one down (`hack/cluster status` lists yours)")

    @property
    def control_plane(self) -> str:
        """Return the address that the control plane listens on."""
        return f"127.{self.octet}.255.1"

    def node_pods(self, index: int) -> str:
        """Return the CIDR of the pods that processes play on one node."""
        return f"127.{self.octet}.{index}.0/24"

    @property
    def simulated_pods(self) -> str:
        """Return the CIDR of the pods that kwok plays."""
        return f"127.{self.octet}.128.0/18"

    def node_address(self, index: int) -> str:
        """Return the address that a node says it has."""
        return f"127.{self.octet}.254.{index + 1}"

    def free_port(self, wish: int) -> int:
        """Return the first port from ``wish`` up that was not given before and that nothing on this machine listens on.

        Nobody else uses the control plane's address, so only a program that listens on every address can be in the way.

        Raises:
            LabError: many in a row are busy.
        """
        for port in range(wish, wish + _PORTS_TRIED):
            if port in self.given:
                continue
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # As servers do: connections that an earlier cluster left in TIME_WAIT are not in the way.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.control_plane, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                else:
                    self.given.add(port)
                    return port
        raise LabError(f"ports {wish} to {wish + _PORTS_TRIED - 1} are all busy on {self.control_plane}: free one")
