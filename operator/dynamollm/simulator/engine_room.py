"""The engines behind a virtual cluster's pods: the kernel's state, the agents' clocks, and the energy by pool."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass
from dynamollm.core.ladder import select_clock
from dynamollm.core.loadmeter import EngineSample, LoadMeter
from dynamollm.core.profile import Profile
from dynamollm.core.records import Ladder, Order, Plan, Slo
from dynamollm.core.selection import larger_pools, pool_order
from dynamollm.simulator.control import pause, set_clock, start, stop
from dynamollm.simulator.dispatch import serve
from dynamollm.simulator.fleet_state import new_fleet
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.relief import drop, resteer, squash
from dynamollm.simulator.state import NONE, InstanceSettings, grown, new_engines
from dynamollm.simulator.steps import StepTable
from dynamollm.simulator.virtual_cluster import Pod

_POOLS: Final = 32
"""Pools that there may have been in one run: nine names exist."""


class EngineRoom:
    """Engines of one service; implements `virtual_cluster.Listener`.

    Args:
        profile: of all instances.
        slo: by which requests are judged and ordered.
        order: of service in every instance.
        places: instances that there may be at once.
        clock_s: how long an instance begins no step after a change of its clock.
    """

    def __init__(self, *, profile: Profile, slo: Slo, order: Order, places: int, clock_s: float) -> None:
        self._profile = profile
        self._clock_s = clock_s
        self._table = StepTable(profile)
        self._settings = {
            degree: InstanceSettings.of(profile, tensor_parallel=degree) for degree in profile.tensor_parallel
        }
        self.engines = new_engines(self._table, instances=places, batch=profile.max_sequences, slots=8192)
        self.fleet = new_fleet(
            instances=places,
            pools=_POOLS,
            ttft_slo_ms=np.array([slo.ttft_ms[c] for c in RequestClass], np.float64),
            tbt_slo_ms=np.array([slo.tbt_ms[c] for c in RequestClass], np.float64),
            by_deadline=order is Order.EARLIEST_DEADLINE_FIRST,
            alone_row=self._table.row(tensor_parallel=max(profile.tensor_parallel), clock_mhz=profile.max_clock_mhz),
            alone_chunk=profile.max_batched_tokens if profile.interleaves_prefill else 0,
        )
        self.pools: dict[str, int] = {}
        """Name → index of every pool that ever was."""
        self.clock_changes = 0
        self._free = list(range(places - 1, -1, -1))
        self._pods: dict[int, Pod] = {}
        self._clock_mhz: dict[int, int] = {}
        self._meters: dict[int, LoadMeter] = {}
        self._pool_of = np.full(places, 0, np.int64)
        self._gone_j = np.zeros(_POOLS)

    # ------------------------------------------------------------------ pods
    def started(self, pod: Pod, *, now_s: float) -> None:
        """Begin an instance; it draws idle power while it starts."""
        pod.place = self._free.pop()
        clock_mhz = self._profile.max_clock_mhz
        row = self._table.row(tensor_parallel=pod.tensor_parallel, clock_mhz=clock_mhz)
        start(
            self.engines,
            pod.place,
            self._settings[pod.tensor_parallel],
            pod.tensor_parallel,
            row,
            now_s,
            pod.ready_s,
        )
        self._pods[pod.place] = pod
        self._clock_mhz[pod.place] = clock_mhz
        self._meters[pod.place] = LoadMeter()
        self._pool_of[pod.place] = self._pool(pod.key[0])
        self.fleet.last_chosen[pod.place] = 0
        self.fleet.full_in_flight[pod.place] = np.inf

    def ended(self, pod: Pod, *, now_s: float) -> None:
        """End an instance; requests that are still inside fail."""
        drop(self.engines, self.fleet, pod.place, now_s)
        stop(self.engines, pod.place, now_s)
        one = self.engines.instances[pod.place]
        self._gone_j[self._pool_of[pod.place]] += float(one["energy_j"])
        one["energy_j"] = 0.0
        self._free.append(pod.place)
        del self._pods[pod.place], self._clock_mhz[pod.place], self._meters[pod.place]

    def in_flight(self, pod: Pod) -> int:
        """Requests inside a pod."""
        return int(self.engines.instances["in_flight"][pod.place])

    def clock_mhz(self, pod: Pod) -> int:
        """Clock of a pod."""
        return self._clock_mhz[pod.place]

    # ------------------------------------------------------------------ the router
    def route(self, serving: list[Pod], routing: Mapping[RequestClass, str]) -> None:
        """Take in who serves, and which class goes where."""
        fleet = self.fleet
        fleet.n_members[:] = 0
        for pod in serving:
            pool = self._pool(pod.key[0])
            fleet.members[pool, fleet.n_members[pool]] = pod.place
            fleet.n_members[pool] += 1
        existing = {pod.key[0] for pod in self._pods.values()}
        for index, request_class in enumerate(RequestClass):
            order = [self._pool(name) for name in pool_order(request_class, routing, existing)]
            fleet.order[index] = NONE
            fleet.order[index, : len(order)] = order
            fleet.larger[index] = larger_pools(request_class, routing)

    def set_full(self, plan: Plan) -> None:
        """Take in how many requests inside make the plan's instances full; those that it leaves are as full as before."""
        full = {
            (pool.name, group.tensor_parallel): group.full_in_flight for pool in plan.pools for group in pool.groups
        }
        for place, pod in self._pods.items():
            self.fleet.full_in_flight[place] = full.get(pod.key, 0.0) or self.fleet.full_in_flight[place]

    def serve(self, arrivals: NDArray[Any], index: int, *, until_s: float) -> int:
        """Hand out arrivals until this moment; return the index of the next one."""
        while (index := serve(self.engines, self.fleet, arrivals, index, until_s)) < 0:
            index = -index - 1
            self.engines = grown(self.engines, slots=self.engines.requests.size)
        return index

    # ------------------------------------------------------------------ the agents
    def set_clocks(self, ladders: Mapping[tuple[str, int], Ladder], *, now_s: float) -> None:
        """Let the agents choose each instance's clock by its own load; an instance without a ladder runs at the highest."""
        instances = self.engines.instances
        # As lists: a week has millions of readings, and one of an array takes ten times as long.
        tokens = (instances["prompt_tokens"] + instances["generated_tokens"]).tolist()
        running = (instances["n_decoding"] + instances["n_begun"]).tolist()
        waiting = instances["n_waiting"].tolist()
        for place, pod in self._pods.items():
            if not pod.is_ready:
                continue
            sample = EngineSample(tokens[place], waiting[place], running[place])
            load = self._meters[place].add(sample, now_s=now_s)
            before = self._clock_mhz[place]
            clock_mhz = self._profile.max_clock_mhz
            if (ladder := ladders.get(pod.key)) is not None:
                clock_mhz = select_clock(
                    ladder,
                    tokens_per_s=load.tokens_per_s,
                    waiting=load.waiting,
                    running=load.running,
                    current_mhz=before,
                )
                clock_mhz = min(max(clock_mhz, self._profile.min_clock_mhz), self._profile.max_clock_mhz)
            if clock_mhz != before:
                row = self._table.row(tensor_parallel=pod.tensor_parallel, clock_mhz=clock_mhz)
                set_clock(self.engines, place, row, now_s)
                pause(self.engines, place, now_s, now_s + self._clock_s)
                self._clock_mhz[place] = clock_mhz
                self.clock_changes += 1

    def relieve(self, routing: Mapping[RequestClass, str], *, drop_late: bool, now_s: float) -> None:
        """Take requests that have not begun from instances whose queue grows to others of the pool, then to larger ones.

        What is past its TTFT's SLO nevertheless is given up where ``drop_late`` is set.
        """
        waiting = self.engines.instances["n_waiting"]
        for place, pod in list(self._pods.items()):
            if waiting[place] < 2:  # noqa: PLR2004 - one that waits for the step under way is no queue
                continue
            classes = [c for c in RequestClass if routing.get(c) == pod.key[0]]
            largest = classes[-1] if classes else RequestClass.LL
            order = [self._pool(name) for name in pool_order(largest, routing, ()) if name]
            rank = np.full(_POOLS, NONE, np.int32)
            rank[: len(order)] = order
            resteer(self.engines, self.fleet, place, rank, now_s)
            if drop_late:
                squash(self.engines, self.fleet, place, now_s)

    # ------------------------------------------------------------------ accounts
    def energy_j(self) -> NDArray[np.float64]:
        """Return the energy so far by pool index, [pool], all GPUs; steps under way count once they end."""
        in_use = self.engines.instances["in_use"] > 0
        here = np.bincount(self._pool_of[in_use], weights=self.engines.instances["energy_j"][in_use], minlength=_POOLS)
        return np.asarray(here + self._gone_j)

    @property
    def inside(self) -> int:
        """Requests inside all instances, and those that wait for one."""
        instances = self.engines.instances
        return int(instances["in_flight"][instances["in_use"] > 0].sum() + self.fleet.totals["waiting"][0])

    def give_up(self, *, now_s: float) -> None:
        """Fail what is still inside."""
        for place in self._pods:
            advance(self.engines, place, now_s)
            drop(self.engines, self.fleet, place, now_s)
        queue = self.fleet.queue
        totals = self.fleet.totals[0]
        for k in range(int(totals["waiting"])):
            request = queue[(int(totals["first"]) + k) % queue.size]
            if request["counted"]:
                self.fleet.by_class["failed"][request["request_class"]] += 1
        totals["waiting"] = 0

    def _pool(self, name: str) -> int:
        return self.pools.setdefault(name, len(self.pools))
