"""Whether the SLO was kept, by each of the three rules, and the latencies by class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Slo, SloRule
from dynamollm.simulator.fleet_state import Fleet
from dynamollm.simulator.state import gap_quantile_ms

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Percentile:
    """What the rule p99 looks at: a latency of a class at the SLO's percentile, beside its limit."""

    request_class: str
    latency: str
    """``ttft``, or ``token_gap``: of all gaps between tokens."""
    percentile: float
    ms: float
    """inf: so many requests failed that there is none."""
    limit_ms: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How requests did."""

    meets_slo: bool
    total: float
    """Share of the requests within their own TTFT and mean TBT; those that failed are not."""
    by_class: Mapping[str, float]
    within_five: float
    """Share of the requests that took at most five times as long as alone."""
    ttft_ms: Mapping[str, Mapping[str, float]]
    """Class → p50, p90, p99."""
    tbt_ms: Mapping[str, Mapping[str, float]]
    """The same of the mean time between a request's tokens."""
    gap_ms: Mapping[str, Mapping[str, float]]
    """The same of all single gaps between tokens."""
    all_ms: Mapping[str, Mapping[str, float]]
    """``ttft``, ``tbt`` and ``token_gap`` over all classes."""
    worst: Percentile | None
    """The one that is highest over its limit, or nearest to it; None: nothing was asked."""


def judge(fleet: Fleet, gaps: NDArray[np.int64], slo: Slo) -> Verdict:
    """Return how requests did, and whether that keeps the SLO by its own rule."""
    counts = fleet.by_class
    asked = counts["requests"]
    total = int(asked.sum())
    classes = [(index, c) for index, c in enumerate(RequestClass) if asked[index] > 0]
    share = slo.percentile / 100
    percentiles = [one for index, c in classes for one in _percentiles(fleet, gaps, slo, index, c)]
    attained = float(counts["met"].sum() / total) if total else 1.0
    within_five = float(counts["met_ratio"].sum() / total) if total else 1.0
    kept = {
        SloRule.PER_REQUEST: attained >= share,
        SloRule.FIVE_TIMES_ALONE: within_five >= share,
        SloRule.PER_CLASS_PERCENTILE: all(one.ms <= one.limit_ms for one in percentiles),
    }
    return Verdict(
        meets_slo=kept[slo.rule],
        total=attained,
        by_class={c.value: float(counts["met"][index] / asked[index]) for index, c in classes},
        within_five=within_five,
        ttft_ms={c.value: _quantiles(fleet.ttft[index]) for index, c in classes},
        tbt_ms={c.value: _quantiles(fleet.tbt[index]) for index, c in classes},
        gap_ms={c.value: _quantiles(gaps[index]) for index, c in classes},
        all_ms={
            "ttft": _quantiles(fleet.ttft.sum(axis=0)),
            "tbt": _quantiles(fleet.tbt.sum(axis=0)),
            "token_gap": _quantiles(gaps.sum(axis=0)),
        },
        worst=max(percentiles, key=lambda one: one.ms / one.limit_ms, default=None),
    )


def _percentiles(
    fleet: Fleet, gaps: NDArray[np.int64], slo: Slo, index: int, request_class: RequestClass
) -> tuple[Percentile, Percentile]:
    share = slo.percentile / 100
    counts: Any = fleet.by_class[index]
    served = int(fleet.ttft[index].sum())
    # Those that failed have no first token: they take their place behind all others.
    needed = share * int(counts["requests"])
    ttft_ms = math.inf if served < needed else gap_quantile_ms(fleet.ttft[index], needed / served)
    gap_ms = gap_quantile_ms(gaps[index], share)
    return (
        Percentile(request_class.value, "ttft", slo.percentile, ttft_ms, slo.ttft_ms[request_class]),
        Percentile(request_class.value, "token_gap", slo.percentile, gap_ms, slo.tbt_ms[request_class]),
    )


def _quantiles(histogram: NDArray[np.int64]) -> dict[str, float]:
    return {name: round(gap_quantile_ms(histogram, share), 2) for name, share in QUANTILES.items()}
