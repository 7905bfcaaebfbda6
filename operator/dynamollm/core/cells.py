"""Cells of a grid, and their members; see `core.stream` for the words.

What is the same at all points is listed once for each cell: numpy is several times slower where it has to repeat it.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.steptable import Floats

if TYPE_CHECKING:
    from dynamollm.core.stream import Grid

Singles: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.int64]


class Cells:
    """Some cells of a grid, and their members, which are listed when they are first asked for: watts never do.

    Attributes:
        mix_of: [cell]
        point_of: [cell]
        dtype: precision of what is worked out.
    """

    def __init__(self, grid: "Grid", mix_of: Indices, point_of: Indices, dtype: type[np.floating]) -> None:
        self.grid, self.mix_of, self.point_of, self.dtype = grid, mix_of, point_of, dtype

    @cached_property
    def cell_of(self) -> Indices:
        """The cell of each member."""
        counts = self.grid.counts[self.mix_of]
        cells: Indices = np.repeat(np.arange(counts.size), counts)
        return cells

    @cached_property
    def _first(self) -> Indices:
        counts = self.grid.counts[self.mix_of]
        first: Indices = np.cumsum(counts) - counts
        return first

    @cached_property
    def _members(self) -> Indices:
        """Which class of a mix each member is, in the order of ``Grid.class_of``."""
        grid = self.grid
        members: Indices = np.arange(self.cell_of.size) + (grid.first[self.mix_of] - self._first).take(self.cell_of)
        return members

    @cached_property
    def class_of(self) -> Indices:
        """The class of each member."""
        classes: Indices = self.grid.class_of.take(self._members)
        return classes

    @cached_property
    def share(self) -> Floats:
        """The share of each member of the requests of its mix."""
        shares: Floats = self.grid.share.astype(self.dtype).take(self._members)
        return shares

    def each(self, x: Any) -> Any:
        """Return for each member what its cell has."""
        return x.take(self.cell_of)

    def sums(self, x: Floats) -> Floats:
        """Return the sums over the members of each cell."""
        sums: Floats = np.add.reduceat(x, self._first)
        return sums

    def largest(self, x: Floats) -> Floats:
        """Return the largest of the members of each cell."""
        largest: Floats = np.maximum.reduceat(x, self._first)
        return largest

    def of_class_and_point(self, x: Any) -> Any:
        """Return for each member what its class has at its point, [..., class, point] to [..., member]."""
        *more, classes, points = x.shape
        index = self.class_of * points + self.point_of[self.cell_of]
        return x.reshape(*more, classes * points).take(index, axis=-1)

    @cached_property
    def prompt_ms(self) -> Singles:
        """What prompts add to steps, [quadrature, member]."""
        found: Singles = self.of_class_and_point(self.grid.prompt_ms.astype(np.float32))
        return found

    @cached_property
    def more_steps(self) -> Singles:
        """Steps that prompts take beyond the first, [quadrature, member]."""
        found: Singles = self.grid.more_steps.astype(np.float32).take(self.class_of, axis=1)
        return found

    @cached_property
    def prompt_tokens(self) -> Floats:
        """Lengths of prompts, [quadrature, member]."""
        found: Floats = self.grid.prompt_tokens.astype(self.dtype).take(self.class_of, axis=1)
        return found

    @cached_property
    def added_ms(self) -> Floats:
        """What a class's prompts add to steps on average, [member]."""
        found: Floats = self.of_class_and_point(self.grid.class_added[0].astype(self.dtype))
        return found

    @cached_property
    def added_logs(self) -> tuple[Floats, Floats]:
        """Mean and deviation of the logarithm of what a class's prompts add to steps, log-normal by two moments, [member]."""
        first, second, _ = self.grid.class_added
        variance = np.log(np.maximum(second / first**2, 1 + 1e-6))
        logs = np.stack([np.log(first) - variance / 2, np.sqrt(variance)]).astype(self.dtype)
        mean, deviation = self.of_class_and_point(logs)
        return mean, deviation
