"""What instances carry and draw, for many mixes and TP degrees at once: the table that plans are made from.

What a ladder would do one mix at a time, at fewer clocks and loads: at each load the clock of least power that carries it
with a ladder's headroom. Watts are worked out at a few loads and taken as straight lines between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.capacity import capacities, grid_of, powers_w
from dynamollm.core.ladder import ladder_clocks, left_to_clocks
from dynamollm.core.margins import NO_RESERVE, Reserve
from dynamollm.core.pooling import Capacities
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Slo
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import NEWTON, Mixes, Stream

UTILISATION_STEPS: Final = 20
"""Watts are asked for at every twentieth of an instance's capacity, and rounded up in between."""

_CLOCKS: Final = 4
"""Clocks at which capacity and watts are worked out, the lowest and the highest of a ladder's among them; at the others
they are taken as straight lines between those."""

_LOADS: Final = (0.05, 0.25, 0.5, 0.75, 1.0)
"""Shares of the capacity at which watts are worked out."""
_LIGHT: Final = 2
"""So many of them are light: a step less leads to the batch as exactly."""


@dataclass(frozen=True)
class SizeTable:
    """What one instance carries and draws, for many mixes and TP degrees at once."""

    capacity_per_s: Floats
    """[mix, degree] requests/s within the SLO at the highest clock and less the reserve, in the smallest pool that carries the mix; 0.0: none."""
    power_w: Floats
    """[mix, degree, step] watts at step / ``UTILISATION_STEPS`` of that capacity, at the clock of least energy there."""


def size_table(
    profile: Profile,
    mixes: Mixes,
    *,
    slo: Slo,
    order: Order,
    tensor_parallel: Sequence[int],
    clock_mhz: int | None = None,
    routers: int = 1,
    reserve: Reserve = NO_RESERVE,
    known: Capacities | None = None,
) -> SizeTable:
    """Return capacities and watts.

    Args:
        profile: the model.
        mixes: a row each, with the rates of pools: how many instances such a pool has matters to what each carries.
        slo: limits and rule.
        order: of service.
        tensor_parallel: degrees.
        clock_mhz: the only clock that may be used; None: all.
        routers: in front of the pools.
        reserve: what capacities are divided by.
        known: `capacity_table` at all clocks of a ladder, where somebody has worked it out.

    Raises:
        OutOfRangeError: input tokens, a TP degree or the clock are outside the profile.
    """
    every = ladder_clocks(profile) if clock_mhz is None else (clock_mhz,)
    places = np.unique(np.round(np.linspace(0, len(every) - 1, _CLOCKS)).astype(int))
    clocks = tuple(every[place] for place in places)
    stream = grid_of(profile, mixes, tensor_parallel=tensor_parallel, clocks_mhz=clocks).stream()
    shape = mixes.rate_per_s.shape[0], len(tensor_parallel), len(clocks)
    if known is None:
        found = capacities(stream, slo=slo, order=order, routers=routers).shaped(*shape)
    else:
        found = known.at(places)
    fastest = found.at(-1).less(reserve.instances)
    rates = mixes.rate_per_s.sum(axis=1)[:, None]
    capacity = fastest.carrying(rates)
    loads = np.array(_LOADS)[:, None] * np.repeat(capacity, len(clocks))
    idle_w = np.repeat(profile.loaded_idle_w * np.array(tensor_parallel, np.float64), len(clocks))
    watts = _watts(stream, loads, few=known is not None)
    nodes = np.concatenate([np.tile(idle_w.astype(watts[0].dtype), shape[0])[None], *watts])
    steps = np.arange(UTILISATION_STEPS + 1) / UTILISATION_STEPS
    # By step first: there are few of them.
    power = _lines(nodes, np.interp(steps, (0.0, *_LOADS), np.arange(len(nodes)))).reshape(-1, *shape)
    if len(clocks) == 1:
        return _table(capacity, power[..., 0])
    # In parts of instances: with a whole one more, all of a pool's clocks would be lower at once.
    company = found.less(reserve.clocks, pooled=reserve.pooled).in_pool(fastest.parts(rates)[..., None])
    at_clocks = left_to_clocks(company, rule=slo.rule)
    able = _lines(np.moveaxis(at_clocks, -1, 0), np.interp(every, clocks, np.arange(len(clocks))))
    least = _least(power, able, steps[:, None, None] * capacity, places=places)
    return _table(capacity, least)


def _table(capacity: Floats, power_w: Floats) -> SizeTable:
    """Return the table of watts by step first."""
    return SizeTable(capacity, np.ascontiguousarray(np.moveaxis(power_w, 0, -1), dtype=np.float64))


def _watts(stream: Stream, loads: Floats, *, few: bool) -> tuple[Floats, ...]:
    """Return the watts at these loads, [load, cell], in parts; of few mixes, which may be pools, in double precision."""
    if few:
        return (powers_w(stream, loads),)
    single, loads = stream.single(), loads.astype(np.float32)
    return (
        powers_w(single, loads[:_LIGHT], newton=NEWTON - 1),
        powers_w(single, loads[_LIGHT:]),
    )


def _least(power: Floats, able: Floats, wanted: Floats, *, places: NDArray[np.int64]) -> Floats:
    """Return the least watts at the clocks that are able, [step, mix, degree].

    A clock is able where it and all above it carry what is wanted; the highest is what remains. Between the clocks where
    they were worked out, watts are straight lines: they are least at one of those, or at the lowest that is able.

    Args:
        power: [step, mix, degree, place] watts.
        able: [clock, mix, degree] requests/s.
        wanted: [step, mix, degree] requests/s.
        places: which of the clocks watts were worked out at.
    """
    lowest = np.zeros(wanted.shape, dtype=np.int8)
    carried = np.full(wanted.shape[1:], np.inf)
    for carries in able[-2::-1]:
        carried = np.minimum(carried, carries)
        lowest += carried < wanted
    segments = np.maximum(np.searchsorted(places, np.arange(len(able))), 1)
    shares = (np.arange(len(able)) - places[segments - 1]) / (places[segments] - places[segments - 1])
    right, share = segments.take(lowest), shares.astype(power.dtype).take(lowest)
    # From the flat array: several times faster than along an axis.
    right += np.arange(0, power.size, len(places)).reshape(lowest.shape)
    low, high = (power.take(side) for side in (right - 1, right))
    least: Floats = low + share * (high - low)
    for index, place in enumerate(places):
        np.minimum(least, power[..., index], out=least, where=place >= lowest)
    return least


def _lines(nodes: Floats, at: Floats) -> Floats:
    """Return what straight lines between nodes, [node, …], have at places counted in nodes, [place, …]."""
    left = np.minimum(at.astype(np.int64), len(nodes) - 2)
    share = (at - left).astype(nodes.dtype).reshape(-1, *(1,) * (nodes.ndim - 1))
    lines: Floats = nodes[left] + share * np.diff(nodes, axis=0)[left]
    return lines
