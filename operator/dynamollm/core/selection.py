"""Which instance serves a request: the pools in the order they are tried, and the least loaded instance of a pool."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dynamollm.core.classes import RequestClass

_BY_SIZE: Final = tuple(RequestClass)


@dataclass(slots=True)
class Candidate:
    """An instance that may be chosen; mutable, since its load changes with every request."""

    name: str
    pool: str
    tensor_parallel: int
    address: str
    """host:port."""
    by_priority: bool = False
    """Whether it serves by the requests' priority; one that does not may refuse a request that has one."""
    in_flight: int = 0
    """Requests sent to it that have not ended."""
    last_chosen: int = 0
    """Sequence number of its latest request: equals take turns."""


def pool_order(
    request_class: RequestClass, routing: Mapping[RequestClass, str], pools: Iterable[str]
) -> tuple[str, ...]:
    """Return all pools in the order in which a request of the class tries them.

    First the class's own pool; then those of larger classes, nearest first (a larger pool can always serve a smaller
    request); then those of smaller classes, nearest first; last, pools that exist and that no class is routed to.

    Args:
        request_class: of the request.
        routing: class → pool.
        pools: the pools that instances belong to.
    """
    index = _BY_SIZE.index(request_class)
    classes = (*_BY_SIZE[index:], *reversed(_BY_SIZE[:index]))
    order = dict.fromkeys(routing[other] for other in classes if other in routing)
    return (*order, *sorted(set(pools) - order.keys()))


def choose(
    candidates: Iterable[Candidate], *, max_in_flight_per_gpu: int, avoid: Collection[str] = ()
) -> Candidate | None:
    """Return the least loaded candidate that has room, or None.

    Load is what it would have in flight per GPU with one more request, so that of idle instances the larger is chosen;
    equals take turns.

    Args:
        candidates: instances of one pool that are serving.
        max_in_flight_per_gpu: a candidate has room while it has fewer requests than this, times its TP.
        avoid: names of candidates not to choose.
    """
    best: Candidate | None = None
    best_load = (0.0, 0)
    for candidate in candidates:
        if candidate.name in avoid or candidate.in_flight >= max_in_flight_per_gpu * candidate.tensor_parallel:
            continue
        load = ((candidate.in_flight + 1) / candidate.tensor_parallel, candidate.last_chosen)
        if best is None or load < best_load:
            best, best_load = candidate, load
    return best
