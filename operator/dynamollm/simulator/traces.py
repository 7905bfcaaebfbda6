"""Requests to replay: the Azure LLM inference CSVs, or a generated hour with the same statistics.

The Azure files (Azure/AzurePublicDataset, CC-BY-4.0) have the columns TIMESTAMP, ContextTokens, GeneratedTokens.
The generated trace follows figures computed from the 2023 conversation hour: requests per minute, shares of the
nine classes (boundaries 256/1024 and 100/350), and the log-normal lengths within each.
"""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import InvalidInputError

MAX_INPUT_TOKENS: Final = 8192
"""The paper's longest input; longer rows (0.02 % of the 2023 conversations) are cut to it."""

_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request: when it arrives, in seconds after the trace's first, and its lengths in tokens."""

    offset_s: float
    input_tokens: int
    output_tokens: int


def read_azure_csv(path: Path) -> list[TraceRequest]:
    """Return the requests of an Azure trace in order of arrival.

    Raises:
        InvalidInputError: the file is not such a trace; names the file and the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            requests = list(_rows(path, file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{path}: cannot be read as a trace ({error}): give an Azure LLM inference CSV"
        ) from None
    if not requests:
        raise InvalidInputError(f"{path}: no requests in it: give an Azure LLM inference CSV with at least one row")
    first = min(when for when, _, _ in requests)
    return sorted(
        (
            TraceRequest((when - first).total_seconds(), min(input_tokens, MAX_INPUT_TOKENS), output_tokens)
            for when, input_tokens, output_tokens in requests
        ),
        key=lambda request: request.offset_s,
    )


def _rows(path: Path, file: Iterator[str]) -> Iterator[tuple[datetime, int, int]]:
    reader = csv.DictReader(file)
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise InvalidInputError(f"{path}:1: no column {missing[0]}: an Azure trace has {', '.join(_COLUMNS)}")
    for row in reader:
        try:
            # The files carry seven digits of a second, one more than Python reads.
            when = datetime.fromisoformat(row["TIMESTAMP"][:26])
            input_tokens, output_tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (ValueError, TypeError):
            raise InvalidInputError(
                f"{path}:{reader.line_num}: {list(row.values())} is no request: give a timestamp and two token counts"
            ) from None
        if input_tokens < 1 or output_tokens < 1:
            raise InvalidInputError(
                f"{path}:{reader.line_num}: {input_tokens} and {output_tokens} tokens: both must be 1 or more"
            )
        yield when, input_tokens, output_tokens


@dataclass(frozen=True, slots=True)
class _ClassShape:
    """Share of the requests, and mean and deviation of the log of their lengths in tokens."""

    share: float
    input_log: tuple[float, float]
    output_log: tuple[float, float]


_CONVERSATION_2023: Final = {
    RequestClass.SS: _ClassShape(0.0358, (5.069, 0.675), (3.755, 0.809)),
    RequestClass.SM: _ClassShape(0.0980, (4.944, 0.789), (5.109, 0.235)),
    RequestClass.SL: _ClassShape(0.0005, (5.198, 0.050), (6.551, 0.446)),
    RequestClass.MS: _ClassShape(0.1900, (6.060, 0.257), (4.308, 0.375)),
    RequestClass.MM: _ClassShape(0.1041, (6.086, 0.240), (4.788, 0.171)),
    RequestClass.ML: _ClassShape(0.0774, (6.891, 0.068), (6.035, 0.107)),
    RequestClass.LS: _ClassShape(0.1509, (7.897, 0.479), (4.061, 0.344)),
    RequestClass.LM: _ClassShape(0.0877, (7.565, 0.453), (4.989, 0.256)),
    RequestClass.LL: _ClassShape(0.2556, (7.008, 0.084), (6.049, 0.133)),
}
_INPUT_RANGE: Final = {"S": (2, 255), "M": (256, 1023), "L": (1024, MAX_INPUT_TOKENS)}
_OUTPUT_RANGE: Final = {"S": (7, 99), "M": (100, 349), "L": (350, 1000)}

# Requests in each minute of the hour.
# fmt: off
_REQUESTS_PER_MINUTE: Final = (
    191, 265, 329, 353, 307, 273, 268, 261, 322, 298, 301, 302, 345, 326, 283, 279, 280, 308, 343, 351,
    351, 343, 408, 396, 386, 398, 432, 480, 476, 453, 448, 507, 438, 413, 423, 418, 465, 311, 329, 316,
    333, 355, 319, 360, 334, 375, 330, 249, 221, 249, 265, 280, 256, 254, 242, 260, 246, 225,
)
# fmt: on


def generate_conversation_hour(*, seed: int) -> list[TraceRequest]:
    """Return an hour of requests with the statistics of the 2023 conversation trace; the same seed gives the same."""
    draw = random.Random(seed)
    classes = list(_CONVERSATION_2023)
    weights = [shape.share for shape in _CONVERSATION_2023.values()]
    requests = []
    for minute, count in enumerate(_REQUESTS_PER_MINUTE):
        for offset_s in sorted(draw.uniform(0, 60) for _ in range(count)):
            request_class = draw.choices(classes, weights)[0]
            shape = _CONVERSATION_2023[request_class]
            requests.append(
                TraceRequest(
                    minute * 60 + offset_s,
                    _length(draw, shape.input_log, _INPUT_RANGE[request_class.input_length]),
                    _length(draw, shape.output_log, _OUTPUT_RANGE[request_class.output_length]),
                )
            )
    return requests


def _length(draw: random.Random, log: tuple[float, float], bounds: tuple[int, int]) -> int:
    return min(max(round(math.exp(draw.gauss(*log))), bounds[0]), bounds[1])
