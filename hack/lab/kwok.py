"""kwok: keeps the simulated nodes alive, and plays the kubelet for every pod that is not of our image."""

from collections.abc import Mapping
from pathlib import Path

from lab.controlplane import NICE
from lab.loopback import Subnet
from lab.nodes import SELECTOR
from lab.paths import HACK
from lab.processes import Command


def kwok(*, binaries: Mapping[str, Path], kubeconfig: Path, subnet: Subnet) -> Command:
    """Return kwok with the stages of hack/kwok."""
    stages = [f"--config={file}" for file in sorted((HACK / "kwok").glob("*.yaml"))]
    return Command(
        "kwok",
        [
            str(binaries["kwok"]),
            f"--kubeconfig={kubeconfig}",
            f"--manage-nodes-with-label-selector={SELECTOR}",
            "--node-lease-duration-seconds=40",
            f"--cidr={subnet.simulated_pods}",
            f"--node-ip={subnet.control_plane}",
            *stages,
        ],
        nice=NICE,
    )
