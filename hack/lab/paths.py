"""Where the lab keeps things: what is built in the cache, what runs in the state folder, both outside the tree.

<state root>/<cluster>/cluster.json      what the supervisor says of itself and its processes
<state root>/<cluster>/kubeconfig        the administrator's
<state root>/<cluster>/logs/<process>.log
<state root>/<cluster>/nodes/<node>/     one node: nvml.state (its GPUs), root/ (what hostPath volumes show)
"""

import os
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
HACK: Final = REPOSITORY / "hack"


def cache_dir() -> Path:
    """Return the folder for downloads and builds; it may not exist yet."""
    if own := os.environ.get("DYNAMOLLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamollm"


def state_root() -> Path:
    """Return the folder that holds the state of this user's clusters, one folder each.

    Short, since sockets below it must stay under 108 bytes; and not in $XDG_RUNTIME_DIR, which is removed when the user
    logs out, while a cluster goes on.
    """
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"dynamollm-{os.getuid()}"  # noqa: S108 - per user, mode 0700


def state_dir(name: str) -> Path:
    """Return the state folder of one cluster."""
    return state_root() / name


def node_dir(state: Path, node: str) -> Path:
    """Return the folder of one node of a cluster."""
    return state / "nodes" / node


def nvml_state(state: Path, node: str) -> Path:
    """Return the file that holds the simulated GPUs of a node."""
    return node_dir(state, node) / "nvml.state"


def log_file(state: Path, process: str) -> Path:
    """Return the log of one of the cluster's own processes."""
    return state / "logs" / f"{process}.log"
