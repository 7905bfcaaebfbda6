"""What is kept for load that comes in bursts: more where its minutes differ by more than chance makes them differ.

A plan is for minutes: the requests that it was made for come in some of their seconds and not in others. By how much, minutes
tell: independent requests make their count vary by its root; services that people type into are near that, and those that
programs call are far from it (Azure's code of 2023: the count of a minute deviates by its mean, that of the conversations by a
twelfth of it).
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.load_series import BUCKET_S, bucket_means
from dynamollm.core.records import LoadHistory

_LOOK_BACK_S: Final = 3 * 3600.0
_LEAST_BUCKETS: Final = 10
"""Fewer tell nothing."""
_CHANCE: Final = 2.0
"""Standard errors that an index of dispersion is above 1 by chance."""
_WORTH: Final = 0.6
"""How many times the coefficient of variation is kept besides. With it, Joint on the code of 2023 leaves 99.4 to 99.9 % within the
SLO where it left 96.6 to 98.9 %, from five times its rate on (docs/model.md)."""
_MOST: Final = 0.5
_STEP: Final = 0.1
"""What differs by less is the same: plans do not follow the estimate's noise."""


def kept_for_bursts(history: LoadHistory | None) -> float:
    """Return how many times as much is kept in reserve as for load that comes evenly; 1.0 where nothing is known of it."""
    found = _STEP * np.floor(_WORTH * variation(history) / _STEP)
    return 1.0 + round(min(_MOST, float(found)), 9)


def variation(history: LoadHistory | None) -> float:
    """Return the coefficient of variation of a minute's requests, beyond what independent ones have; 0.0: not known.

    Over the last three hours, and of the differences of successive minutes, so that a trend is none.
    """
    counts = _counts(history)
    changes = np.diff(counts)
    changes = changes[np.isfinite(changes)]
    if changes.size < _LEAST_BUCKETS or not (mean := float(np.nanmean(counts))) > 0:
        return 0.0
    dispersion = float(np.mean(changes**2)) / 2 / mean
    # A variance of successive differences has 3/2 times the variance of the one of as many independent values.
    beyond = dispersion - 1 - _CHANCE * (3 / changes.size) ** 0.5
    return math.sqrt(max(0.0, beyond / mean))


def _counts(history: LoadHistory | None) -> NDArray[np.float64]:
    """Return the requests of each of the last minutes, all classes together; NaN: a gap."""
    if history is None:
        return np.empty(0)
    buckets = max(1, round(_LOOK_BACK_S / max(BUCKET_S, history.step_s)))
    last = buckets * max(1, round(BUCKET_S / history.step_s))
    rates = np.array([np.array(samples[-last:], dtype=np.float64) for samples in history.rate_per_s.values()])
    if rates.size == 0:
        return np.empty(0)
    # A class that nobody has asked for yet has no series.
    total = np.where(np.isnan(rates).all(axis=0), np.nan, np.nansum(rates, axis=0))
    bucket_s, means = bucket_means(total[None], history.step_s, BUCKET_S)
    counts: NDArray[np.float64] = means[0] * bucket_s
    return counts
