"""How lengths vary within a class."""

from functools import cache
from typing import Final

import numpy as np

from dynamollm.core.classes import Length, RequestClass
from dynamollm.core.steptable import Floats

INPUT_BOUNDS: Final = {Length.SHORT: (1.0, 256.0), Length.MEDIUM: (256.0, 1024.0), Length.LONG: (1024.0, 8192.0)}
OUTPUT_BOUNDS: Final = {Length.SHORT: (1.0, 100.0), Length.MEDIUM: (100.0, 350.0), Length.LONG: (350.0, 2048.0)}
LENGTH_CV: Final = 0.5
_LEAST_CV: Final = 0.05
_LENGTHS, _FARTHEST = 24, 4.0
"""Lengths that stand for a class's rare ones too, and how many deviations from the middle they go."""
_CUT: Final = 1.3
"""What lengths vary by more where the bounds cut off what is beyond them: then they vary as much as was counted."""
_BELOW, _ABOVE = 0.9, 0.75
"""Lengths within a class vary less the nearer their mean is to the class's bounds: their coefficient of variation is
about the least of 0.5 and these shares of the distance to the bounds over the mean. Over the classes of the Azure
conversations of 2023 this is within 0.1 of what was counted (0.05 for ML, whose mean is 985, to 0.5)."""


@cache
def bounds_of(classes: tuple[RequestClass, ...]) -> tuple[Floats, Floats]:
    """Return the least and the most tokens of inputs and of outputs, [end, class]."""
    inputs, outputs = [INPUT_BOUNDS[c.input_length] for c in classes], [OUTPUT_BOUNDS[c.output_length] for c in classes]
    return np.array(inputs).T, np.array(outputs).T


def bounds(means: Floats, of_class: Floats) -> tuple[Floats, Floats]:
    """Return the least and the most tokens by class; a mean outside its class's bounds tells nothing of them."""
    least, most = of_class
    inside = (means >= least) & (means <= most)
    return np.where(inside, least, 1.0), np.where(inside, most, np.inf)


def variation(means: Floats, of_class: Floats) -> Floats:
    """Return coefficients of variation by class; the largest for a mean outside its class's bounds."""
    least, most = of_class
    near = np.minimum(_BELOW * (means - least), _ABOVE * (most - means)) / means
    inside = (means >= least) & (means <= most)
    return np.where(inside, np.clip(near, _LEAST_CV, LENGTH_CV), LENGTH_CV)


def within(means: Floats, of_class: Floats, *, most: float) -> tuple[Floats, Floats]:
    """Return lengths that stand for a class's, as many as its rare long ones take, and their weights, [length, class].

    Log-normal and between the class's bounds, with the mean as it is.

    Args:
        means: [class] tokens.
        of_class: [end, class] least and most tokens.
        most: of any class.
    """
    least, last = bounds(means, of_class)
    last = np.minimum(last, most)
    sigma = _CUT * np.sqrt(np.log(1 + variation(means, of_class) ** 2))
    middle = np.log(np.maximum(means, 1.0)) - sigma**2 / 2
    low, high = (np.clip((np.log(end) - middle) / sigma, -_FARTHEST, _FARTHEST) for end in (least, last))
    places, weights = np.polynomial.legendre.leggauss(_LENGTHS)
    z = (low + high) / 2 + np.outer(places, (high - low) / 2)
    weights = weights[:, None] * np.exp(-(z**2) / 2)
    weights /= weights.sum(axis=0)
    tokens = np.exp(middle + sigma * z)
    tokens *= means / (weights * tokens).sum(axis=0)
    return np.clip(tokens, least, last), weights
