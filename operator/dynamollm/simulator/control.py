"""What a cluster does to instances, compiled: start and stop them, give them requests and take some back, set clocks.

Every function here first brings the instance to the moment at which it is called.
"""

import numpy as np

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.memory import free_slot, leave_decoding
from dynamollm.simulator.queues import queue_pop, queue_push, queue_remove
from dynamollm.simulator.state import BEGUN, DECODING, NONE, RESTING, WAITING, Engines, InstanceSettings

NO_ROOM = -1
"""Of `submit`: no slot is left; collect what is done, or take a larger state, and submit again."""

TOO_LONG = -2
"""Of `submit`: prompt and answer do not fit into the instance's KV cache even alone."""


@compiled
def start(
    st: Engines, i: int, settings: InstanceSettings, tensor_parallel: int, clock_row: int, now_s: float, ready_s: float
) -> None:
    """Make place ``i`` an empty instance that draws idle power from now on and serves from ``ready_s`` on."""
    one = st.instances[i]
    one.in_use = 1
    one.tensor_parallel = tensor_parallel
    one.clock_row = clock_row
    one.whole_prompts = settings.whole_prompts
    one.max_sequences = min(settings.max_sequences, st.decoding.shape[1])
    one.token_budget = settings.max_batched_tokens
    one.kv_capacity = settings.kv_capacity_tokens
    one.idle_w = settings.idle_w
    one.now_s = now_s
    one.ready_s = ready_s
    one.wake_s = np.inf
    one.step_kind = RESTING
    one.in_flight = 0
    one.n_decoding = 0
    one.n_begun = 0
    one.n_waiting = 0
    one.n_fresh = 0
    one.queue = NONE
    one.kv_used = 0
    one.context = 0
    one.decoded = 0
    one.last_token_s = now_s
    one.prompt_tokens = 0
    one.generated_tokens = 0
    one.energy_j = 0.0
    one.busy_s = 0.0
    st.class_decoding[i] = 0


@compiled
def stop(st: Engines, i: int, now_s: float) -> bool:
    """End an instance; its counters stay readable until the place is used again. False: it still has requests."""
    advance(st, i, now_s)
    if st.instances[i].in_flight > 0:
        return False
    st.instances[i].in_use = 0
    return True


@compiled
def _changed(st: Engines, i: int) -> None:
    """Note that the next step may end earlier, or be another one, than was foreseen."""
    one = st.instances[i]
    one.wake_s = one.step_end_s if one.step_kind != RESTING else one.now_s


@compiled
def set_clock(st: Engines, i: int, clock_row: int, now_s: float) -> None:
    """Change the clock; the step that is under way ends as it began."""
    advance(st, i, now_s)
    st.instances[i].clock_row = clock_row
    _changed(st, i)


@compiled
def pause(st: Engines, i: int, now_s: float, until_s: float) -> None:
    """Begin no step before ``until_s``: what a clock change or a re-sharding in place costs."""
    advance(st, i, now_s)
    one = st.instances[i]
    one.ready_s = max(one.ready_s, until_s)
    _changed(st, i)


@compiled
def submit(
    st: Engines,
    i: int,
    tag: int,
    request_class: int,
    input_tokens: int,
    output_tokens: int,
    arrival_s: float,
    rank: float,
    now_s: float,
) -> int:
    """Give an instance a request at ``now_s``; return its slot, or ``NO_ROOM`` or ``TOO_LONG``.

    Args:
        st: the state.
        i: the instance.
        tag: comes back with what became of the request.
        request_class: index of its class.
        input_tokens: 1 or more.
        output_tokens: 1 or more.
        arrival_s: what its TTFT counts from.
        rank: lower is served first: its arrival for first come first served, its deadline for earliest deadline first.
        now_s: not before ``arrival_s``, and never earlier than in the call before.
    """
    totals = st.totals[0]
    # Whoever is inside must have room among the done.
    if totals.n_free <= totals.n_done:
        return NO_ROOM
    if input_tokens + output_tokens > st.instances[i].kv_capacity:
        return TOO_LONG
    advance(st, i, now_s)
    slot = totals.free
    request = st.requests[slot]
    totals.free = request.left
    totals.n_free -= 1
    request.tag = tag
    request.sequence = totals.submitted
    totals.submitted += 1
    request.rank = rank
    request.arrival_s = arrival_s
    request.first_s = np.nan
    request.instance = i
    request.request_class = request_class
    request.input_tokens = input_tokens
    request.output_tokens = output_tokens
    request.made = 0
    request.to_prefill = input_tokens
    request.prefilled = 0
    request.chunk = 0
    request.preemptions = 0
    request.stage = WAITING
    one = st.instances[i]
    one.queue = queue_push(st, one.queue, slot)
    one.n_waiting += 1
    one.in_flight += 1
    _changed(st, i)
    return slot


@compiled
def take_waiting(st: Engines, i: int, now_s: float) -> int:
    """Take out the first in the queue; return its slot, which the caller frees, or ``NONE``."""
    advance(st, i, now_s)
    one = st.instances[i]
    slot = one.queue
    if slot == NONE:
        return NONE
    one.queue = queue_pop(st, slot)
    one.n_waiting -= 1
    one.in_flight -= 1
    return slot


@compiled
def cancel(st: Engines, slot: int, now_s: float) -> None:
    """Take a request out wherever it is, and free its slot; it leaves no trace among the done.

    In a step that is under way its part is done in vain.
    """
    i = st.requests[slot].instance
    advance(st, i, now_s)
    one, request = st.instances[i], st.requests[slot]
    if request.stage == 0:
        return  # it has just ended
    if request.stage == WAITING:
        one.queue = queue_remove(st, one.queue, slot)
        one.n_waiting -= 1
    elif request.stage == BEGUN:
        kept = 0
        for k in range(one.n_begun):
            if st.begun[i, k] != slot:
                st.begun[i, kept] = st.begun[i, k]
                kept += 1
        one.n_begun = kept
        one.kv_used -= request.to_prefill
    elif request.stage == DECODING:
        for k in range(one.n_decoding):
            if st.decoding[i, k] == slot:
                leave_decoding(st, i, k)
                break
    one.in_flight -= 1
    free_slot(st, slot)
    _changed(st, i)
