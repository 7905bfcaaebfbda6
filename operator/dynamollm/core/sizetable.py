"""What instances carry and draw, for many mixes and TP degrees at once: the table that plans are made from.

What a ladder would do one mix at a time, at fewer clocks and loads: at each load the clock of least power that carries it
with a ladder's headroom. Watts are worked out at a few loads and taken as straight lines between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.capacity import capacity_table, power_table
from dynamollm.core.ladder import HEADROOM, ladder_clocks
from dynamollm.core.pooling import Capacities
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Slo
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import Mixes

UTILISATION_STEPS: Final = 20
"""Watts are asked for at every twentieth of an instance's capacity, and rounded up in between."""

_CLOCKS: Final = 4
"""Clocks at which capacity and watts are worked out, the lowest and the highest of a ladder's among them; at the others
they are taken as straight lines between those."""

_LOADS: Final = (0.05, 0.25, 0.5, 0.75, 1.0)
"""Shares of the capacity at which watts are worked out."""


@dataclass(frozen=True)
class SizeTable:
    """What one instance carries and draws, for many mixes and TP degrees at once."""

    capacity_per_s: Floats
    """[mix, degree] requests/s within the SLO at the highest clock, in the smallest pool that carries the mix; 0.0: none."""
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

    Raises:
        OutOfRangeError: input tokens, a TP degree or the clock are outside the profile.
    """
    every = ladder_clocks(profile)
    places = np.unique(np.round(np.linspace(0, len(every) - 1, _CLOCKS)).astype(int))
    clocks = tuple(every[place] for place in places) if clock_mhz is None else (clock_mhz,)
    found = capacity_table(
        profile, mixes, slo=slo, order=order, tensor_parallel=tensor_parallel, clocks_mhz=clocks, routers=routers
    )
    fastest = Capacities(found.alone_per_s[..., -1], found.gain[..., -1])
    rates = mixes.rate_per_s.sum(axis=1)[:, None]
    capacity = fastest.carrying(rates)
    table = np.minimum(found.in_pool(fastest.fewest(rates)[..., None]), capacity[..., None])
    at = capacity[..., None, None] * np.array(_LOADS)
    some = power_table(
        profile,
        mixes,
        tensor_parallel=tensor_parallel,
        clocks_mhz=clocks,
        rate_per_s=np.broadcast_to(at, (*table.shape, len(_LOADS))),
    )
    idle_w = profile.loaded_idle_w * np.array(tensor_parallel, np.float64)
    nodes = np.concatenate([np.broadcast_to(idle_w[None, :, None, None], (*table.shape, 1)), some], axis=-1)
    steps = np.arange(UTILISATION_STEPS + 1) / UTILISATION_STEPS
    fine = every if clock_mhz is None else clocks
    clock_weights = _between(np.array(clocks, np.float64), np.array(fine, np.float64))
    power = np.swapaxes(np.swapaxes(nodes, -1, -2) @ clock_weights, -1, -2) @ _between(np.array([0.0, *_LOADS]), steps)
    wanted = capacity[..., None, None] * steps
    able = HEADROOM * (table @ clock_weights)[..., None] >= wanted
    able[..., -1, :] = True  # the highest clock is what remains
    return SizeTable(capacity, np.where(able, power, np.inf).min(axis=-2))


def _between(nodes: Floats, wanted: Floats) -> Floats:
    """Return the weights of nodes, [node, wanted], that interpolate linearly."""
    return np.stack([np.interp(wanted, nodes, row) for row in np.eye(nodes.size)])
