"""GPUs of this machine through NVIDIA's NVML (real ``pynvml``), by UUID.

A UUID is the only name of a GPU that survives: indices re-enumerate, and a container counts its own from 0. After a
reload of the driver NVML wants a new initialisation and new handles; calls here do that once and go on.
All calls block, for up to tens of milliseconds on real hardware. One thread at a time.

:class:`SimulatedGpuLoad` is the other side of the stand-in library (``docs/nvml-standin.md``): what a simulated engine
tells its simulated GPUs. The real library has no such function.
"""

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import pynvml

from dynamollm.core.errors import DynamoLLMError

_LIBRARY: Final = "libnvidia-ml.so.1"

_T = TypeVar("_T")


class GpuError(DynamoLLMError):
    """NVML refused a call.

    Attributes:
        reason: stable and short, for metrics: pynvml's name of the error, such as ``GpuIsLost`` or ``NoPermission``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ClockLimit(StrEnum):
    """Why the SM clock may be lower than what was asked for (NVML's clocks event reasons, as far as they matter)."""

    IDLE = "Idle"
    POWER = "Power"
    THERMAL = "Thermal"
    OTHER = "Other"


_LIMITS: Final = (
    (pynvml.nvmlClocksEventReasonGpuIdle, ClockLimit.IDLE),
    (pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, ClockLimit.POWER),
    (
        pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        ClockLimit.THERMAL,
    ),
    (pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksEventReasonSyncBoost, ClockLimit.OTHER),
)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at one GPU."""

    uuid: str
    sm_clock_mhz: int
    power_w: float
    energy_j: float
    """Since the driver was loaded: a smaller value than before means that it was loaded again."""
    mig: bool
    """MIG mode is on: a lock would hit every instance on the GPU."""
    limits: frozenset[ClockLimit]


class Gpus:
    """The GPUs that this process may see.

    Every method raises :class:`GpuError` where NVML answers anything but success.
    """

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._supported: dict[str, tuple[int, ...]] = {}
        self._initialise()

    def close(self) -> None:
        """Let NVML go. Locked clocks stay locked."""
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            raise _translated(error, "shut NVML down") from error

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs of all visible GPUs that answer, in NVML's order. A lost GPU is left out."""
        return self._call("list the GPUs", self._list)

    def read(self, uuid: str) -> GpuReading:
        """Return clock, power, energy, MIG mode and clock limits of a GPU."""
        return self._call(f"read GPU {uuid}", lambda: self._read(uuid))

    def sm_clock_mhz(self, uuid: str) -> int:
        """Return the SM clock of this moment; some microseconds on the stand-in."""
        return int(
            self._call(
                f"read the SM clock of GPU {uuid}",
                lambda: pynvml.nvmlDeviceGetClockInfo(self._handle(uuid), pynvml.NVML_CLOCK_SM),
            )
        )

    def supported_clocks_mhz(self, uuid: str) -> tuple[int, ...]:
        """Return the SM clocks that a GPU can be locked to, ascending."""
        if uuid not in self._supported:
            self._supported[uuid] = self._call(
                f"list the supported clocks of GPU {uuid}", lambda: self._supported_clocks(uuid)
            )
        return self._supported[uuid]

    def lock_clock(self, uuid: str, *, clock_mhz: int) -> None:
        """Lock the SM clock of a GPU. Needs root (CAP_SYS_ADMIN); outlives the process, not the driver."""
        self._call(
            f"lock GPU {uuid} to {clock_mhz} MHz",
            lambda: pynvml.nvmlDeviceSetGpuLockedClocks(self._handle(uuid), clock_mhz, clock_mhz),
        )

    def reset_clock(self, uuid: str) -> None:
        """Give a GPU its default clocks back. Needs root (CAP_SYS_ADMIN)."""
        self._call(f"reset the clocks of GPU {uuid}", lambda: pynvml.nvmlDeviceResetGpuLockedClocks(self._handle(uuid)))

    # ------------------------------------------------------------ inside
    def _initialise(self) -> None:
        self._handles.clear()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise _translated(error, "initialise NVML") from error

    def _call(self, attempt: str, function: Callable[[], _T]) -> _T:
        try:
            try:
                return function()
            except pynvml.NVMLError_Uninitialized:
                # The driver was loaded anew under our feet: all handles are of the past.
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
                self._initialise()
                return function()
        except pynvml.NVMLError as error:
            # A GPU that was lost and reset comes back under a new handle.
            self._handles.clear()
            raise _translated(error, attempt) from error

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return self._handles[uuid]

    def _list(self) -> tuple[str, ...]:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                found.append(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))))
            except pynvml.NVMLError_Uninitialized:
                raise
            except pynvml.NVMLError:
                continue
        return tuple(found)

    def _read(self, uuid: str) -> GpuReading:
        handle = self._handle(uuid)
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return GpuReading(
            uuid=uuid,
            sm_clock_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            power_w=pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            energy_j=pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
            mig=_mig_enabled(handle),
            limits=frozenset(limit for bits, limit in _LIMITS if reasons & bits),
        )

    def _supported_clocks(self, uuid: str) -> tuple[int, ...]:
        handle = self._handle(uuid)
        clocks: set[int] = set()
        for memory_mhz in pynvml.nvmlDeviceGetSupportedMemoryClocks(handle):
            clocks.update(pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, memory_mhz))
        return tuple(sorted(clocks))


class SimulatedGpuLoad:
    """Tells the stand-in library what the work on a simulated GPU draws."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._set_load = library.dynamollmStandinSetLoad
        self._set_load.argtypes = (ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int)
        self._set_load.restype = ctypes.c_int

    @classmethod
    def open(cls) -> "SimulatedGpuLoad | None":
        """Return the stand-in's input, or None where the library is absent or is NVIDIA's own."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            return None
        return cls(library) if hasattr(library, "dynamollmStandinSetLoad") else None

    def publish(self, uuid: str, *, power_w: float, util_percent: float, context: bool) -> None:
        """Set what a GPU draws from now on; the energy until now is settled at the power before.

        Args:
            uuid: of a visible GPU.
            power_w: 0 stands for what it draws at rest, with or without a context.
            util_percent: 0 to 100.
            context: whether this process has the GPU in use; without, its SM clock falls to idle.

        Raises:
            GpuError: the GPU is unknown to the stand-in, or there is no state to attach to.
        """
        result = self._set_load(uuid.encode(), round(power_w * 1000), round(util_percent), int(context))
        if result != pynvml.NVML_SUCCESS:
            raise _translated(pynvml.NVMLError(result), f"publish the load of GPU {uuid}")


def _mig_enabled(handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


_REMEDIES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        f"{_LIBRARY} is not there; run on a node with NVIDIA's driver and container toolkit, with "
        "NVIDIA_VISIBLE_DEVICES=all and NVIDIA_DRIVER_CAPABILITIES=utility"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "locking clocks needs root with CAP_SYS_ADMIN in the container",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load NVIDIA's driver on this node",
}


def _translated(error: Any, attempt: str) -> GpuError:
    name = type(error).__name__.removeprefix("NVMLError_")
    remedy = _REMEDIES.get(error.value)
    message = f"cannot {attempt}: {error}" + (f"; {remedy}" if remedy else "")
    return GpuError(message, reason=name if name != "NVMLError" else f"Code{error.value}")
