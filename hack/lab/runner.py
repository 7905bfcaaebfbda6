"""How the pod runner is started: a process of its own, with this checkout's python."""

import signal
import sys
from pathlib import Path
from typing import Final

from lab.nodes import SELECTOR
from lab.paths import HACK
from lab.processes import Command

_STOP_S: Final = 30.0
"""Seconds for the pods to end as pods do: agents give their clocks back."""


def ready_file(state: Path) -> Path:
    """Return the file that exists once the runner is watching."""
    return state / "podrunner.ready"


def pod_runner(*, state: Path, kubeconfig: Path, time_scale: float) -> Command:
    """Return the pod runner. It is not niced: its children are the data path."""
    return Command(
        "podrunner",
        [
            *(sys.executable, "-m", "lab.podrunner"),
            *("--kubeconfig", str(kubeconfig)),
            *("--state-dir", str(state)),
            *("--nodes-selector", SELECTOR),
            *("--time-scale", str(time_scale)),
        ],
        env={"PYTHONPATH": str(HACK), "PYTHONUNBUFFERED": "1"},
        stop_within_s=_STOP_S,
        death_signal=signal.SIGKILL,
    )
