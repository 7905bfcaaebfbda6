"""Where the pod runner writes what pods print: laid out as a kubelet lays out /var/log/pods, on the pod's own node."""

from pathlib import Path

from lab.errors import LabError


def files(state: Path, namespace: str, pod: str) -> list[Path]:
    """Return a pod's log files, one for each container and restart, oldest first.

    Raises:
        LabError: the pod has none.
    """
    found = sorted(
        state.glob(f"nodes/*/root/var/log/pods/{namespace}_{pod}_*/*/*.log"), key=lambda file: file.stat().st_mtime
    )
    if not found:
        raise LabError(f"no log of pod {namespace}/{pod}: only pods of our image that have started have one")
    return found


def read(state: Path, namespace: str, pod: str) -> str:
    """Return what a pod has printed so far, its earlier runs included.

    Raises:
        LabError: the pod has no log.
    """
    return "".join(file.read_text(errors="replace") for file in files(state, namespace, pod))
