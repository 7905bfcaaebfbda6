"""What the operator would read of the router's metrics: load by class on the grid that Prometheus is asked for."""

from collections import deque
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.feedback import WINDOW_S
from dynamollm.core.records import Attainment, LoadHistory

BUCKET_S: Final = 60.0
LENGTHS_S: Final = 1800.0
HISTORY_S: Final = 15 * 86_400.0
SCRAPE_S: Final = 15.0
"""The grid, the window of mean lengths, how far back, and the scrape interval: as `adapters.prometheus` and
`adapters.loadgrid` have them. A bucket is known one scrape after its end."""


class RouterMetrics:
    """Turns the router's counters, read at each bucket's end, into the history that a cycle sees."""

    def __init__(self) -> None:
        self._rates: list[list[float]] = [[] for _ in RequestClass]
        self._before: NDArray[Any] | None = None
        self._window: deque[NDArray[Any]] = deque(maxlen=round(LENGTHS_S / BUCKET_S))
        self.history: LoadHistory | None = None
        """As of the latest bucket; None before the first."""
        self.attainment: dict[RequestClass, Attainment] | None = None
        """Over the last ``feedback.WINDOW_S``."""
        self.settled_attainment: dict[RequestClass, Attainment] | None = None
        """Over the last ``LENGTHS_S``, a scale interval."""

    def add(self, counters: NDArray[Any], *, end_s: float) -> None:
        """Take in the counters (`fleet_state.PREDICTED_TALLY`, [class]) at a bucket's end."""
        before = self._before if self._before is not None else np.zeros_like(counters)
        arrived = counters["arrivals"] - before["arrivals"]
        for samples, count in zip(self._rates, arrived, strict=True):
            samples.append(float(count) / BUCKET_S)
            if len(samples) > HISTORY_S / BUCKET_S:
                del samples[0]
        self._window.append(before)
        self._before = counters
        first = self._window[0]
        self.attainment = _attainment(counters, self._window[-min(len(self._window), round(WINDOW_S / BUCKET_S))])
        self.settled_attainment = _attainment(counters, first)
        self.history = LoadHistory(
            end_s=end_s,
            step_s=BUCKET_S,
            rate_per_s=dict(zip(RequestClass, map(tuple, self._rates), strict=True)),
            input_tokens=_means(counters, first, "input_tokens", "arrivals"),
            output_tokens=_means(counters, first, "output_tokens", "completions"),
            brief_share=_means(counters, first, "brief", "completions", least=0),
        )


def _attainment(now: NDArray[Any], then: NDArray[Any]) -> dict[RequestClass, Attainment]:
    return {
        request_class: Attainment(requests=float(judged), met=float(met))
        for request_class, judged, met in zip(
            RequestClass, now["judged"] - then["judged"], now["met"] - then["met"], strict=True
        )
        if judged > 0
    }


def _means(
    now: NDArray[Any], then: NDArray[Any], what: str, requests: str, *, least: int = 1
) -> dict[RequestClass, float]:
    over, under = now[what] - then[what], now[requests] - then[requests]
    return {
        request_class: float(over[index]) / float(under[index])
        for index, request_class in enumerate(RequestClass)
        if under[index] > 0 and over[index] >= least
    }
