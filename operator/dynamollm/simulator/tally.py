"""What became of requests, compiled: counted by class as they end or fail."""

from typing import Any

import numpy as np

from dynamollm.core.classes import is_brief
from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.fleet_state import COUNTED_BIT, RATIO_LIMIT, Fleet
from dynamollm.simulator.state import GAP_BINS, GAP_LOWEST_MS, GAP_RATIO, Engines
from dynamollm.simulator.steps import step_ms

_is_brief = compiled(is_brief)


@compiled
def fail(fleet: Fleet, request_class: int, counted: int) -> None:
    """Count a request that failed; ``counted``: 0 for one of the warm-up."""
    fleet.by_predicted[request_class].judged += 1
    if counted:
        fleet.by_class[request_class].failed += 1


@compiled
def collect(st: Engines, fleet: Fleet) -> int:
    """Count the requests that have ended, and forget them; return how many they were."""
    ended: int = st.totals[0].n_done
    for k in range(ended):
        done = st.done[k]
        _count(st, fleet, done)
    st.totals[0].n_done = 0
    return ended


@compiled
def _count(st: Engines, fleet: Fleet, done: Any) -> None:
    predicted = fleet.by_predicted[done.tag & (COUNTED_BIT - 1)]
    predicted.completions += 1
    predicted.output_tokens += done.output_tokens
    if _is_brief(done.output_tokens):
        predicted.brief += 1
    ttft_ms = (done.first_s - done.arrival_s) * 1e3
    gaps = done.output_tokens - 1
    tbt_ms = (done.end_s - done.first_s) * 1e3 / gaps if gaps > 0 else 0.0
    met = ttft_ms <= fleet.ttft_slo_ms[done.request_class] and tbt_ms <= fleet.tbt_slo_ms[done.request_class]
    judged = fleet.by_predicted[done.request_class]
    judged.judged += 1
    if met:
        judged.met += 1
    if not done.tag & COUNTED_BIT:
        return
    tally = fleet.by_class[done.request_class]
    tally.input_tokens += done.input_tokens
    tally.output_tokens += done.output_tokens
    fleet.ttft[done.request_class, _bin(ttft_ms)] += 1
    if gaps > 0:
        fleet.tbt[done.request_class, _bin(tbt_ms)] += 1
    if met:
        tally.met += 1
    settings = fleet.settings[0]
    alone = alone_ms(st.rows[settings.alone_row], settings.alone_chunk, done.input_tokens, done.output_tokens)
    if (done.end_s - done.arrival_s) * 1e3 <= RATIO_LIMIT * alone:
        tally.met_ratio += 1


@compiled
def alone_ms(c: Any, chunk_tokens: int, input_tokens: int, output_tokens: int) -> float:
    """Return the end-to-end time of a request that has an instance to itself, ms.

    ``c`` is a row of the step table, ``chunk_tokens`` the budget of a step; 0: prompts run whole.
    """
    prompt = float(input_tokens)
    chunk = float(chunk_tokens) if chunk_tokens > 0 else prompt
    first_ms = 0.0
    begun = 0.0
    while begun < prompt:
        end = min(begun + chunk, prompt)
        first_ms += step_ms(c, end - begun, end * end - begun * begun, 0.0, 0.0)
        begun = end
    # Decode steps grow with the context by a constant: their mean is the one at the middle.
    steps = output_tokens - 1
    return first_ms + steps * step_ms(c, 0.0, 0.0, 1.0, prompt + 1.0 + 0.5 * max(0, steps - 1))


@compiled
def _bin(ms: float) -> int:
    ratio = np.log(max(ms, GAP_LOWEST_MS) / GAP_LOWEST_MS) / np.log(GAP_RATIO)
    return min(GAP_BINS - 1, max(0, int(ratio)))
