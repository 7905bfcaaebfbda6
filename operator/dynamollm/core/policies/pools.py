"""Which classes share a pool, where that is a rule: all of them, none of them, or the small ones with the next larger.

A class that nobody asks anything of needs no pool: it goes with the next larger class that has one, or the largest.
"""

from collections.abc import Sequence
from typing import Final

from dynamollm.core.classes import RequestClass
from dynamollm.core.policies.base import Situation
from dynamollm.core.policies.filling import Classes, Loads, Partition
from dynamollm.core.policies.levels import Considered
from dynamollm.core.sizing import rate_per_s

ORDER: Final = tuple(RequestClass)


def one_pool(_s: Situation, _loads: Loads) -> Considered:
    """Return all classes together."""
    return Considered([(tuple(RequestClass),)])


def one_per_class(s: Situation, loads: Loads) -> Considered:
    """Return a pool for every class that is asked for, or that has one already."""
    return Considered([_apart(s, loads)])


def _apart(s: Situation, loads: Loads) -> Partition:
    # A pool is that of the largest class it was planned for; where nobody asks for any of them now, it stays nevertheless.
    current = s.current.pools if s.current else ()
    own = {max(pool.load or pool.classes, key=ORDER.index) for pool in current if pool.load or len(current) > 1}
    return with_riders([(c,) for c in RequestClass if c in own or loads((c,))])


def with_riders(pools: Sequence[Classes]) -> Partition:
    """Return the pools with the classes that are in none: each goes with the next larger class, or the largest pool.

    Pools come back in the order of their largest class, after which they are called.
    """
    home = {request_class: index for index, classes in enumerate(pools) for request_class in classes}
    if not home:
        return (tuple(RequestClass),)
    members: list[list[RequestClass]] = [[] for _ in pools]
    waiting: list[RequestClass] = []
    last = 0
    for request_class in RequestClass:
        waiting.append(request_class)
        if request_class in home:
            last = home[request_class]
            members[last] += waiting
            waiting = []
    members[last] += waiting
    return tuple(tuple(one) for one in sorted(members, key=lambda classes: ORDER.index(classes[-1])))


def merged_small(s: Situation, loads: Loads, *, unit_tp: int) -> Partition:
    """Return one pool per class, those that would not fill one instance of this TP merged into the next larger."""
    pools: list[Classes] = []
    carried: Classes = ()
    for request_class in RequestClass:
        carried = (*carried, request_class)
        load = loads(carried)
        # Capacity alone, not ``Filler.size``: most of these prefixes become no pool.
        capacity = s.sizing.capacity_per_s(load=load, tensor_parallel=unit_tp) if load else 0.0
        if 0 < capacity <= rate_per_s(load):
            pools.append(carried)
            carried = ()
    if carried and pools and not loads(carried):
        # Nobody asks for the largest classes: they need no pool of their own.
        carried = (*pools.pop(), *carried)
    if carried:
        pools.append(carried)
    return tuple(pools)


def merged_to(s: Situation, loads: Loads, *, pools: int) -> Partition:
    """Return so many pools (fewer where fewer classes are asked for): the emptiest goes with the next larger, again and again."""
    largest = max(s.service.tensor_parallel)
    parts = [*_apart(s, loads)]

    def filled(classes: Classes) -> float:
        load = loads(classes)
        capacity = s.sizing.capacity_per_s(load=load, tensor_parallel=largest) if load else 0.0
        return rate_per_s(load) / capacity if capacity > 0 else 0.0

    while len(parts) > pools:
        emptiest = min(range(len(parts) - 1), key=lambda index: filled(parts[index]))
        parts[emptiest : emptiest + 2] = [(*parts[emptiest], *parts[emptiest + 1])]
    return with_riders(parts)
