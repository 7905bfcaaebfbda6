"""Whether instances fit on nodes: an instance needs all its GPUs on one node, so 4 + 4 free GPUs take no TP8."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from dynamollm.core.records import Instance, InstanceState, NodeGpus


def fits(wanted: Mapping[int, int], *, bins: Iterable[int]) -> bool:
    """Tell whether instances (TP → how many) fit into bins of GPUs, largest first into the fullest bin that takes them."""
    free = sorted(bins)
    for tensor_parallel in sorted(wanted, reverse=True):
        for _ in range(wanted[tensor_parallel]):
            taken = next((i for i, gpus in enumerate(free) if gpus >= tensor_parallel), None)
            if taken is None:
                return False
            free[taken] -= tensor_parallel
            free.sort()
    return True


def bins(nodes: Iterable[NodeGpus], instances: Iterable[Instance]) -> tuple[int, ...]:
    """Return where a service's instances could be: the free GPUs of every node, and the place of each own instance.

    Which node an own instance is on is not known, so its place is a bin of its own: two of them may free a whole
    node in truth, and that is not counted on.
    """
    own = (instance.tensor_parallel for instance in instances if instance.state is not InstanceState.PENDING)
    return (*(node.free for node in nodes if node.free > 0), *own)


def room_beside(places: tuple[int, ...] | None, taken: Mapping[int, int]) -> Callable[[Mapping[int, int]], bool]:
    """Return whether instances have room beside what others take; everything has where places are unknown (None)."""
    fixed = dict(taken)

    def has_room(wanted: Mapping[int, int]) -> bool:
        together = Counter(fixed)
        together.update(wanted)
        return places is None or fits(together, bins=places)

    return has_room
