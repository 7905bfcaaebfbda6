"""Tails of gamma-distributed times, by mean and variance.

The cube root of a gamma variable is nearly normal (Wilson and Hilferty, 1931), and the normal tail is taken as
1 / (1 + exp(1.5976 z + 0.07056 z³)) (error below 2e-4), in single precision and in place: this is the inner loop of planning.
"""

import numpy as np

from dynamollm.core.cells import Singles
from dynamollm.core.normal import MOST_DEVIATIONS

_TINY, _THIRD, _NINE = np.float32(1e-9), np.float32(1 / 3), np.float32(9)
_SCALE = np.float32(0.07056 ** (1 / 3))
_LINEAR, _FARTHEST = np.float32(1.5976) / _SCALE, np.float32(MOST_DEVIATIONS) * _SCALE
"""So that the cubic of the normal tail is y³ + linear · y."""


def cube_root(x: Singles, out: Singles | None = None) -> Singles:
    """Return the cube root of positive numbers, in ``out`` where that is given."""
    root: Singles = np.log(x, out=out)
    root *= _THIRD
    return np.exp(root, out=root)


def normal_of(mean: Singles, variance: Singles) -> tuple[Singles, Singles]:
    """Return factor and offset that make a normal deviation (× ``_SCALE``) of the cube root of a gamma-distributed time."""
    mean = np.maximum(mean, _TINY)
    variance = np.maximum(variance, _TINY)
    ninth: Singles = variance / (mean * mean * _NINE)
    per_deviation: Singles = np.sqrt(ninth)
    np.divide(_SCALE, per_deviation, out=per_deviation)
    offset: Singles = per_deviation - ninth * per_deviation
    return per_deviation / cube_root(mean), offset


def tail(
    root: Singles, factor: Singles, offset: Singles, *, probability: Singles | float = 1.0, out: Singles, room: Singles
) -> Singles:
    """Return, in ``out``, a probability times that to be above ``root``³."""
    np.multiply(root, factor, out=out)
    out -= offset
    np.clip(out, -_FARTHEST, _FARTHEST, out=out)
    np.multiply(out, out, out=room)
    room += _LINEAR
    out *= room
    np.exp(out, out=out)
    out += 1
    return np.divide(probability, out, out=out)
