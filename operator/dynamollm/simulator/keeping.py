"""Long runs are kept half-way, so that one that is killed goes on where it was instead of from the beginning.

What is kept is the replay itself, pickled: it is read back by the same code only, which a digest of the sources tells.
"""

import hashlib
import pickle
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

_EVERY_S: Final = 30.0
"""Wall seconds between two states: so much of the work is lost at most. Writing one takes some 20 ms."""

_PACKAGE: Final = Path(__file__).parents[1]


@cache
def _code() -> bytes:
    """Return a digest of the package's sources."""
    digest = hashlib.sha256()
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


@dataclass
class Keeper:
    """The state of one run in a file.

    The file is this user's own, from a folder that it named: whoever may write there may run code as that user.
    """

    path: Path
    every_s: float = _EVERY_S
    _last_s: float = field(default_factory=time.monotonic)

    def load(self) -> Any | None:
        """Return what was kept; None: nothing, or by another version of the code."""
        try:
            with self.path.open("rb") as file:
                return pickle.load(file) if file.read(len(_code())) == _code() else None  # noqa: S301 - see the class
        except FileNotFoundError:
            return None

    def offer(self, state: Any) -> None:
        """Keep this state, if the latest one is old enough."""
        if time.monotonic() - self._last_s < self.every_s:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        # Whole or not at all.
        part.write_bytes(_code() + pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL))
        part.replace(self.path)
        self._last_s = time.monotonic()

    def forget(self) -> None:
        """Remove what was kept: the run has ended."""
        self.path.unlink(missing_ok=True)
