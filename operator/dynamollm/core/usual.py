"""Where the search for the largest batches of many mixes begins: what it finds for mixes of the same classes with the usual shares.

Worked out once for an SLO, a profile and its points. The shares and lengths of a service are others, which costs evaluations and no
exactness: the search ends by its own bounds.
"""

from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.largest import Guess, largest
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Slo, SloRule
from dynamollm.core.stream import Grid, Stream, mixes_of
from dynamollm.core.violation import Limits, limits_of

MANY: Final = 64
"""Mixes: for fewer the usual ones, all subsets of nine classes, are not worth working out."""

_CLASSES: Final = tuple(RequestClass)
_KEPT: Final = 32
"""Of the usual batches in memory, 0.1 MB each."""

_SloKey: TypeAlias = tuple[float, SloRule, tuple[float, ...], tuple[float, ...]]


def usual_guess(stream: Stream, limits: Limits) -> Guess:
    """Return where the search may begin in all cells of a grid."""
    grid = stream.grid
    usual = _usual(grid.profile, _key(limits.slo), limits.order, grid.tensor_parallel, grid.clocks_mhz)
    masks = (grid.shares > 0) @ np.array([1 << _CLASSES.index(c) for c in grid.mixes.classes])
    return Guess(usual.logarithm[masks].ravel(), usual.slope[masks].ravel())


def _key(slo: Slo) -> _SloKey:
    limits = (tuple(of[c] for c in _CLASSES) for of in (slo.ttft_ms, slo.tbt_ms))
    return slo.percentile, slo.rule, *limits  # type: ignore[return-value]


@lru_cache(maxsize=_KEPT)
def _usual(
    profile: Profile, slo: _SloKey, order: Order, tensor_parallel: tuple[int, ...], clocks_mhz: tuple[int, ...]
) -> Guess:
    """Return the same of all mixes of the usual shares, [mask of the classes, point]; nothing is known of the first, of no class."""
    percentile, rule, ttft_ms, tbt_ms = slo
    lengths = typical_lengths(ClassBoundaries())
    masks = np.arange(1, 1 << len(_CLASSES))
    member = masks[:, None] >> np.arange(len(_CLASSES)) & 1
    mixes = mixes_of({c: lengths[c] for c in _CLASSES}, member * np.array([PRIOR_SHARE[c] for c in _CLASSES]))
    grid = Grid(profile, mixes, tensor_parallel=tensor_parallel, clocks_mhz=clocks_mhz)
    limits = Slo(
        ttft_ms=dict(zip(_CLASSES, ttft_ms, strict=True)),
        tbt_ms=dict(zip(_CLASSES, tbt_ms, strict=True)),
        percentile=percentile,
        rule=rule,
    )
    found = largest(grid.stream(), limits_of(grid, limits, order))
    by_mask = (one.reshape(masks.size, -1) for one in (np.log(found.share), found.slope))
    return Guess(*(np.concatenate([np.ones_like(one[:1]), one]) for one in by_mask))
