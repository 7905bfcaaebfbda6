"""The GPUs that a simulated engine holds: their SM clock sets its pace, its work sets their draw."""

import logging
from collections.abc import Sequence
from typing import Protocol

from dynamollm.adapters.nvml import GpuError, Gpus, SimulatedGpuLoad

_LOG = logging.getLogger(__name__)


class Accelerators(Protocol):
    """What an engine runs on."""

    def clock_mhz(self) -> int:
        """Return the SM clock of this moment: the lowest, since tensor parallelism waits for the slowest GPU."""

    def publish(self, *, power_w: float, util_percent: float) -> None:
        """Tell what each GPU draws from now on, W, and how busy it is, 0 to 100."""

    def close(self) -> None:
        """Let the GPUs go: they draw what unused ones do."""


class NoGpus:
    """Stands in where there is no NVML: an engine at a fixed clock, whose draw nobody meters.

    Args:
        clock_mhz: the clock.
    """

    def __init__(self, *, clock_mhz: int) -> None:
        self._clock_mhz = clock_mhz

    def clock_mhz(self) -> int:
        """Return the fixed clock."""
        return self._clock_mhz

    def publish(self, *, power_w: float, util_percent: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class NvmlGpus:
    """GPUs behind NVML: the stand-in library meters what is published; a real one meters by itself.

    Args:
        gpus: NVML.
        load: the stand-in's input; None with a real library.
        uuids: the GPUs of this engine.
        idle_w: draw of a GPU that holds the model and does nothing.
        max_clock_mhz: assumed until a first read succeeds.
    """

    def __init__(
        self, gpus: Gpus, load: SimulatedGpuLoad | None, *, uuids: Sequence[str], idle_w: float, max_clock_mhz: int
    ) -> None:
        self._gpus = gpus
        self._load = load
        self._uuids = tuple(uuids)
        self._last_clock_mhz = max_clock_mhz
        self._failing = False
        self._published: tuple[float, float] | None = None
        # Without a context the clock read is the idle one.
        self.publish(power_w=idle_w, util_percent=0.0)

    def clock_mhz(self) -> int:
        """Return the lowest SM clock; the last known one where NVML does not answer."""
        try:
            self._last_clock_mhz = min(self._gpus.sm_clock_mhz(uuid) for uuid in self._uuids)
        except GpuError as error:
            self._note(error)
        else:
            self._failing = False
        return self._last_clock_mhz

    def publish(self, *, power_w: float, util_percent: float) -> None:
        """Tell the stand-in, where it has changed."""
        if self._load is None or (power_w, util_percent) == self._published:
            return
        try:
            for uuid in self._uuids:
                self._load.publish(uuid, power_w=power_w, util_percent=util_percent, context=True)
        except GpuError as error:
            self._note(error)
        else:
            self._published = (power_w, util_percent)

    def close(self) -> None:
        """Take the context off the GPUs."""
        try:
            if self._load is not None:
                for uuid in self._uuids:
                    self._load.publish(uuid, power_w=0.0, util_percent=0.0, context=False)
            self._gpus.close()
        except GpuError as error:
            self._note(error)

    def _note(self, error: GpuError) -> None:
        if not self._failing:
            _LOG.warning("the last known clock of %d MHz stands: %s", self._last_clock_mhz, error)
        self._failing = True


def open_accelerators(*, tensor_parallel: int, idle_w: float, max_clock_mhz: int) -> Accelerators:
    """Return the GPUs that this process sees; without NVML, none and the highest clock, said once in the log.

    Args:
        tensor_parallel: how many GPUs the engine uses.
        idle_w: draw of a GPU that holds the model and does nothing.
        max_clock_mhz: the clock without NVML.
    """
    try:
        gpus = Gpus()
        uuids = gpus.uuids()
    except GpuError as error:
        _LOG.warning("no GPUs to read a clock from, running at %d MHz: %s", max_clock_mhz, error)
        return NoGpus(clock_mhz=max_clock_mhz)
    if len(uuids) < tensor_parallel:
        _LOG.warning("%d GPUs are visible and tensor parallelism is %d: using those", len(uuids), tensor_parallel)
    if not uuids:
        return NoGpus(clock_mhz=max_clock_mhz)
    return NvmlGpus(
        gpus, SimulatedGpuLoad.open(), uuids=uuids[:tensor_parallel], idle_w=idle_w, max_clock_mhz=max_clock_mhz
    )
