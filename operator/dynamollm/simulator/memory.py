"""Memory of instances, compiled: the slots that requests take, and who gives way where the KV cache is full."""

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.queues import before, decoding_remove, queue_push
from dynamollm.simulator.state import WAITING, Engines


@compiled
def free_slot(st: Engines, slot: int) -> None:
    """Give a request's slot back."""
    totals = st.totals[0]
    st.requests[slot].stage = 0
    st.requests[slot].left = totals.free
    totals.free = slot
    totals.n_free += 1


@compiled
def make_room(st: Engines, i: int) -> None:
    """Let the last in order of service wait again until every decoding request has room for a token."""
    one = st.instances[i]
    while one.n_decoding > 1 and one.kv_used + one.n_decoding > one.kv_capacity:
        place = 0
        for k in range(1, one.n_decoding):
            if before(st, st.decoding[i, place], st.decoding[i, k]):
                place = k
        slot = leave_decoding(st, i, place)
        request = st.requests[slot]
        request.preemptions += 1
        request.prefilled = 0
        request.to_prefill = request.input_tokens + request.made
        request.stage = WAITING
        one.queue = queue_push(st, one.queue, slot)
        one.n_waiting += 1


@compiled
def leave_decoding(st: Engines, i: int, place: int) -> int:
    """Take a request out of the batch before its end, its tokens counted in ``made``; return its slot."""
    one = st.instances[i]
    slot = decoding_remove(st, i, place)
    request = st.requests[slot]
    request.made = request.output_tokens - (request.ends_at - one.decoded)
    one.context -= request.input_tokens + request.made
    one.kv_used -= request.input_tokens + request.made
    st.class_decoding[i, request.request_class] -= 1
    kept = 0
    was_fresh = False
    for k in range(one.n_fresh):
        if st.fresh[i, k] == slot:
            was_fresh = True
        else:
            st.fresh[i, kept] = st.fresh[i, k]
            kept += 1
    one.n_fresh = kept
    if not was_fresh:
        request.last_s = one.last_token_s
    return slot
