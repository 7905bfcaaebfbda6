"""A history by class on an even grid, kept between cycles so that each one asks Prometheus for what is new only."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Final

from dynamollm.adapters.promclient import Series
from dynamollm.core.classes import RequestClass

MAX_POINTS: Final = 10_000
"""Points of one range query; Prometheus refuses more than 11,000."""

Fetch = Callable[[float, float], list[Series]]
"""From the end of the first bucket to that of the last (simulated unix seconds), points in the same seconds."""


def _no_rates() -> dict[RequestClass, "array[float]"]:
    return {request_class: array("d") for request_class in RequestClass}


@dataclass(slots=True)
class LoadGrid:
    """Arrivals/s or mean tokens by class in buckets that end at multiples of ``step_s``; simulated seconds."""

    step_s: float
    keep_s: float
    """What is older than this is forgotten."""
    end: int = 0
    """The last bucket ends at ``end × step_s``."""
    rates: dict[RequestClass, "array[float]"] = field(default_factory=_no_rates)
    """Eight bytes a bucket, NaN where nothing was measured: a thousand services have a thousand of these."""

    @property
    def size(self) -> int:
        """Number of buckets."""
        return len(self.rates[RequestClass.SS])

    @property
    def end_s(self) -> float:
        """When the last bucket ends."""
        return self.end * self.step_s

    @property
    def newest_s(self) -> float | None:
        """When the newest bucket ends in which anything was measured; None: nothing was."""
        samples = self.rates[RequestClass.SS]
        for age in range(len(samples)):
            if not isnan(samples[-1 - age]):
                return (self.end - age) * self.step_s
        return None

    def extend(self, *, until_s: float, fetch: Fetch) -> bool:
        """Add the buckets that have ended by ``until_s``; return whether anything changed.

        What is older than ``keep_s`` is forgotten, and so are leading buckets from before anything was measured. Where
        time has gone back, what was of the future is forgotten: the clock was wrong when it was asked for.
        """
        until = int(until_s // self.step_s)
        if until < self.end:
            self._forget_after(until)
            return True
        longest = max(1, int(self.keep_s / self.step_s))
        first = max(self.end + 1, until - longest + 1)
        if first > until:
            return False
        added: dict[int, dict[RequestClass, float]] = {}
        for begin in range(first, until + 1, MAX_POINTS):
            last = min(begin + MAX_POINTS - 1, until)
            self._place(fetch(begin * self.step_s, last * self.step_s), added)
        # Only once all is there: a query that fails half-way leaves no hole. Where time has jumped ahead by more than
        # is kept, nothing of what was there is.
        if first > self.end + 1:
            self.rates = _no_rates()
        for index in range(first, until + 1):
            known = added.get(index)
            for request_class, samples in self.rates.items():
                # The router creates every class at zero: a class that lacks where others are there has no requests,
                # which a mean of no tokens says too.
                samples.append(nan if known is None else known.get(request_class, 0.0))
        self.end = until
        self._trim(longest)
        return True

    def copies(self, newest: int | None = None) -> dict[RequestClass, "array[float]"]:
        """Return the rates for somebody else to keep, or so many of the newest."""
        first = 0 if newest is None else self.size - newest
        return {request_class: samples[first:] for request_class, samples in self.rates.items()}

    def _place(self, series: list[Series], added: dict[int, dict[RequestClass, float]]) -> None:
        for one in series:
            name = one.labels.get("class", "")
            if name in RequestClass.__members__:
                for time_s, rate in one.points:
                    added.setdefault(round(time_s / self.step_s), {})[RequestClass(name)] = max(0.0, rate)

    def _forget_after(self, until: int) -> None:
        kept = max(0, self.size - (self.end - until))
        for samples in self.rates.values():
            del samples[kept:]
        self.end = until

    def _trim(self, longest: int) -> None:
        samples = self.rates[RequestClass.SS]
        excess = max(0, len(samples) - longest)
        while excess < len(samples) and isnan(samples[excess]):
            excess += 1
        if excess:
            for values in self.rates.values():
                del values[:excess]
