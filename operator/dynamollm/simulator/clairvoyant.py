"""A bound to compare with: perfect knowledge of each epoch's load, and changes that take no time.

In every epoch the planner's own optimum (``Joint``) for the load that will truly come, freshly decided, without what
damps a real operator; instances are there at once and leave as soon as their last request has ended. Clocks follow the
agents' rule, requests come one by one as they do for everybody: bursts within an epoch are not known ahead. How much is
kept for those is known, though: the least with which this trace's requests keep their SLO.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from dynamollm.core.actions import clock_ladders
from dynamollm.core.decide import decide_with, measured, sizing_of
from dynamollm.core.margins import reserve
from dynamollm.core.records import Observation, Plan, PolicyName
from dynamollm.simulator.overheads import Overheads
from dynamollm.simulator.replay import Ended, Progress, Replay, Setup
from dynamollm.simulator.result import Result
from dynamollm.simulator.survey import WINDOW_S, Survey, constant_history
from dynamollm.simulator.virtual_cluster import Key

NAME: Final = "Clairvoyant"

RESERVES: Final = (*(round(0.7 + 0.05 * step, 2) for step in range(19)), 1.75, 2.0, 2.5, 3.0, 4.0)
"""Of everybody's reserve (`core.margins`). The bound has the least with which the SLO is kept, bursts within an epoch included: these alone
are left to it, as it knows the load and needs no upper band of it."""
_FIRST: Final = RESERVES.index(1.15)
"""Next to what is mostly needed."""


@dataclass
class Search:
    """The least reserve that keeps the SLO, step by step; kept with each run, so that a killed one goes on.

    Energy grows with the reserve. Attainment does not always (other pools are planned), which rules out bisection: with a tenth more
    the hour of 2023 misses its SLO by half a point.
    """

    kept: int | None = None
    """The least of ``RESERVES`` that was seen to keep it."""
    missed: int | None = None
    """The largest that was seen to miss it."""
    wall_s: float = 0.0
    """Of the runs that have ended."""
    tried: int = 0
    best: tuple[Result, Ended] | None = None
    """Of the least that keeps it, else of the largest that was tried."""

    @property
    def reserve(self) -> float | None:
        """What to try next; None: the search is over."""
        index = self._next()
        return None if index is None else RESERVES[index]

    def _next(self) -> int | None:
        if self.kept is None:
            index = _FIRST if self.missed is None else self.missed + 1
            return index if index < len(RESERVES) else None
        return self.kept - 1 if self.missed is None and self.kept > 0 else None

    def take(self, result: Result, ended: Ended) -> None:
        """Take in how the run with ``reserve`` ended."""
        if result.meets_slo:
            self.kept = self._next()
        else:
            self.missed = self._next()
        if result.meets_slo or self.kept is None:
            self.best = (result, ended)
        self.tried += 1
        self.wall_s += ended.wall_s

    def told(self, progress: Progress) -> Progress:
        """Return what a run tells its progress: how many runs there will be is not known, so each is half of what is left."""
        left = 0.5**self.tried
        return lambda share: progress(1 - left + share * left / 2)


class Clairvoyant(Replay):
    """A replay that knows the load to come."""

    def __init__(self, setup: Setup, seen: Survey, search: Search, *, reserve: float) -> None:
        super().__init__(
            replace(
                setup,
                service=replace(setup.service, policy=PolicyName("Joint")),
                overheads=Overheads(startup_s=0.0, reshard_s=0.0, clock_s=0.0),
            )
        )
        self.search = search
        self._seen = seen
        self._reserve = reserve
        self._epoch: int | None = None

    def _cycle(self, now_s: float) -> bool:
        virtual = self._cluster
        epoch = self._epoch_at(now_s)
        changed = False
        if epoch != self._epoch:
            self._epoch = epoch
            self._plan = self._best(epoch, now_s)
            self._shape(self._plan, now_s)
            changed = True
        drained = [
            pod for pod in virtual.pods.values() if pod.unrouted_s is not None and self._room.in_flight(pod) == 0
        ]
        for pod in drained:
            virtual.remove(pod.name, now_s=now_s)
        return changed or bool(drained)

    def _epoch_at(self, now_s: float) -> int:
        """Return the window of the trace; before it, of what is mirrored."""
        time_s = abs(now_s - self._setup.workload.warm_up_s)
        return min(int(time_s // WINDOW_S), len(self._seen.requests) - 1)

    def _best(self, epoch: int, now_s: float) -> Plan:
        virtual = self._cluster
        observation = Observation(
            load=constant_history(self._seen.load(epoch), now_s=now_s),
            groups=(),
            instances=(),
            nodes=virtual.empty_nodes(),
            routing={},
        )
        profile = self._setup.profile
        service = measured(self._setup.service, profile)
        kept = reserve(chunked=profile.interleaves_prefill, order=service.order, rule=service.slo.rule)
        return decide_with(
            service,
            sizing_of(service, profile, reserve=kept.times(self._reserve)),
            observation,
            now_s=now_s,
            available_gpus=virtual.held_gpus + virtual.free_gpus,
            basis=NAME,
        )

    def _shape(self, plan: Plan, now_s: float) -> None:
        """Make the cluster what the plan says, at once."""
        virtual = self._cluster
        wanted: Mapping[Key, int] = {
            (pool.name, group.tensor_parallel): group.instances for pool in plan.pools for group in pool.groups
        }
        for key in sorted({*wanted, *(pod.key for pod in virtual.pods.values())}):
            pods = sorted(
                (pod for pod in virtual.pods.values() if pod.key == key),
                key=lambda pod: (pod.unrouted_s is not None, -self._room.in_flight(pod), pod.name),
            )
            count = wanted.get(key, 0)
            for pod in pods[:count]:
                pod.unrouted_s = None
            for pod in pods[count:]:
                pod.unrouted_s = now_s
            for _ in range(count - len(pods)):
                virtual.create(key, now_s=now_s)
        virtual.routing = plan.routing
        virtual.tick(now_s)
        observation = Observation(
            load=None, groups=(), instances=virtual.instances(), nodes=(), routing=plan.routing, plan=plan
        )
        virtual.ladders = clock_ladders(plan, observation)
