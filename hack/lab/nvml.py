"""Stand-in GPUs of a node: builds ``hack/nvml`` and arranges its state files.

One state file is one node's GPUs. Real pynvml reaches them when a process has the built library's folder on
``LD_LIBRARY_PATH`` and the file's name in ``DYNAMOLLM_NVML_STATE``. The layout of the file is known to the C code
alone; everything here goes through functions that it exports. ``docs/nvml-standin.md`` describes the whole.

    .venv/bin/python -m lab.nvml create --file F --node gpu-node-00 --gpus 8 --time-scale 8
"""

import ctypes
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from dynamollm.core.errors import InvalidInputError
from lab.errors import LabError
from lab.paths import HACK, cache_dir

LIBRARY_NAME: Final = "libnvidia-ml.so.1"
MAX_GPUS: Final = 16

_SOURCES: Final = HACK / "nvml"
_COMPILE: Final = (
    *("-std=c11", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY_NAME}"),
)
_DESCRIPTION_BYTES: Final = 64 * 1024


class StandinError(LabError):
    """The stand-in cannot be built, or refused a request."""


class Fault(StrEnum):
    """What can be wrong with a GPU; the names are those of ``hack/nvml/state.c``."""

    POWER_CAP = "power-cap"
    """Setters succeed, but the SM clock stays at or below ``mhz``; event reason SwPowerCap."""
    THERMAL = "thermal"
    """The same for heat; event reason SwThermalSlowdown."""
    UNKNOWN_ERROR = "unknown-error"
    """Every call about the GPU answers NVML_ERROR_UNKNOWN."""
    LOST = "lost"
    """Every call about the GPU, its handle included, answers NVML_ERROR_GPU_IS_LOST."""
    NO_PERMISSION = "no-permission"
    """Setters answer NVML_ERROR_NO_PERMISSION, as without CAP_SYS_ADMIN on real hardware."""
    MIG = "mig"
    """MIG mode is enabled."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU as the state file has it at the moment of reading."""

    uuid: str
    index: int
    power_w: float
    util_percent: int
    context_pid: int | None
    """The process that has a CUDA context; None: none."""
    sm_clock_mhz: int
    lock_mhz: tuple[int, int] | None
    """Locked clocks (lowest, highest); None: none."""
    lock_writes: int
    """Successful set and reset calls since the file was made."""
    energy_j: float
    """Since the driver was loaded, over simulated seconds."""
    faults: frozenset[Fault]


@dataclass(frozen=True, slots=True)
class NodeState:
    """All GPUs of a node, in the order of their UUIDs."""

    time_scale: float
    driver_loads: int
    gpus: tuple[GpuState, ...]

    def gpu(self, uuid: str) -> GpuState:
        """Return the GPU with this UUID."""
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise InvalidInputError(f"the node has no GPU {uuid}: it has {', '.join(gpu.uuid for gpu in self.gpus)}")


def gpu_uuids(*, node: str, gpus: int) -> list[str]:
    """Return the UUIDs that the GPUs of a node have, in slot order."""
    return [f"{_uuid_prefix(node)}{slot:x}" for slot in range(gpus)]


def ensure_library() -> Path:
    """Return the folder to put on ``LD_LIBRARY_PATH``; compiles the stand-in unless these sources were compiled before.

    Safe to call from many processes at once: each compiles beside the cache and renames into it. Where there is no
    compiler, as in a test image, $DYNAMOLLM_NVML_LIBRARY names the folder of one that was compiled elsewhere.
    """
    if own := os.environ.get("DYNAMOLLM_NVML_LIBRARY"):
        return Path(own)
    sources = sorted(_SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(" ".join((*_COMPILE, platform.machine(), *platform.libc_ver())).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    folder = cache_dir() / f"nvml-{digest.hexdigest()[:16]}"
    if not (folder / LIBRARY_NAME).exists():
        _compile(sources, folder)
    return folder


def create(*, state_file: Path, node: str, gpus: int, time_scale: float = 1.0) -> list[str]:
    """Make or replace a node's state file with idle GPUs, and return their UUIDs."""
    if not 0 <= gpus <= MAX_GPUS:
        raise InvalidInputError(f"{gpus} GPUs on a node: the stand-in has room for 0 to {MAX_GPUS}")
    if not time_scale > 0:
        raise InvalidInputError(f"a time scale of {time_scale}: give a number above 0 (1 is real time)")
    state_file.parent.mkdir(parents=True, exist_ok=True)
    _check(
        _library().dynamollmStandinCreate(
            os.fsencode(state_file), _uuid_prefix(node).encode(), ctypes.c_uint(gpus), ctypes.c_double(time_scale)
        ),
        f"make the GPUs of {node} in {state_file}",
    )
    return gpu_uuids(node=node, gpus=gpus)


def release(*, state_file: Path, uuids: Iterable[str]) -> None:
    """Set GPUs to what the end of their processes leaves: no context, idle watts. Locked clocks stay."""
    for uuid in uuids:
        result = _library().dynamollmStandinRelease(os.fsencode(state_file), uuid.encode())
        _check(result, f"release GPU {uuid} in {state_file}")


def set_fault(*, state_file: Path, uuid: str, fault: Fault, on: bool = True, mhz: int = 0) -> None:
    """Switch a fault on or off; ``mhz`` is the clock that POWER_CAP and THERMAL hold the GPU at."""
    if on and fault in (Fault.POWER_CAP, Fault.THERMAL) and mhz <= 0:
        raise InvalidInputError(f"fault {fault} needs the clock that it holds the GPU at, in MHz, above 0")
    result = _library().dynamollmStandinSetFault(
        os.fsencode(state_file), uuid.encode(), fault.encode(), int(on), ctypes.c_uint(mhz)
    )
    _check(result, f"set fault {fault} of GPU {uuid} in {state_file}")


def reload_driver(*, state_file: Path) -> None:
    """Lose all locks and energy counters; clients get NVML_ERROR_UNINITIALIZED until they initialise again."""
    _check(_library().dynamollmStandinReloadDriver(os.fsencode(state_file)), f"reload the driver of {state_file}")


def reenumerate(*, state_file: Path) -> None:
    """Rotate the indices: the GPU that was i is i + 1 now, and the last one is 0."""
    _check(_library().dynamollmStandinReenumerate(os.fsencode(state_file)), f"re-enumerate the GPUs of {state_file}")


def read(*, state_file: Path) -> NodeState:
    """Return the present state of a node's GPUs."""
    return parsed(json.loads(described(state_file)))


def described(state_file: Path) -> str:
    """Return the present state of a node's GPUs as JSON."""
    buffer = ctypes.create_string_buffer(_DESCRIPTION_BYTES)
    result = _library().dynamollmStandinDescribe(os.fsencode(state_file), buffer, ctypes.c_size_t(len(buffer)))
    _check(result, f"read {state_file}")
    return buffer.value.decode()


def parsed(node: dict[str, Any]) -> NodeState:
    """Return the state of a node's GPUs from what ``show --json`` prints."""
    return NodeState(
        time_scale=node["time_scale"],
        driver_loads=node["driver_loads"],
        gpus=tuple(
            GpuState(
                uuid=gpu["uuid"],
                index=gpu["index"],
                power_w=gpu["power_mw"] / 1000,
                util_percent=gpu["util_percent"],
                context_pid=gpu["context_pid"] or None,
                sm_clock_mhz=gpu["sm_clock_mhz"],
                lock_mhz=(gpu["lock_min_mhz"], gpu["lock_max_mhz"]) if gpu["lock_max_mhz"] else None,
                lock_writes=gpu["lock_writes"],
                energy_j=gpu["energy_mj"] / 1000,
                faults=frozenset(Fault(name) for name in gpu["faults"]),
            )
            for gpu in node["gpus"]
        ),
    )


# ---------------------------------------------------------------- inside
def _uuid_prefix(node: str) -> str:
    return f"GPU-{hashlib.sha1(node.encode(), usedforsecurity=False).hexdigest()[:8]}-0000-0000-0000-00000000000"


def _compile(sources: Sequence[Path], folder: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise StandinError("no C compiler (cc, gcc or $CC) found: install one, it builds the NVML stand-in")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".nvml-", dir=folder.parent) as scratch:
        built = Path(scratch) / LIBRARY_NAME
        units = [str(source) for source in sources if source.suffix == ".c"]
        done = subprocess.run(
            [compiler, *_COMPILE, "-o", str(built), *units], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StandinError(f"{compiler} could not build the NVML stand-in from {_SOURCES}:\n{done.stderr}")
        folder.mkdir(exist_ok=True)
        built.replace(folder / LIBRARY_NAME)


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(ensure_library() / LIBRARY_NAME))


def _check(result: int, attempt: str) -> None:
    if result == 0:
        return
    describe = _library().nvmlErrorString
    describe.restype = ctypes.c_char_p
    raise StandinError(f"cannot {attempt}: {describe(result).decode()} (NVML {result})")


# ---------------------------------------------------------------- command line
@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Arrange the stand-in GPUs of a node."""


_FILE: Final = click.option("--file", "state_file", type=click.Path(path_type=Path), required=True, help="State file.")


@main.command("create")
@_FILE
@click.option("--node", required=True, help="Name of the node; the UUIDs follow from it.")
@click.option("--gpus", default=8, show_default=True)
@click.option("--time-scale", default=1.0, show_default=True, help="Simulated seconds per second.")
def create_command(state_file: Path, node: str, gpus: int, time_scale: float) -> None:
    """Make or replace a node's state file, and print the UUIDs."""
    click.echo("\n".join(create(state_file=state_file, node=node, gpus=gpus, time_scale=time_scale)))


@main.command("show")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show_command(state_file: Path, *, as_json: bool) -> None:
    """Print the GPUs, one a line."""
    if as_json:
        click.echo(described(state_file))
        return
    for gpu in read(state_file=state_file).gpus:
        lock = "unlocked" if gpu.lock_mhz is None else f"locked {gpu.lock_mhz[0]}-{gpu.lock_mhz[1]} MHz"
        click.echo(
            f"{gpu.index:2d} {gpu.uuid} {gpu.sm_clock_mhz:5d} MHz {gpu.power_w:7.1f} W {gpu.energy_j:14.1f} J "
            f"{gpu.util_percent:3d} % {lock} {','.join(sorted(gpu.faults))}".rstrip()
        )


@main.command("fault")
@_FILE
@click.option("--gpu", "uuid", required=True, help="UUID.")
@click.option("--off", is_flag=True, help="Switch it off.")
@click.option("--mhz", default=0, help="For power-cap and thermal: the clock that the GPU is held at.")
@click.argument("fault", type=click.Choice([str(fault) for fault in Fault]))
def fault_command(state_file: Path, uuid: str, fault: str, mhz: int, *, off: bool) -> None:
    """Switch a fault of a GPU on or off."""
    set_fault(state_file=state_file, uuid=uuid, fault=Fault(fault), on=not off, mhz=mhz)


@main.command("release")
@_FILE
@click.argument("uuids", nargs=-1, required=True)
def release_command(state_file: Path, uuids: tuple[str, ...]) -> None:
    """Set GPUs to idle, as the end of their processes does."""
    release(state_file=state_file, uuids=uuids)


@main.command("reload-driver")
@_FILE
def reload_driver_command(state_file: Path) -> None:
    """Lose all locks and energy counters."""
    reload_driver(state_file=state_file)


@main.command("reenumerate")
@_FILE
def reenumerate_command(state_file: Path) -> None:
    """Rotate the indices of the GPUs."""
    reenumerate(state_file=state_file)


if __name__ == "__main__":
    main()
