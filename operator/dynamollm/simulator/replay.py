"""One trace through one policy: the operator's own decisions on a virtual cluster, at the operator's own cadence.

Each ``CYCLE_S`` the core's ``decide`` and ``steps`` are called with what the operator would see then; every ``clock_s``
the agents' rule sets clocks; in between, the router's rule hands out requests one by one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.actions import clock_ladders, steps
from dynamollm.core.decide import decide, levels_due
from dynamollm.core.profile import Profile
from dynamollm.core.records import InstanceState, Observation, Plan, Service
from dynamollm.simulator.engine_room import EngineRoom
from dynamollm.simulator.fleet_state import ARRIVAL
from dynamollm.simulator.history import BUCKET_S, SCRAPE_S, RouterMetrics
from dynamollm.simulator.keeping import Keeper
from dynamollm.simulator.overheads import Overheads
from dynamollm.simulator.timeline import Timeline
from dynamollm.simulator.virtual_cluster import VirtualCluster, cluster
from dynamollm.simulator.workload import Workload

CYCLE_S: Final = 15.0
"""Between two cycles of the operator. It looks every 5 s by default, and sees what Prometheus scraped every 15 s: in
between there is nothing new but pods."""

_TAIL_S: Final = 900.0
"""How long after the trace's end its last requests may take; nothing is decided any more, and no energy counts."""

_TOLD_TICKS: Final = 64
"""Between two looks at the wall clock."""

_LONG_S: Final = 6 * 3600.0
_SAMPLE_S: Final = (15.0, 60.0)
"""Between samples of the timeline: for traces up to six hours, and for longer ones."""


@dataclass(frozen=True)
class Setup:
    """All that a run depends on: the same setup gives the same result."""

    workload: Workload
    service: Service
    profile: Profile
    overheads: Overheads
    nodes: int
    initial_plan: Plan | None = None
    """In force from the beginning: of policies whose instances are fixed at a peak that they are told."""
    resteer: bool = False
    """Requests that have not begun leave instances whose queue grows."""
    squash: bool = False
    """Those past their TTFT's SLO are given up."""


@dataclass
class Ended:
    """What a run leaves."""

    setup: Setup
    room: EngineRoom
    timeline: Timeline
    energy_j: float
    """Of held GPUs, over the trace."""
    gpu_s: float
    """GPUs held × time."""
    peak_gpus: int
    power_w: NDArray[np.float64]
    """[sample of ``clock_s``], of held GPUs."""
    held_gpus: NDArray[np.int32]
    """[sample of ``clock_s``]."""
    reconfigurations: dict[str, int]
    plans: dict[str, int]
    """How many new plans there were, by reason."""
    wall_s: float


Progress = Callable[[float], None]
"""Told the share of the trace that is done, 0 to 1."""


@dataclass
class _Feed:
    """Arrivals in order, as far as they are needed."""

    workload: Workload
    taken: int = 0
    """Of the workload's chunks."""
    arrivals: NDArray[Any] = field(default_factory=lambda: np.zeros(0, ARRIVAL))
    index: int = 0
    until_s: float = 0.0
    _source: Iterator[tuple[float, NDArray[Any]]] | None = None

    def reach(self, until_s: float) -> None:
        """Have all arrivals up to this moment."""
        while self.until_s < until_s:
            if self._source is None:
                self._source = islice(self.workload.arrivals(), self.taken, None)
            item = next(self._source, None)
            if item is None:
                self.until_s = float("inf")
                return
            self.taken += 1
            self.until_s = item[0]
            self.arrivals = np.concatenate([self.arrivals[self.index :], item[1]])
            self.index = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: chunks that were taken are passed over when it goes on."""
        return {**self.__dict__, "_source": None}


@dataclass
class _Meter:
    """What is counted tick by tick."""

    tick: int = 0
    """The next one."""
    energy_j: float = 0.0
    power_w: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    wall_s: float = 0.0
    """Of the runs before this one, where it goes on."""


class Replay:
    """One run; ``run`` does it all."""

    def __init__(self, setup: Setup) -> None:
        service = setup.service
        gpus = setup.nodes * service.gpus_per_node
        self._setup = setup
        self._room = EngineRoom(
            profile=setup.profile,
            slo=service.slo,
            order=service.order,
            places=max(1, gpus // min(setup.profile.tensor_parallel)),
            clock_s=setup.overheads.clock_s,
        )
        self._cluster: VirtualCluster = cluster(
            nodes=setup.nodes,
            gpus_per_node=service.gpus_per_node,
            overheads=setup.overheads,
            listener=self._room,
        )
        self._metrics = RouterMetrics()
        self._counters = self._room.fleet.by_predicted.copy()
        self._plan = setup.initial_plan
        self._plans: dict[str, int] = {}
        self._settled: object = None
        """What was observed when the last cycle had nothing to do; None: it had."""
        self._feed = _Feed(setup.workload)
        self._meter = _Meter()
        long = setup.workload.trace.duration_s > _LONG_S
        self._timeline = Timeline(step_s=_SAMPLE_S[long])

    def run(self, progress: Progress | None = None, keeper: Keeper | None = None) -> Ended:
        """Run the workload from where it is, at first the beginning of its warm-up, to the end of its last request."""
        began, before_s = time.perf_counter(), self._meter.wall_s
        workload, tick_s = self._setup.workload, self._setup.service.intervals.clock_s
        for tick in range(self._meter.tick, round(workload.end_s / tick_s) + 1):
            self._advance(tick * tick_s)
            self._meter.tick = tick + 1
            if tick % _TOLD_TICKS == 0:
                self._meter.wall_s = before_s + time.perf_counter() - began
                if progress is not None:
                    progress(min(1.0, tick * tick_s / workload.end_s))
                if keeper is not None:
                    keeper.offer(self)
        reconfigurations = {**self._cluster.reconfigurations, "clocks": self._room.clock_changes}
        self._finish(workload.end_s)
        samples, held = np.array(self._meter.power_w), self._meter.held
        return Ended(
            setup=self._setup,
            room=self._room,
            timeline=self._timeline,
            energy_j=float(samples.sum() * tick_s),
            gpu_s=float(sum(held) * tick_s),
            peak_gpus=max(held, default=0),
            power_w=samples,
            held_gpus=np.array(held, np.int32),
            reconfigurations=reconfigurations,
            plans=self._plans,
            wall_s=before_s + time.perf_counter() - began,
        )

    def _advance(self, now_s: float) -> None:
        """Serve what came until now, count, and do what is due."""
        room, meter = self._room, self._meter
        self._feed.reach(now_s)
        self._feed.index = room.serve(self._feed.arrivals, self._feed.index, until_s=now_s)
        time_s = now_s - self._setup.workload.warm_up_s
        total_j = float(room.energy_j().sum())
        if time_s == 0:
            self._begin()
        elif time_s > 0:
            meter.power_w.append((total_j - meter.energy_j) / self._setup.service.intervals.clock_s)
            meter.held.append(self._cluster.held_gpus)
        meter.energy_j = total_j
        self._tick(now_s)
        if time_s > 0 and time_s % self._timeline.step_s == 0:
            self._timeline.take(room, self._cluster, time_s=time_s)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: what was observed is compared by identity, which means nothing elsewhere."""
        return {**self.__dict__, "_settled": None}

    def _begin(self) -> None:
        """Count from here on: the warm-up is over."""
        self._timeline.begin(self._room, time_s=0.0)
        self._room.engines.gaps[:] = 0
        self._room.engines.class_j[:] = 0.0
        self._room.clock_changes = 0
        self._cluster.reconfigurations = dict.fromkeys(self._cluster.reconfigurations, 0)
        self._plans = {}

    def _tick(self, now_s: float) -> None:
        """Do what is due: pods, buckets of load, the operator's cycle, clocks."""
        room, virtual = self._room, self._cluster
        if now_s % BUCKET_S == 0:
            self._counters = room.fleet.by_predicted.copy()
        if now_s > SCRAPE_S and (now_s - SCRAPE_S) % BUCKET_S == 0:
            # One scrape late, as Prometheus tells it.
            self._metrics.add(self._counters, end_s=now_s - SCRAPE_S)
        changed = virtual.tick(now_s)
        if now_s % CYCLE_S == 0:
            changed = self._cycle(now_s) or changed
        if changed:
            room.route(virtual.serving(), virtual.routing)
            if self._plan is not None:
                room.set_full(self._plan)
        room.set_clocks(virtual.ladders, now_s=now_s)
        if self._setup.resteer:
            room.relieve(virtual.routing, drop_late=self._setup.squash, now_s=now_s)

    def _cycle(self, now_s: float) -> bool:
        """Let the operator observe, decide and act; return whether it did anything."""
        virtual = self._cluster
        observation = Observation(
            load=self._metrics.history,
            groups=virtual.groups(),
            instances=virtual.instances(),
            nodes=virtual.nodes(),
            routing=virtual.routing,
            plan=self._plan,
            attainment=self._metrics.attainment,
            settled_attainment=self._metrics.settled_attainment,
        )
        seen = _lasting(observation)
        service, profile = self._setup.service, self._setup.profile
        due = levels_due(self._plan, service, startup_s=profile.startup_s, now_s=now_s)
        if seen is not None and seen == self._settled and not due:
            return False
        plan = decide(
            service,
            profile,
            observation,
            now_s=now_s,
            available_gpus=virtual.held_gpus + virtual.free_gpus,
        )
        if plan is not self._plan:
            self._room.set_full(plan)
            self._plans[plan.reason] = self._plans.get(plan.reason, 0) + 1
        actions = steps(service, plan, observation, now_s=now_s)
        self._settled = seen if plan is self._plan and not actions else None
        self._plan = plan
        virtual.apply(actions, plan, now_s=now_s)
        virtual.ladders = clock_ladders(plan, observation)
        return bool(actions) or virtual.tick(now_s)

    def _finish(self, now_s: float) -> None:
        """Let the last requests end."""
        room = self._room
        end_s = now_s + _TAIL_S
        while room.inside and now_s < end_s:
            now_s += CYCLE_S
            self._feed.index = room.serve(self._feed.arrivals, self._feed.index, until_s=now_s)
        room.give_up(now_s=now_s)


def _lasting(observation: Observation) -> object:
    """Return what a decision depends on besides the time; None where time itself counts: something starts or goes.

    The load is compared by its identity: a history is made once a bucket.
    """
    if any(one.state is not InstanceState.READY or one.unrouted_s is not None for one in observation.instances):
        return None
    return (
        id(observation.load),
        observation.groups,
        tuple(one.name for one in observation.instances),
        observation.nodes,
        tuple(observation.routing.items()),
    )
