"""Which address a part listens on.

In a cluster all of the pod's: the kubelet probes its IP, and `kubectl port-forward` ends at its loopback address. Where
pods share one network, as on the local cluster, whoever runs them names the one address that is the pod's own.
"""

from collections.abc import Mapping
from typing import Final

ALL_IPV4: Final = "0.0.0.0"  # noqa: S104 - a pod's own
ALL_IPV6: Final = "::"
HOST_ENV: Final = "DYNAMOLLM_HOST"
"""Set by whoever runs pods in a network that they share."""
POD_IP_ENV: Final = "POD_IP"
"""Of the downward API: tells of which family the cluster's addresses are."""


def listening_address(environ: Mapping[str, str]) -> str:
    """Return the address for a process with this environment to listen on."""
    return environ.get(HOST_ENV) or every_address(environ.get(POD_IP_ENV, ""))


def every_address(like: str) -> str:
    """Return all addresses of the family of ``like``; of IPv4 where there is none."""
    return ALL_IPV6 if ":" in like else ALL_IPV4
