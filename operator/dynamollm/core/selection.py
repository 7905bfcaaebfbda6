"""Which instance serves a request: pools in the order they are tried, the least loaded of a pool, and larger pools in a burst."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    full_in_flight: float = math.inf
    """So many are what it carries within the SLO, on average (``GroupPlan``)."""
    last_chosen: int = 0
    """Sequence number of its latest request: equals take turns."""

    @property
    def is_full(self) -> bool:
        """Whether one request more were more than it carries within the SLO."""
        return self.in_flight + 1 > self.full_in_flight


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


def larger_pools(request_class: RequestClass, routing: Mapping[RequestClass, str]) -> int:
    """Return how many of the first pools of ``pool_order`` serve the class or larger ones."""
    return len({routing[other] for other in _BY_SIZE[_BY_SIZE.index(request_class) :] if other in routing})


def choose_among(
    pools: Sequence[Iterable[Candidate]], *, larger: int, max_in_flight_per_gpu: int, avoid: Collection[str] = ()
) -> Candidate | None:
    """Return the instance for a request, or None where none has room.

    Of the first pool that has room; but where all of a class's own pool are full by what they carry within the SLO, of the
    nearest larger one that has an instance which is not. A burst of one class finds room that other classes leave.

    Args:
        pools: instances that serve, by pool, in the order of ``pool_order``.
        larger: how many of the first pools serve the class or larger ones.
        max_in_flight_per_gpu: see ``choose``.
        avoid: see ``choose``.
    """
    for place, candidates in enumerate(pools):
        found = choose(candidates, max_in_flight_per_gpu=max_in_flight_per_gpu, avoid=avoid)
        if found is None:
            continue
        if place == 0 and found.is_full:
            for others in pools[1:larger]:
                other = choose(others, max_in_flight_per_gpu=max_in_flight_per_gpu, avoid=avoid)
                if other is not None and not other.is_full:
                    return other
        return found
    return None


def choose(
    candidates: Iterable[Candidate], *, max_in_flight_per_gpu: int, avoid: Collection[str] = ()
) -> Candidate | None:
    """Return the least loaded candidate that has room, or None.

    Load is what it would have in flight with one more request, so that of idle instances the larger is chosen, as a share of
    what it carries within the SLO: an instance of half the GPUs carries less than half. Where that is not known of all,
    per GPU. Equals take turns.

    Args:
        candidates: instances of one pool that are serving.
        max_in_flight_per_gpu: a candidate has room while it has fewer requests than this, times its TP.
        avoid: names of candidates not to choose.
    """
    able = [
        candidate
        for candidate in candidates
        if candidate.name not in avoid and candidate.in_flight < max_in_flight_per_gpu * candidate.tensor_parallel
    ]
    known = all(math.isfinite(candidate.full_in_flight) for candidate in able)

    def load(candidate: Candidate) -> tuple[float, int]:
        carried = candidate.full_in_flight if known else candidate.tensor_parallel
        return (candidate.in_flight + 1) / carried, candidate.last_chosen

    return min(able, key=load, default=None)
