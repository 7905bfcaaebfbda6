"""One cycle of the agent: look at GPUs, pods and engines; choose clocks; apply them; account.

What is not known is never taken for zero: an engine that does not answer runs at its safe clock, a kubelet that does
not answer leaves the last known holders for a few cycles and then means that no GPU is surely ours.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.nodewatch import NodeWatch
from dynamollm.adapters.nvml import ClockLimit, GpuError, GpuReading, Gpus
from dynamollm.adapters.podresources import GpuHolding, PodResources
from dynamollm.agent.clocks import ClockControl, Outcome, unreached
from dynamollm.agent.energy import Consumer, EnergyAccount
from dynamollm.agent.instances import Instance, Refusal, local_instances, refusals
from dynamollm.agent.load import EngineMetrics
from dynamollm.agent.plan import PlanReader, clock_for
from dynamollm.api.clockplan import ClockPlan, clock_group_key
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.loadmeter import EngineLoad, LoadMeter

_LOG: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

HOLDINGS_GRACE_CYCLES: Final = 3
"""For how many cycles the kubelet may be silent before its last answer no longer counts: a restart takes seconds."""


@dataclass(slots=True)
class NodeView:
    """What the last cycle saw and did; what the metrics show."""

    readings: Mapping[str, GpuReading] = field(default_factory=dict)
    locks_mhz: Mapping[str, int] = field(default_factory=dict)
    unreached: Mapping[str, ClockLimit] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    consumers: Mapping[str, Consumer] = field(default_factory=dict)
    """Who holds each GPU alone (UUID)."""
    plan_ends_s: float | None = None
    """Unix seconds of wall time; None: no plan in force."""


@dataclass(slots=True)
class Totals:
    """What has happened since this agent started."""

    cycles: int = 0
    seconds: float = 0.0
    """Wall seconds spent in cycles."""
    clock_changes: dict[str, int] = field(default_factory=dict)
    locks_lost: dict[str, int] = field(default_factory=dict)
    errors: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (GPU UUID or empty, reason)."""


class Agent:
    """The agent of one node."""

    def __init__(
        self,
        *,
        gpus: Gpus,
        control: ClockControl,
        watch: NodeWatch,
        pod_resources: PodResources,
        metrics: EngineMetrics,
        clock: Clock,
        nvml_thread: Executor,
    ) -> None:
        self._gpus = gpus
        self._control = control
        self._watch = watch
        self._pod_resources = pod_resources
        self._metrics = metrics
        self._clock = clock
        self._nvml_thread = nvml_thread
        self._plan = PlanReader()
        self._holdings: tuple[GpuHolding, ...] = ()
        self._silent_cycles = 0
        self._meters: dict[tuple[str, str], LoadMeter] = {}
        self._told: dict[str, object] = {}
        self.view = NodeView()
        self.totals = Totals()
        self.account = EnergyAccount()

    async def cycle(self) -> None:
        """Do everything once."""
        started = time.monotonic()
        await self._refresh_holdings()
        readings = await self._in_nvml_thread(self._read_gpus)
        instances = local_instances(holdings=self._holdings, pods=self._watch.pods)
        refused = refusals(instances=instances, holdings=self._holdings, readings=readings)
        plan = self._plan.in_force(self._watch.clock_plan, wall_s=time.time())
        if self._plan.unreadable:
            self._count_error("", "PlanUnreadable")
        loads = await self._loads(instances)
        wanted = self._wanted(plan, instances, loads, refused)
        await self._in_nvml_thread(lambda: self._apply(wanted, readings))
        consumers = {
            uuid: _consumer(instance)
            for instance in instances
            for uuid in instance.gpus
            if uuid in readings and uuid not in refused
        }
        self.account.add(readings=readings, consumers=consumers)
        locks = self._control.in_force_mhz
        self.view = NodeView(
            readings=readings,
            locks_mhz=locks,
            unreached=unreached(locks, readings),
            refused=refused,
            consumers=consumers,
            plan_ends_s=self._plan.ends_s(plan) if plan else None,
        )
        self._tell()
        self.totals.cycles += 1
        self.totals.seconds += time.monotonic() - started

    @property
    def recorded(self) -> Collection[str]:
        """GPUs that may still be locked by us."""
        return self._control.recorded

    async def release(self) -> None:
        """Give every lock back."""
        await self._in_nvml_thread(lambda: self._apply({}, {}))

    # ------------------------------------------------------------ looking
    async def _refresh_holdings(self) -> None:
        try:
            self._holdings = await self._pod_resources.gpu_holdings()
        except UnknownDataError as error:
            self._count_error("", "PodResourcesSilent")
            self._silent_cycles += 1
            if self._silent_cycles == HOLDINGS_GRACE_CYCLES:
                _LOG.warning("no GPU is surely ours any more, all locks are given back: %s", error)
            if self._silent_cycles >= HOLDINGS_GRACE_CYCLES:
                self._holdings = ()
        else:
            self._silent_cycles = 0

    def _read_gpus(self) -> dict[str, GpuReading]:
        readings = {}
        try:
            # Those that we may have locked are looked for by name: a lost GPU is not in NVML's list.
            uuids = {*self._gpus.uuids(), *self._control.recorded}
        except GpuError as error:
            self._count_error("", error.reason)
            return {}
        for uuid in sorted(uuids):
            try:
                readings[uuid] = self._gpus.read(uuid)
            except GpuError as error:
                self._count_error(uuid, error.reason)
        return readings

    async def _loads(self, instances: Collection[Instance]) -> dict[tuple[str, str], EngineLoad]:
        """Read all local engines at once; one that does not answer is missing from the result."""
        keys = {(instance.pod.namespace, instance.pod.name): instance.pod for instance in instances}
        self._meters = {key: self._meters.get(key) or LoadMeter() for key in keys}
        answers = await asyncio.gather(
            *(self._load(key, pod.ip, pod.metrics_path) for key, pod in keys.items() if pod.ip is not None),
        )
        return {key: load for key, load in answers if load is not None}

    async def _load(
        self, key: tuple[str, str], ip: str, metrics_path: str
    ) -> tuple[tuple[str, str], EngineLoad | None]:
        try:
            sample = await self._metrics.read(ip, metrics_path)
        except UnknownDataError:
            self._count_error("", "EngineMetricsUnknown")
            return key, None
        return key, self._meters[key].add(sample, now_s=self._clock.sim(time.monotonic()))

    # ------------------------------------------------------------ choosing
    def _wanted(
        self,
        plan: ClockPlan | None,
        instances: Collection[Instance],
        loads: Mapping[tuple[str, str], EngineLoad],
        refused: Mapping[str, Refusal],
    ) -> dict[str, int]:
        """Return the clock of every GPU that is ours alone and that the plan names: UUID → MHz."""
        wanted: dict[str, int] = {}
        locks = self._control.in_force_mhz
        for instance in instances:
            pod = instance.pod
            key = clock_group_key(
                namespace=pod.namespace, service=pod.service, pool=pod.pool, tensor_parallel=pod.tensor_parallel
            )
            group = plan.groups.get(key) if plan else None
            # A tensor-parallel instance is as fast as its slowest GPU: all of them are clocked alike, or none.
            if group is None or any(uuid in refused for uuid in instance.gpus):
                continue
            current = [locks[uuid] for uuid in instance.gpus if uuid in locks]
            clock_mhz = clock_for(
                group, loads.get((pod.namespace, pod.name)), current_mhz=min(current) if current else None
            )
            wanted.update(dict.fromkeys(instance.gpus, clock_mhz))
        return wanted

    # ------------------------------------------------------------ doing
    async def _in_nvml_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._nvml_thread, work)

    def _apply(self, wanted: Mapping[str, int], readings: Mapping[str, GpuReading]) -> None:
        try:
            outcome = self._control.apply(wanted, readings=readings)
        except OSError as error:
            self._count_error("", "JournalUnwritable")
            _LOG.warning("locks were not recorded, so none was set: %s", error)
            return
        self._account_for(outcome)

    def _account_for(self, outcome: Outcome) -> None:
        for uuid in (*outcome.locked, *outcome.reset):
            self.totals.clock_changes[uuid] = self.totals.clock_changes.get(uuid, 0) + 1
        for uuid in outcome.lost:
            self.totals.locks_lost[uuid] = self.totals.locks_lost.get(uuid, 0) + 1
        for uuid, reason in outcome.errors.items():
            self._count_error(uuid, reason)
        if outcome.locked or outcome.reset or outcome.lost:
            _LOG.info(
                "clocks changed",
                extra={"fields": {"locked": outcome.locked, "reset": outcome.reset, "lost": outcome.lost}},
            )

    def _tell(self) -> None:
        """Log what is in force whenever that changes."""
        state: dict[str, object] = {
            "plan": "in force" if self.view.plan_ends_s is not None else "none: default clocks",
            "refused": dict(self.view.refused),
            "unreached": dict(self.view.unreached),
            "gpus": len(self.view.readings),
        }
        if state != self._told:
            self._told = state
            _LOG.info("node state", extra={"fields": state})

    def _count_error(self, uuid: str, reason: str) -> None:
        self.totals.errors[uuid, reason] = self.totals.errors.get((uuid, reason), 0) + 1


def _consumer(instance: Instance) -> Consumer:
    pod = instance.pod
    return Consumer(namespace=pod.namespace, service=pod.service, pool=pod.pool, tensor_parallel=pod.tensor_parallel)
