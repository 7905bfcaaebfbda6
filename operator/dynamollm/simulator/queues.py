"""The two heaps of an instance, compiled: who waits, by order of service, and who decodes, by when its last token comes.

All decoding requests get one token in each decode step. So each of them ends at a count of decode steps that is known
when it begins, and a step need not touch them: that is what makes a step cost the same for any batch.
"""

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.compiled import compiled
from dynamollm.simulator.state import NONE, Engines


@compiled
def before(st: Engines, a: int, b: int) -> bool:
    """Return whether request ``a`` is served before ``b``: by rank, then by submission."""
    one, other = st.requests[a], st.requests[b]
    if one.rank != other.rank:
        return one.rank < other.rank
    return one.sequence < other.sequence


# ------------------------------------------------------------------ the queue: a skew heap, so that it has no bound
@compiled
def _merge(st: Engines, a: int, b: int) -> int:
    """Return the root of two heaps' union. Both right spines are zipped in order, and every node's children swap."""
    if a == NONE:
        return b
    if b == NONE:
        return a
    if before(st, b, a):
        a, b = b, a
    root = a
    while True:
        one = st.requests[a]
        rest = one.right
        one.right = one.left
        if rest == NONE:
            one.left = b
            return root
        if before(st, b, rest):
            rest, b = b, rest
        one.left = rest
        a = rest


@compiled
def queue_push(st: Engines, root: int, slot: int) -> int:
    """Return the root of the queue with one request more."""
    one = st.requests[slot]
    one.left = NONE
    one.right = NONE
    return _merge(st, root, slot)


@compiled
def queue_pop(st: Engines, root: int) -> int:
    """Return the root of the queue without its first request, which is ``root``."""
    one = st.requests[root]
    return _merge(st, one.left, one.right)


@compiled
def queue_remove(st: Engines, root: int, slot: int) -> int:
    """Return the root of the queue without this request, which is in it. Takes as long as those before it."""
    kept = NONE
    while root != slot:
        first = root
        root = queue_pop(st, root)
        kept = queue_push(st, kept, first)
    return _merge(st, kept, queue_pop(st, root))


# ------------------------------------------------------------------ the decoding requests: a binary heap
@compiled
def decoding_push(st: Engines, i: int, slot: int) -> None:
    """Add a request to those that instance ``i`` decodes."""
    one = st.instances[i]
    heap = st.decoding[i]
    place = one.n_decoding
    one.n_decoding += 1
    _rise(st, heap, place, slot)


@compiled
def decoding_remove(st: Engines, i: int, place: int) -> int:
    """Take out the request at a place of the heap, 0 for the one that ends first, and return it."""
    one = st.instances[i]
    heap = st.decoding[i]
    slot = heap[place]
    one.n_decoding -= 1
    size = one.n_decoding
    if place == size:
        return slot
    moved = heap[size]
    ends_at = st.requests[moved].ends_at
    if place > 0 and ends_at < st.requests[heap[(place - 1) // 2]].ends_at:
        _rise(st, heap, place, moved)
        return slot
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and st.requests[heap[child + 1]].ends_at < st.requests[heap[child]].ends_at:
            child += 1
        if ends_at <= st.requests[heap[child]].ends_at:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = moved
    return slot


@compiled
def _rise(st: Engines, heap: NDArray[np.int32], place: int, slot: int) -> None:
    ends_at = st.requests[slot].ends_at
    while place > 0:
        parent = (place - 1) // 2
        if st.requests[heap[parent]].ends_at <= ends_at:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = slot
