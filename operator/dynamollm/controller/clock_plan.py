"""The clock plan: the ladders of all services in one annotation on the agents' DaemonSet.

One patch for whatever changed, at most one in ``COALESCE_S``, and one every third of the lease though nothing changed:
agents go back to default clocks when nobody has renewed it. The annotation is on the DaemonSet's own metadata, since a
change of its pod template would restart every agent.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import Kube, KubeError, path
from dynamollm.api import names
from dynamollm.api.clockplan import ClockGroup, ClockLadderStep, ClockPlan, clock_group_key
from dynamollm.core.records import Ladder

_LOG: Final = logging.getLogger(__name__)

LEASE_S: Final = 900.0
"""Simulated seconds for which agents follow a plan that nobody renews: the operator may be away for a node's drain and
its own restart, and load that doubles meanwhile is met by the ladder's safe clock."""
COALESCE_S: Final = 5.0
"""Simulated seconds between two patches, the paper's interval of the clock level."""
COALESCE_MIN_S: Final = 1.0
"""Wall seconds between two patches at least, however fast simulated time runs."""
MAX_BYTES: Final = 200 * 1024
"""The API server takes 256 KiB of annotations in all."""

Key = tuple[str, str]
"""Namespace and name of a service."""


@dataclass(slots=True)
class ClockPlanPublisher:
    """Keeps the annotation equal to what the services' cycles last said."""

    kube: Kube
    clock: Clock
    namespace: str
    monotonic: Callable[[], float] = time.monotonic
    on_write: Callable[[], None] = lambda: None
    _groups: dict[Key, tuple[float, Mapping[str, ClockGroup]]] = field(default_factory=dict, init=False)
    _published: Mapping[str, ClockGroup] | None = field(default=None, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def resume(self, services: Iterable[Key]) -> None:
        """Take over what a predecessor published for services that still exist, until their own cycles speak.

        Raises:
            KubeError: refused or no answer.
        """
        daemon_set = await self.kube.get(self._path)
        text = ((daemon_set or {}).get("metadata", {}).get("annotations") or {}).get(names.ANNOTATION_CLOCK_PLAN)
        if text is None:
            return
        try:
            plan = ClockPlan.model_validate_json(text)
        except ValidationError as error:
            _LOG.warning("the clock plan on DaemonSet %s is not readable and is replaced: %s", self._path, error)
            return
        self._published = plan.groups
        for service in services:
            prefix = f"{service[0]}/{service[1]}/"
            mine = {key: group for key, group in plan.groups.items() if key.startswith(prefix)}
            if mine and service not in self._groups:
                self._groups[service] = (self.monotonic(), mine)

    def set(self, service: Key, ladders: Mapping[tuple[str, int], Ladder], *, min_mhz: int, max_mhz: int) -> None:
        """Say what the shard groups (pool, TP) of a service should run at; they were looked at just now."""
        groups = {
            clock_group_key(namespace=service[0], service=service[1], pool=pool, tensor_parallel=tp): ClockGroup(
                min_mhz=min_mhz,
                max_mhz=max_mhz,
                safe_mhz=ladder.safe_mhz,
                ladder=tuple(
                    ClockLadderStep(max_tokens_per_second=step.max_tokens_per_s, clock_mhz=step.clock_mhz)
                    for step in ladder.steps
                ),
            )
            for (pool, tp), ladder in ladders.items()
        }
        before = self._groups.get(service)
        self._groups[service] = (self.monotonic(), groups)
        if before is None or before[1] != groups:
            self._changed.set()

    def keep(self, service: Key) -> None:
        """Say that what was said of a service still holds."""
        if service in self._groups:
            self._groups[service] = (self.monotonic(), self._groups[service][1])

    def release(self, service: Key) -> None:
        """Take a service out: its GPUs go back to default clocks."""
        if self._groups.pop(service, None) is not None:
            self._changed.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        lease_s = self.clock.wall(LEASE_S)
        while True:
            try:
                async with asyncio.timeout(lease_s / 3):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.publish()
            except KubeError as error:
                _LOG.warning("the clock plan was not published, next try follows: %s", error)
                self._changed.set()
            await asyncio.sleep(max(COALESCE_MIN_S, self.clock.wall(COALESCE_S)))

    async def publish(self) -> None:
        """Write the annotation now.

        Raises:
            KubeError: refused, no agents' DaemonSet, or no answer.
        """
        groups = self._living()
        if not groups and not self._published:
            return  # no service has clocks, and the annotation says so already, or there is none
        plan = ClockPlan(issued_at=datetime.now(UTC), lease_seconds=self.clock.wall(LEASE_S), groups=groups)
        text = plan.model_dump_json(by_alias=True)
        if len(text) > MAX_BYTES:
            # Without ladders every group runs at its safe clock: more watts, no broken SLO.
            _LOG.error("the clock plan has %d bytes, over %d: published without ladders", len(text), MAX_BYTES)
            bare = {key: group.model_copy(update={"ladder": ()}) for key, group in groups.items()}
            text = plan.model_copy(update={"groups": bare}).model_dump_json(by_alias=True)
        await self.kube.patch(self._path, {"metadata": {"annotations": {names.ANNOTATION_CLOCK_PLAN: text}}})
        self._published = groups
        self.on_write()

    def _living(self) -> dict[str, ClockGroup]:
        """Groups of the services whose cycles still turn: one that has been stuck for a lease steers nothing."""
        oldest_s = self.monotonic() - self.clock.wall(LEASE_S)
        return {
            key: group
            for _, (seen_s, groups) in sorted(self._groups.items())
            if seen_s >= oldest_s
            for key, group in sorted(groups.items())
        }

    @property
    def _path(self) -> str:
        return path("apps/v1", "DaemonSet", namespace=self.namespace, name=names.AGENT_DAEMONSET)
