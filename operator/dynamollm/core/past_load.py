"""The parts of a load history that go back for weeks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamollm.core.classes import RequestClass


@dataclass(frozen=True, slots=True)
class PastLoad:
    """Load by class on a coarse grid, oldest first: what templates of days and weeks are made of.

    Sample i is the mean of the ``step_s`` seconds that end at ``end_s - (n - 1 - i) * step_s``. A ``None`` or NaN is a gap. The
    grid may reach into the time that the fine one covers, and ends at most one step before it.
    """

    end_s: float
    step_s: float
    rate_per_s: Mapping[RequestClass, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class PastLengths:
    """Mean tokens of the requests of a class on an even grid, oldest first: what the lengths to come are made of.

    Sample i is of the ``step_s`` seconds that end at ``end_s - (n - 1 - i) * step_s``. A ``None``, a NaN or a zero says that nobody
    asked, or that nothing was measured. All sequences have the same length n.
    """

    end_s: float
    step_s: float
    input_tokens: Mapping[RequestClass, Sequence[float | None]]
    output_tokens: Mapping[RequestClass, Sequence[float | None]]
