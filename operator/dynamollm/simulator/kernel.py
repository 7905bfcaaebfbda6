"""Continuous batching of one instance, compiled: the semantics of `core.batching`, from event to event.

A step is begun with what is there at its start and has effect at its end; what happens in between (an arrival, a new
clock) waits for the next one. Where nothing but decoding can happen until the next request ends, all steps until then
are one closed form: the batch is constant and the context grows by it each step, so that times are an arithmetic
series; power is taken at the middle of it.

Nothing depends on when `advance` is called: to the end at once gives what many small advances give.
"""

import numpy as np

from dynamollm.simulator.accounts import charge_decoding, count_gap, count_gaps
from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.memory import free_slot, make_room
from dynamollm.simulator.queues import before, decoding_push, decoding_remove, queue_pop
from dynamollm.simulator.state import (
    BEGUN,
    DECODE_STEP,
    DECODING,
    MIXED_STEP,
    NONE,
    PROMPT_STEP,
    RESTING,
    Engines,
)
from dynamollm.simulator.steps import step_ms, step_w

_MOST_STEPS = 1e9
"""Of a run, as a float: beyond any answer's length, within an integer."""


@compiled
def advance(st: Engines, i: int, until_s: float) -> None:
    """Bring instance ``i`` up to ``until_s``; ``inf``: until nothing is left inside.

    Steps that end by then have had their effect; one that has begun and ends later is under way. None begins exactly
    at ``until_s``, so that requests which arrive at that moment are in it.
    """
    one = st.instances[i]
    while True:
        if one.step_kind != RESTING:
            if one.step_end_s > until_s:
                return
            _finish_step(st, i)
        if one.now_s >= until_s:
            one.wake_s = one.now_s if one.in_flight > 0 else np.inf
            return
        if one.in_flight == 0:
            one.wake_s = np.inf
            if until_s < np.inf:
                _rest(st, i, until_s)
            return
        if one.ready_s > one.now_s:
            _rest(st, i, min(until_s, one.ready_s))
        else:
            _go_on(st, i, until_s)


@compiled
def _rest(st: Engines, i: int, until_s: float) -> None:
    one = st.instances[i]
    energy_j = one.idle_w * one.tensor_parallel * (until_s - one.now_s)
    one.energy_j += energy_j
    st.class_j[-1] += energy_j
    one.now_s = until_s


@compiled
def _go_on(st: Engines, i: int, until_s: float) -> None:
    """At a step boundary with work to do: take all the decode steps that end by then at once, or begin one step."""
    one = st.instances[i]
    make_room(st, i)
    tokens, squared = _take_prompts(st, i)
    if tokens > 0:
        _begin_prompts(st, i, tokens, squared)
        return
    c = st.rows[one.clock_row]
    batch = one.n_decoding
    first_ms = step_ms(c, 0.0, 0.0, batch, one.context)
    growth_ms = batch * c.context_ms
    # Until a request ends or memory runs short; a single request always fits.
    most = min(st.requests[st.decoding[i, 0]].ends_at - one.decoded, max(1, (one.kv_capacity - one.kv_used) // batch))
    steps = min(most, _whole_steps((until_s - one.now_s) * 1e3, first_ms, growth_ms))
    if steps > 0:
        duration_ms = steps * first_ms + growth_ms * (0.5 * steps * (steps - 1))
        context = one.context + batch * (0.5 * (steps - 1))
        power_w = step_w(c, duration_ms / steps, 0.0, 0.0, batch, context)
        start_s = one.now_s
        one.now_s = start_s + duration_ms * 1e-3
        one.busy_s += duration_ms * 1e-3
        energy_j = power_w * one.tensor_parallel * duration_ms * 1e-3
        one.energy_j += energy_j
        charge_decoding(st, i, energy_j)
        count_gaps(st, i, steps, start_s, first_ms, growth_ms)
        _decode(st, i, steps)
        return
    one.step_kind = DECODE_STEP
    one.step_end_s = one.now_s + first_ms * 1e-3
    one.step_j = step_w(c, first_ms, 0.0, 0.0, batch, one.context) * one.tensor_parallel * first_ms * 1e-3
    one.step_decode_share = 1.0
    one.wake_s = one.now_s + (most * first_ms + growth_ms * (0.5 * most * (most - 1))) * 1e-3


@compiled
def _whole_steps(limit_ms: float, first_ms: float, growth_ms: float) -> int:
    """Return how many steps end within the limit: the largest n with n·first + growth·n(n-1)/2 ≤ limit."""
    if limit_ms < first_ms:
        return 0
    if growth_ms < 1e-9 * first_ms:
        return int(min(limit_ms / first_ms, _MOST_STEPS))
    b = first_ms - 0.5 * growth_ms
    return int(min((np.sqrt(b * b + 2.0 * growth_ms * limit_ms) - b) / growth_ms, _MOST_STEPS))


# ------------------------------------------------------------------ prompts
@compiled
def _take_prompts(st: Engines, i: int) -> tuple[int, float]:
    """Choose the prompt tokens of the next step, in order of service, begun or not; return how many, and Σ of squares.

    A prompt that is begun holds its memory, so it may go on where the first of the queue does not fit.
    """
    one = st.instances[i]
    if one.n_begun == 0 and one.n_waiting == 0:
        return 0, 0.0
    budget = one.token_budget - (0 if one.whole_prompts else one.n_decoding)
    tokens = 0
    squared = 0.0
    place = 0
    while budget > 0:
        head = one.queue
        if head != NONE and not _fits(st, i, head, budget, tokens):
            head = NONE
        if place < one.n_begun and (head == NONE or before(st, st.begun[i, place], head)):
            slot = st.begun[i, place]
        elif head != NONE:
            slot = head
            one.queue = queue_pop(st, head)
            one.n_waiting -= 1
            _begin(st, i, slot, place)
        else:
            break
        request = st.requests[slot]
        count = request.to_prefill - request.prefilled
        if not one.whole_prompts:
            count = min(count, budget)
        request.chunk = count
        end = request.prefilled + count
        squared += float(end) * end - float(request.prefilled) * request.prefilled
        tokens += count
        budget -= count
        place += 1
    return tokens, squared


@compiled
def _fits(st: Engines, i: int, slot: int, budget: int, tokens: int) -> bool:
    """Return whether a waiting request may begin now."""
    one = st.instances[i]
    to_prefill = st.requests[slot].to_prefill
    if one.n_decoding + one.n_begun >= one.max_sequences:
        return False
    # One more token for each that decodes must fit too, or the newcomer would give way at once.
    if one.kv_used + to_prefill + 1 + one.n_decoding > one.kv_capacity:
        return False
    # A whole prompt alone may exceed the budget.
    return not (one.whole_prompts and tokens > 0 and to_prefill > budget)


@compiled
def _begin(st: Engines, i: int, slot: int, place: int) -> None:
    one = st.instances[i]
    for k in range(one.n_begun, place, -1):
        st.begun[i, k] = st.begun[i, k - 1]
    st.begun[i, place] = slot
    one.n_begun += 1
    one.kv_used += st.requests[slot].to_prefill
    st.requests[slot].stage = BEGUN


@compiled
def _begin_prompts(st: Engines, i: int, tokens: int, squared: float) -> None:
    one = st.instances[i]
    c = st.rows[one.clock_row]
    batch, context = (0, 0) if one.whole_prompts else (one.n_decoding, one.context)
    duration_ms = step_ms(c, tokens, squared, batch, context)
    one.step_kind = MIXED_STEP if batch > 0 else PROMPT_STEP
    one.step_end_s = one.now_s + duration_ms * 1e-3
    one.step_j = step_w(c, duration_ms, tokens, squared, batch, context) * one.tensor_parallel * duration_ms * 1e-3
    one.step_decode_share = step_ms(c, 0.0, 0.0, batch, context) / duration_ms if batch > 0 else 0.0
    one.wake_s = one.step_end_s


# ------------------------------------------------------------------ the end of a step
@compiled
def _finish_step(st: Engines, i: int) -> None:
    one = st.instances[i]
    kind, start_s = one.step_kind, one.now_s
    one.step_kind = RESTING
    one.now_s = one.step_end_s
    one.busy_s += one.now_s - start_s
    one.energy_j += one.step_j
    decode_j = one.step_j * one.step_decode_share
    if kind != PROMPT_STEP and one.n_decoding > 0:
        charge_decoding(st, i, decode_j)
        count_gaps(st, i, 1, start_s, (one.now_s - start_s) * 1e3, 0.0)
        _decode(st, i, 1)
    if kind != DECODE_STEP:
        _finish_chunks(st, i, one.step_j - decode_j)


@compiled
def _finish_chunks(st: Engines, i: int, energy_j: float) -> None:
    one = st.instances[i]
    tokens = 0
    for k in range(one.n_begun):
        tokens += st.requests[st.begun[i, k]].chunk
    kept = 0
    for k in range(one.n_begun):
        slot = st.begun[i, k]
        request = st.requests[slot]
        st.class_j[request.request_class] += energy_j * request.chunk / max(tokens, 1)
        request.prefilled += request.chunk
        request.chunk = 0
        if request.prefilled < request.to_prefill:
            st.begun[i, kept] = slot
            kept += 1
        else:
            _prefilled(st, i, slot)
    one.n_begun = kept


@compiled
def _prefilled(st: Engines, i: int, slot: int) -> None:
    """Prefill gives a token too: the first, or the next after a preemption."""
    one, request = st.instances[i], st.requests[slot]
    if request.made == 0:
        request.first_s = one.now_s
        one.prompt_tokens += request.input_tokens
    else:
        count_gap(st, request.request_class, (one.now_s - request.last_s) * 1e3, 1)
    request.made += 1
    one.generated_tokens += 1
    if request.made >= request.output_tokens:
        one.kv_used -= request.to_prefill
        _end(st, i, slot)
        return
    one.kv_used += request.input_tokens + request.made - request.to_prefill
    one.context += request.input_tokens + request.made
    request.stage = DECODING
    request.ends_at = one.decoded + request.output_tokens - request.made
    request.last_s = one.now_s
    st.fresh[i, one.n_fresh] = slot
    one.n_fresh += 1
    st.class_decoding[i, request.request_class] += 1
    decoding_push(st, i, slot)


@compiled
def _decode(st: Engines, i: int, steps: int) -> None:
    """Count decode steps that end now, and let go who has all its tokens."""
    one = st.instances[i]
    made = steps * one.n_decoding
    one.decoded += steps
    one.context += made
    one.kv_used += made
    one.generated_tokens += made
    while one.n_decoding > 0 and st.requests[st.decoding[i, 0]].ends_at <= one.decoded:
        slot = decoding_remove(st, i, 0)
        request = st.requests[slot]
        held = request.input_tokens + request.output_tokens
        one.context -= held
        one.kv_used -= held
        st.class_decoding[i, request.request_class] -= 1
        _end(st, i, slot)


@compiled
def _end(st: Engines, i: int, slot: int) -> None:
    request, totals = st.requests[slot], st.totals[0]
    done = st.done[totals.n_done]
    totals.n_done += 1
    done.tag = request.tag
    done.instance = i
    done.request_class = request.request_class
    done.input_tokens = request.input_tokens
    done.output_tokens = request.output_tokens
    done.preemptions = request.preemptions
    done.arrival_s = request.arrival_s
    done.first_s = request.first_s
    done.end_s = st.instances[i].now_s
    free_slot(st, slot)
    st.instances[i].in_flight -= 1
