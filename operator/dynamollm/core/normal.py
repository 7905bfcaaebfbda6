"""The tail of a normal variable."""

from typing import Final

import numpy as np

from dynamollm.core.steptable import Floats

MOST_DEVIATIONS: Final = 6.0
"""Beyond them a normal variable is taken to be never or always."""


def above_normal(deviations: Floats) -> Floats:
    """Return the probability that a normal variable is so many deviations above its mean."""
    z = np.clip(deviations, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    above: Floats = 1 / (1 + np.exp(z * (1.5976 + 0.07056 * z * z)))  # z**3 takes many times longer
    return above
