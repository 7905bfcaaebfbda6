"""Requests from a CSV: the Azure LLM inference traces, or a user's own with the same three columns.

A file is read as it is needed and never kept whole, unless it is small: so a week of requests needs no more memory than
an hour.
"""

import csv
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator.traces import MAX_INPUT_TOKENS
from dynamollm.simulator.workload import REQUEST, Chunk, RecordedTrace, Trace

COLUMNS: Final = (
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("arrival_s", "input_tokens", "output_tokens"),
)
"""Names of the columns: Azure's (an ISO time), and those of a user's file (seconds)."""

_ROWS: Final = 100_000
"""Of a chunk."""

_KEPT_ROWS: Final = 2_000_000
"""Up to so many rows (32 MB) are kept in memory, since each policy reads them again."""

Row = tuple[float, int, int]


@dataclass(frozen=True, slots=True)
class CsvTrace:
    """A file of requests, read anew each time."""

    path: Path
    first_s: float
    duration_s: float

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.name

    def chunks(self, *, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Chunk]:
        """Yield the requests with start ≤ arrival < end in order."""
        end_s = self.duration_s if end_s is None else end_s
        kept = np.zeros(0, REQUEST)
        for requests in _blocks(self.path, self.first_s):
            if kept.size:
                yield Chunk(float(requests["arrival_s"][0]), kept)
            first, last = np.searchsorted(requests["arrival_s"], (start_s, end_s))
            kept = requests[first:last]
            if last < requests.size:
                break
        yield Chunk(end_s, kept)


def read_csv(path: Path) -> Trace:
    """Return the trace in a CSV.

    Azure's rows may be out of order by little: those of a small file are sorted, a large one must be in order.

    Raises:
        InvalidInputError: the file is not such a trace; names the file and the line.
    """
    rows = _rows(path)
    kept = list(itertools.islice(rows, _KEPT_ROWS))
    if not kept:
        raise InvalidInputError(f"{path}: no requests in it: give at least one row")
    more = next(rows, None)
    if more is None:
        requests = np.array(sorted(kept), REQUEST)
        first_s = float(requests["arrival_s"][0])
        requests["arrival_s"] -= first_s
        # The last request is part of the trace, and a rate needs some time.
        return RecordedTrace(path.name, max(1.0, math.floor(float(requests["arrival_s"][-1])) + 1.0), requests)
    (last_s, _, _) = deque(itertools.chain([more], rows), maxlen=1).pop()
    return CsvTrace(path, kept[0][0], math.floor(last_s - kept[0][0]) + 1.0)


def _blocks(path: Path, first_s: float) -> Iterator[NDArray[Any]]:
    rows = _rows(path)
    last_s = -math.inf
    line = 0
    while block := list(itertools.islice(rows, _ROWS)):
        requests = np.array(block, REQUEST)
        times = requests["arrival_s"]
        backwards = np.nonzero(np.diff(times, prepend=last_s) < 0)[0]
        if backwards.size:
            raise InvalidInputError(
                f"{path}: request {line + int(backwards[0]) + 1} comes before the one above it: sort the file by time"
            )
        last_s, line = float(times[-1]), line + times.size
        times -= first_s
        yield requests


def _rows(path: Path) -> Iterator[Row]:
    """Yield (time in s, input, output tokens) of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            columns = next((names for names in COLUMNS if set(names) <= set(header)), None)
            if columns is None:
                wanted = " or ".join(", ".join(names) for names in COLUMNS)
                raise InvalidInputError(
                    f"{path}:1: the columns are {', '.join(header) or 'none'}: a trace has {wanted}"
                )
            places = tuple(header.index(name) for name in columns)
            for row in reader:
                yield _row(path, reader.line_num, row, places)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path}: cannot be read as a trace ({error}): give a CSV of requests") from None


def _row(path: Path, line: int, row: list[str], places: tuple[int, ...]) -> Row:
    try:
        when, inputs, outputs = (row[place] for place in places)
        time_s, input_tokens, output_tokens = _time_s(when), int(inputs), int(outputs)
    except (ValueError, IndexError):
        raise InvalidInputError(f"{path}:{line}: {row} is no request: give a time and two token counts") from None
    if input_tokens < 1 or output_tokens < 1:
        raise InvalidInputError(f"{path}:{line}: {input_tokens} and {output_tokens} tokens: both must be 1 or more")
    return time_s, min(input_tokens, MAX_INPUT_TOKENS), output_tokens


def _time_s(text: str) -> float:
    try:
        time_s = float(text)
    except ValueError:
        # Azure's files carry seven digits of a second, one more than Python reads; a time without a zone is taken as UTC.
        when = datetime.fromisoformat(text.strip()[:26])
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    if not math.isfinite(time_s):
        raise ValueError(text)
    return time_s
