"""How far runs are that go on in other processes: a file with a number for each, which they write and the first reads."""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dynamollm.simulator.replay import Progress

_NUMBER: Final = struct.Struct("<d")
_LOOK_S: Final = 0.25
"""Wall seconds between two looks: a bar that moves four times a second moves."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Writes the share of one run, from any process of this machine."""

    path: Path
    number: int
    asker: int
    """The process that wants the answer."""

    def __call__(self, share: float) -> None:
        """Write it; end this process where it is a worker of one that was killed.

        Workers outlive it otherwise, and would write the same states as the run that goes on in its place.
        """
        if self.asker not in (os.getpid(), os.getppid()):
            os._exit(1)
        with self.path.open("r+b") as file:
            file.seek(self.number * _NUMBER.size)
            file.write(_NUMBER.pack(share))


class Shares:
    """The share of each run that is done, 0 to 1."""

    def __init__(self, path: Path, *, count: int) -> None:
        self._path = path
        path.write_bytes(_NUMBER.pack(0.0) * count)

    def teller(self, number: int) -> Teller:
        """Return what writes the share of this run."""
        return Teller(self._path, number, os.getpid())

    def total(self) -> float:
        """Return how many runs' worth is done."""
        return float(sum(share for (share,) in _NUMBER.iter_unpack(self._path.read_bytes())))


@contextmanager
def shared(count: int, tell: Progress | None) -> Iterator[Shares]:
    """Give the shares of so many runs; ``tell`` hears their total now and then, from a thread of its own."""
    with TemporaryDirectory(prefix="dynamollm-") as folder:
        shares = Shares(Path(folder) / "shares", count=count)
        if tell is None:
            yield shares
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_S):
                tell(shares.total())

        thread = threading.Thread(target=look, name="progress of runs", daemon=True)
        thread.start()
        try:
            yield shares
        finally:
            over.set()
            thread.join()
