"""The host's record of the locks that agents hold: written before a lock is set, so that none outlives its owner unseen.

A lock on a GPU's clock outlives the process that set it, and the GPU may go to somebody else. Whatever this file
names, the next agent on the node sets anew or gives back.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dynamollm.core.errors import InvalidInputError

_LOG: Final = logging.getLogger(__name__)
_VERSION: Final = 1


class LockJournal:
    """``locks.json`` in the state directory of this node: GPU UUID → locked clock in MHz.

    Raises:
        InvalidInputError: the directory cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "locks.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            locks = self._read()
            self.unreadable = locks is None
            """A former agent's record could not be read: any GPU of this node may be locked by it."""
            self.write(locks or {})
        except OSError as error:
            raise InvalidInputError(
                f"the state directory {directory} cannot be used: {error.strerror}; mount a writable hostPath there"
            ) from error

        self.locks: Mapping[str, int] = locks or {}
        """What the file says."""

    def write(self, locks: Mapping[str, int]) -> None:
        """Replace the record, durably; a reader and a crash see the old or the new one whole.

        Raises:
            OSError: the record could not be written; the old one stands.
        """
        text = json.dumps({"version": _VERSION, "locks": dict(locks)}, sort_keys=True)
        temporary = self._file.with_suffix(".json.new")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._file)
        self.locks = dict(locks)

    def _read(self) -> dict[str, int] | None:
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            return {str(uuid): int(clock) for uuid, clock in json.loads(text)["locks"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning(
                "%s is unreadable (%r): all GPUs of this node get their default clocks first", self._file, error
            )
            return None
