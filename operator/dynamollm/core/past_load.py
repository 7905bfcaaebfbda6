"""The part of a load history that goes back for weeks."""

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
