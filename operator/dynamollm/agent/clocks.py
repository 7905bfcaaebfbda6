"""The locks on GPU clocks: every one is set, checked, set again and given back here, and nowhere else.

A lock is in the journal before it is set and until it is surely gone. What NVML refuses for one GPU is noted and
tried again in the next cycle; the other GPUs go on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from dynamollm.adapters.nvml import ClockLimit, GpuError, GpuReading
from dynamollm.agent.journal import LockJournal

_TOLERANCE_MHZ: Final = 15
"""One clock step of the GPU: a reading this near to the lock is the lock."""


class ClockDriver(Protocol):
    """What sets clocks: ``adapters.nvml.Gpus``."""

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs of all GPUs."""

    def supported_clocks_mhz(self, uuid: str) -> tuple[int, ...]:
        """Return the clocks a GPU can be locked to, ascending."""

    def lock_clock(self, uuid: str, *, clock_mhz: int) -> None:
        """Lock a GPU's clock."""

    def reset_clock(self, uuid: str) -> None:
        """Give a GPU its default clocks."""


@dataclass(slots=True)
class Outcome:
    """What one application of wanted clocks did."""

    locked: dict[str, int] = field(default_factory=dict)
    """Locks set or changed: UUID → MHz."""
    reset: list[str] = field(default_factory=list)
    """GPUs that got their default clocks back."""
    lost: list[str] = field(default_factory=list)
    """Locks that were found gone (the driver was loaded anew, or somebody else reset them)."""
    errors: dict[str, str] = field(default_factory=dict)
    """What was refused: UUID → reason."""


class ClockControl:
    """Owns the locks on one node's GPUs.

    A control that starts after a crash takes over the locks of its predecessor from the journal.
    """

    def __init__(self, *, gpus: ClockDriver, journal: LockJournal) -> None:
        self._gpus = gpus
        self._journal = journal
        # A record that cannot be read may have named any GPU; 0 MHz is no clock that could be wanted.
        self._locks = dict.fromkeys(gpus.uuids(), 0) if journal.unreadable else dict(journal.locks)
        self._in_force: set[str] = set()
        self._energy_j: dict[str, float] = {}

    @property
    def in_force_mhz(self) -> dict[str, int]:
        """Locks that this process has set and that hold as far as it can tell: UUID → MHz."""
        return {uuid: self._locks[uuid] for uuid in self._in_force}

    @property
    def recorded(self) -> Collection[str]:
        """GPUs that may be locked by us."""
        return self._locks.keys()

    def apply(self, wanted: Mapping[str, int], *, readings: Mapping[str, GpuReading]) -> Outcome:
        """Make the locks what is wanted.

        Args:
            wanted: UUID → MHz; every other lock of ours is given back. A clock that the GPU does not support is taken
                up to the next one that it does.
            readings: taken since the last call; a GPU without one is left as it is for now.

        Raises:
            OSError: the journal could not be written; nothing new was locked.
        """
        outcome = Outcome()
        self._find_lost(readings, outcome)
        for uuid in [uuid for uuid in self._locks if uuid not in wanted]:
            self._release(uuid, outcome)
        self._lock({uuid: mhz for uuid, mhz in wanted.items() if uuid in readings}, outcome)
        if self._locks != self._journal.locks:
            self._journal.write(self._locks)
        return outcome

    def release_all(self) -> Outcome:
        """Give every lock back; what NVML refuses stays in the journal for the next agent."""
        return self.apply({}, readings={})

    def _find_lost(self, readings: Mapping[str, GpuReading], outcome: Outcome) -> None:
        for uuid, reading in readings.items():
            reloaded = reading.energy_j < self._energy_j.get(uuid, 0.0)
            self._energy_j[uuid] = reading.energy_j
            if uuid not in self._in_force:
                continue
            # Below the lock there are good reasons (idle, power, heat); above it there is none.
            above = ClockLimit.IDLE not in reading.limits and reading.sm_clock_mhz > self._locks[uuid] + _TOLERANCE_MHZ
            if reloaded or above:
                self._in_force.discard(uuid)
                outcome.lost.append(uuid)

    def _release(self, uuid: str, outcome: Outcome) -> None:
        self._in_force.discard(uuid)
        try:
            self._gpus.reset_clock(uuid)
        except GpuError as error:
            outcome.errors[uuid] = error.reason
            # A GPU that was taken out lost its lock with its power; anything else is tried again.
            if error.reason != "NotFound":
                return
        del self._locks[uuid]
        outcome.reset.append(uuid)

    def _lock(self, wanted: Mapping[str, int], outcome: Outcome) -> None:
        changes: dict[str, int] = {}
        for uuid, mhz in wanted.items():
            try:
                clock_mhz = self._supported(uuid, mhz)
            except GpuError as error:
                outcome.errors[uuid] = error.reason
                continue
            if uuid not in self._in_force or self._locks[uuid] != clock_mhz:
                changes[uuid] = clock_mhz
        if not changes:
            return
        self._journal.write(self._locks | changes)
        self._locks |= changes
        for uuid, clock_mhz in changes.items():
            try:
                self._gpus.lock_clock(uuid, clock_mhz=clock_mhz)
            except GpuError as error:
                self._in_force.discard(uuid)
                outcome.errors[uuid] = error.reason
            else:
                self._in_force.add(uuid)
                outcome.locked[uuid] = clock_mhz

    def _supported(self, uuid: str, mhz: int) -> int:
        supported = self._gpus.supported_clocks_mhz(uuid)
        # Up, not to the nearest: the SLO was computed for the clock that is wanted.
        return next((clock for clock in supported if clock >= mhz), supported[-1])


def unreached(locks: Mapping[str, int], readings: Mapping[str, GpuReading]) -> dict[str, ClockLimit]:
    """Return the locked GPUs that run below their lock although they work, and why: UUID → reason."""
    found = {}
    for uuid, mhz in locks.items():
        reading = readings.get(uuid)
        if reading is None or ClockLimit.IDLE in reading.limits or reading.sm_clock_mhz >= mhz - _TOLERANCE_MHZ:
            continue
        found[uuid] = min(reading.limits, default=ClockLimit.OTHER)
    return found
