"""A wait by probability, mean and mean square; see `core.stream` for shapes and units."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dynamollm.core.steptable import Floats

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait that comes with some probability, [..., cell]."""

    probability: Floats
    mean: Floats
    """Where it comes."""
    square: Floats
    """Its mean square."""

    @property
    def variance(self) -> Floats:
        """Of the wait."""
        variance: Floats = np.maximum(self.square - self.mean * self.mean, _TINY)
        return variance

    @classmethod
    def any_of(cls, *waits: "Wait") -> "Wait":
        """Return the wait that is one of these, which exclude each other."""
        probability = np.maximum(sum(one.probability for one in waits), _TINY)
        mean, square = (
            sum(one.probability * moment for one, moment in zip(waits, moments, strict=True)) / probability
            for moments in zip(*((one.mean, one.square) for one in waits), strict=True)
        )
        return cls(probability, mean, square)
