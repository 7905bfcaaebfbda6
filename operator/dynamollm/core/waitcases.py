"""The cases of a wait as the members of cells meet them, and how likely it is above a slack: the inner loop of planning."""

from collections.abc import Sequence

import numpy as np

from dynamollm.core.cells import Indices, Singles
from dynamollm.core.gamma import cube_root, normal_of, tail
from dynamollm.core.residual import Leftover
from dynamollm.core.stream import Stream
from dynamollm.core.waiting import Waits

_TINY = np.float32(1e-9)
_HALF, _TWELFTH = np.float32(1 / 2), np.float32(1 / 12)
_NOTHING, _ENDLESS = np.float32(0.0), np.float32(np.inf)


class Cases:
    """The cases of a wait, as members meet them: [member]."""

    def __init__(
        self, stream: Stream, found: Waits, rows: Indices, more: tuple[Singles, Singles] | None = None
    ) -> None:
        """Take ``more`` (mean and variance) on top of each wait; None: nothing, for sure.

        Args:
            stream: cells.
            found: waits by group and cell.
            rows: of each member, its group and cell as one.
            more: [member]
        """
        waits, cells = [found.queued], stream.cell_of
        quiet = 1 - found.queued.probability
        if found.later is not None:
            waits.append(found.later)
            quiet = quiet - found.later.probability
        self._leftover: Leftover | None = None
        if found.whole is not None and more is None:
            waits, self._leftover = [found.whole.more], Leftover(stream, found.whole.one)

        def each(x: Singles) -> Singles:
            picked: Singles = x.ravel().take(rows if x.ndim > 1 else cells)
            return picked

        self._queued: list[tuple[Singles, Singles, Singles]] = []
        """Probability, and what makes a normal deviation."""
        for case in waits:
            probability, mean, variance = (
                one.astype(np.float32) for one in (case.probability, case.mean, case.variance)
            )
            if more is None:
                factor, offset = (each(one) for one in normal_of(mean, variance))
            else:
                factor, offset = normal_of(each(mean) + more[0], each(variance) + more[1])
            self._queued.append((each(probability), factor, offset))
        step: Singles = each(found.quiet_ms.astype(np.float32)) + _TINY
        square: Singles = step * step
        self._quiet = each(quiet.astype(np.float32))
        self._per_step = self._quiet / step
        self._normal = None if more is None else normal_of(more[0] + step * _HALF, more[1] + square * _TWELFTH)
        """Where nothing else varies, the wait for the step under way is uniform."""

    def over(self, slack: Singles, rooms: Sequence[Singles]) -> Singles:
        """Return P(wait > slack), [length, member], in one of the rooms."""
        root, total, above, room = rooms
        np.clip(slack, _TINY, _ENDLESS, out=slack)  # np.maximum takes twice as long
        cube_root(slack, out=root)
        if self._normal is None:
            np.multiply(slack, self._per_step, out=total)
            np.subtract(self._quiet, total, out=total)
            np.clip(total, _NOTHING, _ENDLESS, out=total)
        else:
            tail(root, *self._normal, probability=self._quiet, out=total, room=room)
        for probability, factor, offset in self._queued:
            total += tail(root, factor, offset, probability=probability, out=above, room=room)
        if self._leftover is not None:
            total += self._leftover.over(slack)
        return total
