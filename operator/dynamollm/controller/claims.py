"""What each service claims of the GPUs and watts that several share: from the cluster, and the book of grants. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamollm.controller.budget import GpuBook, Key
from dynamollm.core.arbitration import Claim, share

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Holding:
    """One service's part."""

    key: Key
    product: str
    priority: int
    held_gpus: int
    """What its Deployments ask for and its pods hold."""
    granted_gpus: int
    wanted_gpus: int
    floor_gpus: int
    """Of the instances that it always has, at its smallest TP degree."""
    watts: float
    """Expected, for all that it holds."""
    wanted_watts: float

    @property
    def gpus(self) -> int:
        """Held or granted, whichever is more."""
        return max(self.held_gpus, self.granted_gpus)

    @property
    def promised_gpus(self) -> int:
        """Granted and not held yet: free on some node, and this service's."""
        return max(0, self.granted_gpus - self.held_gpus)

    def gpu_claim(self) -> Claim:
        """Return its claim on GPUs."""
        return Claim(
            key=self.key, priority=self.priority, held=self.gpus, wanted=self.wanted_gpus, floor=self._floor_gpus()
        )

    def watt_claim(self) -> Claim:
        """Return its claim on watts; its floor is the share of them that its least instances have of its GPUs."""
        floor = self.watts * self._floor_gpus() / self.gpus if self.gpus else 0.0
        return Claim(key=self.key, priority=self.priority, held=self.watts, wanted=self.wanted_watts, floor=floor)

    def _floor_gpus(self) -> int:
        return min(self.floor_gpus, self.gpus)


def holdings(services: Mapping[Key, Object], *, book: GpuBook, held: Mapping[Key, int]) -> dict[Key, Holding]:
    """Return what each service has and wants; after a restart, what its status expects, until it is planned again."""
    return {key: _holding(key, body, book=book, held=held.get(key, 0)) for key, body in services.items()}


def budget_left(mine: Key, all_of_them: Mapping[Key, Holding], *, total_gpus: int) -> int:
    """Return the GPUs that a service may hold of a budget that all share."""
    free = total_gpus - sum(one.gpus for one in all_of_them.values())
    others = [one.gpu_claim() for key, one in all_of_them.items() if key != mine]
    return int(share(all_of_them[mine].gpu_claim(), others, free=free))


def watts_left(mine: Key, all_of_them: Mapping[Key, Holding], *, total_watts: float) -> float:
    """Return the watts that a service may draw of a budget that all share."""
    free = total_watts - sum(one.watts for one in all_of_them.values())
    others = [one.watt_claim() for key, one in all_of_them.items() if key != mine]
    return max(0.0, share(all_of_them[mine].watt_claim(), others, free=free))


def nodes_left(mine: Key, all_of_them: Mapping[Key, Holding], *, own_gpus: int, free_gpus: int) -> int:
    """Return the GPUs that a service may hold of the nodes of its product.

    ``own_gpus`` is what its pods hold there, ``free_gpus`` what is free.
    """
    me = all_of_them[mine]
    rivals = [one for key, one in all_of_them.items() if key != mine and one.product == me.product]
    # A promise that the nodes cannot keep now (one was cordoned) is nobody else's to make up for.
    free = max(0, free_gpus - sum(one.promised_gpus for one in rivals))
    claim = Claim(key=mine, priority=me.priority, held=own_gpus, floor=min(me.floor_gpus, own_gpus))
    return int(share(claim, [one.gpu_claim() for one in rivals], free=free))


def has_givers(mine: Key, all_of_them: Mapping[Key, Holding]) -> bool:
    """Tell whether any service would give back what this one wants."""
    return any(one.priority < all_of_them[mine].priority and one.gpus > one.floor_gpus for one in all_of_them.values())


def _holding(key: Key, body: Object, *, book: GpuBook, held: int) -> Holding:
    spec, grant = body["spec"], book.of(key)
    if grant is not None:
        # While a service still holds GPUs that its plan leaves, they draw too.
        watts = grant.watts * max(1.0, held / grant.gpus if grant.gpus else 1.0)
    elif spec.get("mode") == "Advise":
        watts = 0.0
    else:
        watts = float(((body.get("status") or {}).get("power") or {}).get("expectedWatts") or 0.0)
    smallest = min(spec["gpu"].get("tensorParallel") or (1,))
    return Holding(
        key=key,
        product=spec["gpu"]["product"],
        priority=spec.get("priority", 0),
        held_gpus=held,
        granted_gpus=0 if grant is None else grant.gpus,
        wanted_gpus=0 if grant is None else grant.wanted_gpus,
        floor_gpus=smallest * spec.get("limits", {}).get("minInstances", 1),
        watts=watts,
        wanted_watts=0.0 if grant is None else grant.wanted_watts,
    )
