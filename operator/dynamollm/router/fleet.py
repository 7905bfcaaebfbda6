"""The instances that exist now, who among them takes requests, and the bounded queue for when all are full.

Fed by watches; asked by every request. Lives on one event loop and is never blocked.
"""

import asyncio
import bisect
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dynamollm.api.names import (
    ANNOTATION_SCHEDULING,
    ANNOTATION_UNROUTED_AT,
    EARLIEST_DEADLINE_FIRST,
    ENGINE_PORT,
    LABEL_POOL,
    LABEL_TENSOR_PARALLEL,
)
from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.selection import Candidate, choose_among, larger_pools, pool_order
from dynamollm.router.errors import RequestRefusedError
from dynamollm.router.routing import Routing, routing_from_config_map

_LOG = logging.getLogger(__name__)

MAX_IN_FLIGHT_PER_GPU: Final = 32
"""Requests inside an instance per GPU of its TP: 256 at TP8, which is vLLM's largest batch."""

MAX_WAITING: Final = 1000
"""Requests that wait for room; beyond, the answer is 503 at once, while clients still listen."""

WAIT_S: Final = 10.0
"""How long a request waits for room, in wall seconds: longer than a burst, shorter than clients' patience."""

SUSPECT_S: Final = 2.0
"""How long an instance that failed is passed over while others serve, in wall seconds: about one readiness period."""


@dataclass(slots=True, eq=False)
class _Waiter:
    request_class: RequestClass
    avoid: Collection[str]
    rank: tuple[float, int]
    """Deadline where the instances serve by it, and order of arrival."""
    granted: asyncio.Future[Candidate] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Fleet:
    """Instances by pool, with a slot count each.

    Args:
        max_in_flight_per_gpu: slots of an instance, per GPU of its TP.
        max_waiting: how many requests may wait for a slot.
        wait_s: how long one may wait, wall seconds.
    """

    def __init__(
        self,
        *,
        max_in_flight_per_gpu: int = MAX_IN_FLIGHT_PER_GPU,
        max_waiting: int = MAX_WAITING,
        wait_s: float = WAIT_S,
    ) -> None:
        self.routing: Routing | None = None
        """The last good routing; None before the first."""
        self._max_in_flight_per_gpu = max_in_flight_per_gpu
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._known: dict[str, Candidate] | None = None
        self._pools: dict[str, list[Candidate]] = {}
        self._order: dict[RequestClass, tuple[str, ...]] = {}
        self._larger: dict[RequestClass, int] = {}
        self._suspects: dict[str, float] = {}
        self._waiters: list[_Waiter] = []
        self._sequence = 0
        self._arrivals = 0

    @property
    def ready(self) -> bool:
        """Whether both the pods and the routing have been seen."""
        return self._known is not None and self.routing is not None

    def known(self) -> Iterator[Candidate]:
        """Return the instances that exist, those that take nothing new included."""
        return iter((self._known or {}).values())

    def pools(self) -> Mapping[str, list[Candidate]]:
        """Return the serving instances by pool; pools that have none are there too."""
        return self._pools

    # ------------------------------------------------------------------ what the watches tell
    def set_pods(self, pods: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in the service's engine pods as they are now."""
        before = self._known or {}
        known: dict[str, Candidate] = {}
        serving: list[Candidate] = []
        for name, pod in pods.items():
            candidate = _candidate(name, pod)
            if candidate is None:
                continue
            old = before.get(name)
            # The object is kept while its address is: streams that are under way hold it.
            known[name] = old if old is not None and old.address == candidate.address else candidate
            if _takes_requests(pod):
                serving.append(known[name])
        self._known = known
        self._suspects = {name: until for name, until in self._suspects.items() if name in known}
        self._arrange(serving)

    def set_routing(self, config_maps: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in the routing ConfigMap (the one in ``config_maps``); a bad or deleted one changes nothing."""
        for config_map in config_maps.values():
            try:
                self.routing = routing_from_config_map(config_map)
            except InvalidInputError as error:
                _LOG.error("routing ignored, the last good one stands: %s", error)
        self._arrange([candidate for serving in self._pools.values() for candidate in serving])

    def _arrange(self, serving: list[Candidate]) -> None:
        routing = self.routing.classes if self.routing is not None else {}
        names = {*routing.values(), *(candidate.pool for candidate in self.known())}
        self._pools = {name: [] for name in sorted(names)}
        for candidate in serving:
            self._pools[candidate.pool].append(candidate)
            full = self.routing.full_in_flight if self.routing is not None else {}
            # One that the plan leaves carries no less than before.
            told = full.get(candidate.pool, {}).get(candidate.tensor_parallel)
            candidate.full_in_flight = candidate.full_in_flight if told is None else told
        self._order = {each: pool_order(each, routing, self._pools) for each in RequestClass}
        self._larger = {each: larger_pools(each, routing) for each in RequestClass}
        self._serve_waiters()

    # ------------------------------------------------------------------ what requests ask
    async def acquire(
        self, request_class: RequestClass, *, avoid: Collection[str] = (), deadline_ms: float = 0.0
    ) -> Candidate:
        """Return an instance for a request, one slot of it taken; :meth:`release` gives it back.

        The class's pool first, then the next larger ones, then any; a larger one too where all of the class's pool have more than
        they carry within the SLO. Waits for room where there is none.

        Args:
            request_class: predicted class of the request.
            avoid: instances that have failed this request; used only when there is no other.
            deadline_ms: of its first token; of those that wait for instances that serve by deadline the earliest is next.

        Raises:
            RequestRefusedError: 503, without any instance, with too many waiting, or after waiting in vain.
        """
        if not any(self._pools.values()):
            raise RequestRefusedError(503, "no instance is serving: try again when one has started")
        # Who waits already comes first.
        candidate = None if self._waiters else self._take(request_class, avoid)
        if candidate is not None:
            return candidate
        if len(self._waiters) >= self._max_waiting:
            raise RequestRefusedError(
                503, f"all instances are full and {len(self._waiters)} requests wait: try again later"
            )
        self._arrivals += 1
        by_deadline = any(candidate.by_priority for serving in self._pools.values() for candidate in serving)
        rank = (deadline_ms if by_deadline else 0.0, self._arrivals)
        return await self._wait(_Waiter(request_class, avoid, rank))

    def release(self, candidate: Candidate) -> None:
        """Give a slot back."""
        candidate.in_flight -= 1
        if self._waiters:
            self._serve_waiters()

    def suspect(self, candidate: Candidate) -> None:
        """Pass over an instance that failed for a short while."""
        self._suspects[candidate.name] = time.monotonic() + SUSPECT_S

    async def _wait(self, waiter: _Waiter) -> Candidate:
        bisect.insort(self._waiters, waiter, key=lambda other: other.rank)
        try:
            async with asyncio.timeout(self._wait_s):
                return await waiter.granted
        except TimeoutError:
            self._give_back(waiter)
            raise RequestRefusedError(
                503, f"all instances have been full for {self._wait_s:g} s: try again later"
            ) from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _give_back(self, waiter: _Waiter) -> None:
        # The slot may have been granted in the same turn of the loop in which the wait ended.
        if waiter.granted.done() and not waiter.granted.cancelled():
            self.release(waiter.granted.result())

    def _serve_waiters(self) -> None:
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.granted.done():
                candidate = self._take(waiter.request_class, waiter.avoid)
                if candidate is None:
                    # Any pool may serve any class: what has no room for the first has none for the others.
                    return
                waiter.granted.set_result(candidate)
            self._waiters.pop(0)

    def _take(self, request_class: RequestClass, avoid: Collection[str]) -> Candidate | None:
        if self._suspects:
            now = time.monotonic()
            self._suspects = {name: until for name, until in self._suspects.items() if until > now}
        refused = {*avoid, *self._suspects}
        # Those to avoid are better than none.
        for avoided in (refused, avoid, ()) if refused else ((),):
            candidate = choose_among(
                [self._pools.get(pool, ()) for pool in self._order[request_class]],
                larger=self._larger[request_class],
                max_in_flight_per_gpu=self._max_in_flight_per_gpu,
                avoid=avoided,
            )
            if candidate is not None:
                self._sequence += 1
                candidate.last_chosen = self._sequence
                candidate.in_flight += 1
                return candidate
        return None


def _candidate(name: str, pod: Mapping[str, Any]) -> Candidate | None:
    labels = pod["metadata"].get("labels") or {}
    address = (pod.get("status") or {}).get("podIP")
    tensor_parallel = labels.get(LABEL_TENSOR_PARALLEL, "")
    if not address or LABEL_POOL not in labels or not tensor_parallel.isdigit():
        return None  # not started, or not ours
    host = f"[{address}]" if ":" in address else address
    return Candidate(
        name=name,
        pool=labels[LABEL_POOL],
        tensor_parallel=max(1, int(tensor_parallel)),
        address=f"{host}:{ENGINE_PORT}",
        by_priority=(pod["metadata"].get("annotations") or {}).get(ANNOTATION_SCHEDULING) == EARLIEST_DEADLINE_FIRST,
    )


def _takes_requests(pod: Mapping[str, Any]) -> bool:
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata or ANNOTATION_UNROUTED_AT in (metadata.get("annotations") or {}):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
