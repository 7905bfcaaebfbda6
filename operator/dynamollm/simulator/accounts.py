"""What the steps of instances add to the accounts by class, compiled: energy, and the gaps between tokens."""

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.state import GAP_BINS, GAP_LOWEST_MS, GAP_RATIO, Engines

_LOG_RATIO = np.log(GAP_RATIO)


@compiled
def charge_decoding(st: Engines, i: int, energy_j: float) -> None:
    """Share the energy of decoding out to the classes of those that decode."""
    share_j = energy_j / st.instances[i].n_decoding
    counts: NDArray[np.int32] = st.class_decoding[i]
    for k in range(counts.size):
        st.class_j[k] += share_j * counts[k]


@compiled
def count_gaps(st: Engines, i: int, steps: int, start_s: float, first_ms: float, growth_ms: float) -> None:
    """Count the gaps before the tokens of decode steps in a row, of all who decode now; called before they end."""
    one = st.instances[i]
    counts: NDArray[np.int32] = st.class_decoding[i]
    first_end_s = start_s + first_ms * 1e-3
    # Before the first of the steps the gap is as long as prompts kept decoding waiting, for newcomers less.
    for k in range(counts.size):
        if counts[k] > 0:
            count_gap(st, k, (first_end_s - one.last_token_s) * 1e3, counts[k])
    for k in range(one.n_fresh):
        request = st.requests[st.fresh[i, k]]
        count_gap(st, request.request_class, (first_end_s - one.last_token_s) * 1e3, -1)
        count_gap(st, request.request_class, (first_end_s - request.last_s) * 1e3, 1)
    one.n_fresh = 0
    one.last_token_s = start_s + (steps * first_ms + growth_ms * (0.5 * steps * (steps - 1))) * 1e-3
    counted = 1
    bin_ = _bin(first_ms)
    while counted < steps:
        # How many of the steps fall into this bin: the upper edge bounds first + growth·k.
        upto = steps
        if growth_ms > 1e-9 * first_ms and bin_ < GAP_BINS - 1:
            edge_ms = GAP_LOWEST_MS * np.exp((bin_ + 1) * _LOG_RATIO)
            upto = int(min(float(steps), np.ceil((edge_ms - first_ms) / growth_ms)))
        if upto > counted:
            for k in range(counts.size):
                st.gaps[k, bin_] += counts[k] * (upto - counted)
            counted = upto
        bin_ += 1


@compiled
def count_gap(st: Engines, request_class: int, gap_ms: float, count: int) -> None:
    """Count a gap before a token of a class, ``count`` times."""
    st.gaps[request_class, _bin(gap_ms)] += count


@compiled
def _bin(gap_ms: float) -> int:
    return min(GAP_BINS - 1, max(0, int(np.log(max(gap_ms, GAP_LOWEST_MS) / GAP_LOWEST_MS) / _LOG_RATIO)))
