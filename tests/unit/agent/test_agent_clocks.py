from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamollm.adapters.nvml import ClockLimit, GpuError, GpuReading
from dynamollm.agent.clocks import ClockControl, unreached
from dynamollm.agent.journal import LockJournal
from dynamollm.core.errors import InvalidInputError

SUPPORTED = tuple(range(210, 1981, 15))


class Driver:
    """GPUs that remember their locks, and refuse what a test says; each lock must be in the journal when it is set."""

    def __init__(self, journal: LockJournal) -> None:
        self.journal = journal
        self.locks: dict[str, int] = {}
        self.refuses: dict[str, str] = {}
        self.calls: list[tuple[str, int]] = []

    def uuids(self) -> tuple[str, ...]:
        return ("GPU-0", "GPU-1", "GPU-2")

    def supported_clocks_mhz(self, uuid: str) -> tuple[int, ...]:
        del uuid
        return SUPPORTED

    def lock_clock(self, uuid: str, *, clock_mhz: int) -> None:
        assert self.journal.locks[uuid] == clock_mhz, "a lock was set before it was recorded"
        self._refuse(uuid)
        self.calls.append((uuid, clock_mhz))
        self.locks[uuid] = clock_mhz

    def reset_clock(self, uuid: str) -> None:
        assert uuid in self.journal.locks, "a lock was forgotten before it was gone"
        self._refuse(uuid)
        self.calls.append((uuid, 0))
        self.locks.pop(uuid, None)

    def _refuse(self, uuid: str) -> None:
        if uuid in self.refuses:
            raise GpuError(f"{uuid}: no", reason=self.refuses[uuid])


def reading(uuid: str, clock_mhz: int = 1980, *, energy_j: float = 1.0, limit: ClockLimit | None = None) -> GpuReading:
    limits = frozenset() if limit is None else frozenset({limit})
    return GpuReading(uuid=uuid, sm_clock_mhz=clock_mhz, power_w=400, energy_j=energy_j, mig=False, limits=limits)


@pytest.fixture
def journal(tmp_path: Path) -> LockJournal:
    return LockJournal(tmp_path)


@pytest.fixture
def driver(journal: LockJournal) -> Driver:
    return Driver(journal)


@pytest.fixture
def control(driver: Driver, journal: LockJournal) -> ClockControl:
    return ClockControl(gpus=driver, journal=journal)


def test_a_clock_is_set_once_changed_and_given_back(
    control: ClockControl, driver: Driver, journal: LockJournal
) -> None:
    at = {"GPU-0": reading("GPU-0")}
    assert control.apply({"GPU-0": 1005}, readings=at).locked == {"GPU-0": 1005}
    assert not control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0", 1005)}).locked
    assert control.apply({"GPU-0": 1200}, readings={"GPU-0": reading("GPU-0", 1005)}).locked == {"GPU-0": 1200}
    assert control.apply({}, readings=at).reset == ["GPU-0"]
    assert driver.calls == [("GPU-0", 1005), ("GPU-0", 1200), ("GPU-0", 0)]
    assert control.in_force_mhz == {}
    assert journal.locks == {}


@pytest.mark.parametrize(("wanted", "locked"), [(1000, 1005), (1005, 1005), (1, 210), (1979, 1980), (9999, 1980)])
def test_an_unsupported_clock_is_taken_up(control: ClockControl, driver: Driver, wanted: int, locked: int) -> None:
    control.apply({"GPU-0": wanted}, readings={"GPU-0": reading("GPU-0")})
    assert driver.locks == {"GPU-0": locked}


@pytest.mark.parametrize(
    ("seen", "lost"),
    [
        (reading("GPU-0", 1005), []),
        (reading("GPU-0", 900, limit=ClockLimit.POWER), []),
        (reading("GPU-0", 1980), ["GPU-0"]),  # somebody reset it
        (reading("GPU-0", 1980, limit=ClockLimit.IDLE), []),
        (reading("GPU-0", 345, energy_j=0.5, limit=ClockLimit.IDLE), ["GPU-0"]),  # the driver was loaded anew
    ],
)
def test_a_lost_lock_is_found_and_set_again(
    control: ClockControl, driver: Driver, seen: GpuReading, lost: list[str]
) -> None:
    control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    driver.calls.clear()
    outcome = control.apply({"GPU-0": 1005}, readings={"GPU-0": seen})
    assert outcome.lost == lost
    assert driver.calls == [(uuid, 1005) for uuid in lost]


def test_one_gpu_that_refuses_does_not_stop_the_others(control: ClockControl, driver: Driver) -> None:
    driver.refuses = {"GPU-0": "Unknown"}
    both = {uuid: reading(uuid) for uuid in ("GPU-0", "GPU-1")}
    outcome = control.apply(dict.fromkeys(both, 1005), readings=both)
    assert (outcome.locked, outcome.errors) == ({"GPU-1": 1005}, {"GPU-0": "Unknown"})
    assert control.in_force_mhz == {"GPU-1": 1005}
    driver.refuses = {}
    later = {"GPU-0": reading("GPU-0"), "GPU-1": reading("GPU-1", 1005)}
    assert control.apply(dict.fromkeys(both, 1005), readings=later).locked == {"GPU-0": 1005}


def test_what_cannot_be_given_back_stays_recorded_and_is_tried_again(
    control: ClockControl, driver: Driver, journal: LockJournal
) -> None:
    control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    driver.refuses = {"GPU-0": "GpuIsLost"}
    assert control.release_all().errors == {"GPU-0": "GpuIsLost"}
    assert journal.locks == {"GPU-0": 1005}
    assert control.in_force_mhz == {}
    driver.refuses = {}
    assert control.release_all().reset == ["GPU-0"]
    assert journal.locks == {}


def test_a_gpu_that_was_taken_out_is_forgotten(control: ClockControl, driver: Driver, journal: LockJournal) -> None:
    control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    driver.refuses = {"GPU-0": "NotFound"}
    control.apply({}, readings={})
    assert journal.locks == {}


def test_a_gpu_that_was_not_read_is_left_as_it_is(control: ClockControl, driver: Driver) -> None:
    control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    control.apply({"GPU-0": 1500, "GPU-1": 1500}, readings={})
    assert driver.locks == {"GPU-0": 1005}


def test_the_next_agent_takes_over(tmp_path: Path) -> None:
    LockJournal(tmp_path).write({"GPU-0": 1005, "GPU-1": 900})
    journal = LockJournal(tmp_path)
    driver = Driver(journal)
    driver.locks = {"GPU-0": 1005, "GPU-1": 900}
    control = ClockControl(gpus=driver, journal=journal)
    outcome = control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0", 1005)})
    # What is still wanted is set again, for it may be gone since; what is not goes.
    assert (outcome.locked, outcome.reset) == ({"GPU-0": 1005}, ["GPU-1"])
    assert driver.locks == journal.locks == {"GPU-0": 1005}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"locks": 5}', '{"locks": {"GPU-0": "fast"}}'])
def test_an_unreadable_record_frees_every_gpu(tmp_path: Path, text: str) -> None:
    (tmp_path / "locks.json").write_text(text)
    journal = LockJournal(tmp_path)
    driver = Driver(journal)
    control = ClockControl(gpus=driver, journal=journal)
    journal.write(dict.fromkeys(driver.uuids(), 0))
    assert sorted(control.apply({}, readings={}).reset) == list(driver.uuids())


def test_nothing_is_locked_that_cannot_be_recorded(
    control: ClockControl, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    assert driver.locks == {}
    monkeypatch.undo()
    control.apply({"GPU-0": 1005}, readings={"GPU-0": reading("GPU-0")})
    assert driver.locks == LockJournal(tmp_path).locks == {"GPU-0": 1005}


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="hostPath"):
        LockJournal(tmp_path / "file")


@settings(max_examples=50)  # every write is an fsync
@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["GPU-0", "GPU-1", "GPU-2"]), st.sampled_from(SUPPORTED)),
            st.sets(st.sampled_from(["GPU-0", "GPU-1", "GPU-2"])),
        ),
        max_size=8,
    )
)
def test_the_record_always_covers_the_locks(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    folder = tmp_path_factory.mktemp("journal")
    driver = Driver(LockJournal(folder))
    control = ClockControl(gpus=driver, journal=driver.journal)
    for wanted, broken in steps:
        driver.refuses = dict.fromkeys(broken, "Unknown")
        at = {uuid: reading(uuid, driver.locks.get(uuid, 1980)) for uuid in driver.uuids()}
        control.apply(wanted, readings=at)
        assert driver.locks.keys() <= LockJournal(folder).locks.keys()
        for uuid in set(driver.uuids()) - broken:
            assert driver.locks.get(uuid) == wanted.get(uuid)
    driver.refuses = {}
    control.release_all()
    assert driver.locks == LockJournal(folder).locks == {}


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (reading("GPU-0", 1200), None),
        (reading("GPU-0", 1185), None),
        (reading("GPU-0", 900, limit=ClockLimit.POWER), ClockLimit.POWER),
        (reading("GPU-0", 900, limit=ClockLimit.THERMAL), ClockLimit.THERMAL),
        (reading("GPU-0", 900), ClockLimit.OTHER),
        (reading("GPU-0", 345, limit=ClockLimit.IDLE), None),
    ],
)
def test_a_clock_that_is_not_reached_has_a_reason(seen: GpuReading, reason: ClockLimit | None) -> None:
    assert unreached({"GPU-0": 1200}, {"GPU-0": seen}) == ({} if reason is None else {"GPU-0": reason})
