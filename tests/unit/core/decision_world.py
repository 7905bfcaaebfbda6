"""A pure world for the decisions: a performance model with round numbers, and a cluster that obeys actions, later."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide_with
from dynamollm.core.moves import (
    Action,
    RemoveGroup,
    RemoveInstance,
    Reroute,
    SetClocks,
    SetReplicas,
    SetRouting,
    Unroute,
)
from dynamollm.core.records import (
    Group,
    Instance,
    InstanceState,
    Ladder,
    LadderStep,
    Load,
    LoadHistory,
    NodeGpus,
    Observation,
    Plan,
    PolicyName,
    Service,
    Slo,
)
from dynamollm.core.sizing import UTILISATION_STEPS, Mixes, SizeTable, Sizing, ladder_clock, rate_per_s, tokens_per_s

SLO = Slo(
    ttft_ms=dict.fromkeys(RequestClass, 400.0),
    tbt_ms=dict.fromkeys(RequestClass, 100.0),
)
CAPACITY = {2: 2.0, 4: 5.0, 8: 12.0}
"""Requests/s of 1000 tokens."""


@dataclass(frozen=True)
class RoundSizing:
    """Capacity falls with tokens per request; watts grow with the clock squared; 120 s to start.

    ``interference``: the share of capacity that is left where short inputs wait behind long ones.
    ``throughput``: requests/s of 1000 tokens that an instance serves, in time or not.
    """

    startup_s: float = 120.0
    max_clock_mhz: int = 1980
    idle_power_w: float = 115.0
    capacity: Mapping[int, float] = field(default_factory=lambda: dict(CAPACITY))
    interference: float = 1.0
    throughput: Mapping[int, float] = field(default_factory=lambda: {tp: 2 * each for tp, each in CAPACITY.items()})
    reserve: float = 1.25

    def table(self, mixes: Mixes, *, tensor_parallel: Sequence[int]) -> SizeTable:
        lengths = mixes.input_tokens + mixes.output_tokens
        tokens = mixes.rate_per_s @ lengths
        inputs = np.array([c.value[0] for c in mixes.classes])
        asked = mixes.rate_per_s > 0
        mixed = asked[:, inputs == "S"].any(axis=1) & asked[:, inputs == "L"].any(axis=1)
        whole = np.array([self.capacity[tp] * 1000.0 for tp in tensor_parallel])
        carried = whole * np.where(mixed, self.interference, 1.0)[:, None]
        watts = []
        for tp in tensor_parallel:
            load = mixes.load(0)
            full = self._tokens_per_s(load, tp)
            scales = [full * step / UTILISATION_STEPS / tokens_per_s(load) for step in range(UTILISATION_STEPS + 1)]
            ladder = self.ladder(load=load, tensor_parallel=tp)
            clocks = [ladder_clock(ladder, tokens_per_s_of_instance=tokens_per_s(load) * scale) for scale in scales]
            watts.append(
                [
                    self.power_w(load=load, tensor_parallel=tp, clock_mhz=clock, scale=scale)
                    for clock, scale in zip(clocks, scales, strict=True)
                ]
            )
        return SizeTable(
            capacity_per_s=carried * (mixes.rate_per_s.sum(axis=1) / tokens)[:, None],
            # The same for every mix: watts depend on the utilisation alone.
            power_w=np.broadcast_to(np.array(watts), (tokens.size, len(tensor_parallel), UTILISATION_STEPS + 1)),
        )

    def capacity_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        return self._tokens_per_s(load, tensor_parallel) * rate_per_s(load) / tokens_per_s(load)

    def in_pool_per_s(self, *, load: Load, tensor_parallel: int, instances: int) -> float:  # noqa: ARG002 - none gains
        return self.capacity_per_s(load=load, tensor_parallel=tensor_parallel)

    def ladder(self, *, load: Load, tensor_parallel: int) -> Ladder:
        tokens = self._tokens_per_s(load, tensor_parallel)
        return Ladder(
            steps=(LadderStep(tokens * 0.5, 1005), LadderStep(tokens * 0.75, 1410), LadderStep(tokens, 1980)),
            safe_mhz=1980,
        )

    def full_in_flight(self, *, load: Load, tensor_parallel: int) -> float:
        return 10.0 * self.capacity_per_s(load=load, tensor_parallel=tensor_parallel)

    def throughput_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        return self.throughput[tensor_parallel] * 1000.0 * rate_per_s(load) / tokens_per_s(load)

    def power_w(self, *, load: Load, tensor_parallel: int, clock_mhz: int, scale: float) -> float:
        utilisation = tokens_per_s(load) * scale / self._tokens_per_s(load, tensor_parallel)
        return tensor_parallel * (115.0 + 400.0 * utilisation * (clock_mhz / 1980) ** 2)

    def _tokens_per_s(self, load: Load, tensor_parallel: int) -> float:
        assert rate_per_s(load) > 0
        mixed = {"S", "L"} <= {request_class.value[0] for request_class in load}
        return self.capacity[tensor_parallel] * 1000.0 * (self.interference if mixed else 1.0)


def make_service(**changes: Any) -> Service:
    """Return a service; unless changed, of the paper's policy, whose levels decide apart from each other."""
    return replace(Service(namespace="llm", name="chat", slo=SLO, policy=PolicyName.DYNAMO_LLM), **changes)


LENGTHS = {"S": (128.0, 50.0), "M": (600.0, 200.0), "L": (1800.0, 420.0)}


def length(request_class: RequestClass) -> tuple[float, float]:
    """Input and output tokens."""
    return LENGTHS[request_class.value[0]][0], LENGTHS[request_class.value[1]][1]


def history(rates: Mapping[RequestClass, Sequence[float | None]], *, end_s: float, step_s: float = 60.0) -> LoadHistory:
    return LoadHistory(
        end_s=end_s,
        step_s=step_s,
        rate_per_s={request_class: tuple(samples) for request_class, samples in rates.items()},
        input_tokens={c: length(c)[0] for c in rates},
        output_tokens={c: length(c)[1] for c in rates},
    )


def constant(rates: Mapping[RequestClass, float], *, end_s: float, samples: int = 60) -> LoadHistory:
    return history({c: [rate] * samples for c, rate in rates.items()}, end_s=end_s)


@dataclass
class Pod:
    name: str
    pool: str
    tensor_parallel: int
    created_s: float
    node: str | None = None
    ready_s: float | None = None
    unrouted_s: float | None = None
    ends_s: float | None = None

    def state(self, now_s: float) -> InstanceState:
        if self.ends_s is not None:
            return InstanceState.TERMINATING
        if self.node is None:
            return InstanceState.PENDING
        ready = self.ready_s is not None and now_s >= self.ready_s
        return InstanceState.READY if ready else InstanceState.STARTING


@dataclass
class World:
    """Deployments, pods, nodes and a router; time passes in ``tick``."""

    nodes: dict[str, int]
    startup_s: float = 120.0
    terminating_s: float = 15.0
    drain_s: float = 40.0
    now_s: float = 1_000_000.0
    replicas: dict[tuple[str, int], int] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    routing: dict[RequestClass, str] = field(default_factory=dict)
    plan: Plan | None = None
    names: "itertools.count[int]" = field(default_factory=itertools.count)

    def free(self) -> dict[str, int]:
        free = dict(self.nodes)
        for pod in self.pods.values():
            if pod.node is not None:
                free[pod.node] -= pod.tensor_parallel
        return free

    def gpus(self) -> int:
        """Held or asked for."""
        return sum(pod.tensor_parallel for pod in self.pods.values())

    def observe(self, load: LoadHistory | None) -> Observation:
        return Observation(
            load=load,
            groups=tuple(Group(pool, tp, count) for (pool, tp), count in sorted(self.replicas.items())),
            instances=tuple(
                Instance(
                    name=pod.name,
                    pool=pod.pool,
                    tensor_parallel=pod.tensor_parallel,
                    state=pod.state(self.now_s),
                    created_s=pod.created_s,
                    unrouted_s=pod.unrouted_s,
                    in_flight=0 if pod.unrouted_s is not None and self.now_s >= pod.unrouted_s + self.drain_s else 3,
                )
                for pod in self.pods.values()
            ),
            nodes=tuple(NodeGpus(name, self.nodes[name], free) for name, free in self.free().items()),
            routing=dict(self.routing),
            plan=self.plan,
        )

    def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case SetReplicas(pool, tp, replicas):
                    self.replicas[pool, tp] = replicas
                case RemoveInstance(name, pool, tp, replicas):
                    assert replicas == self.replicas[pool, tp] - 1
                    self.replicas[pool, tp] = replicas
                    self._end(self.pods[name])
                case RemoveGroup(pool, tp):
                    assert self.replicas.pop((pool, tp)) == 0
                case Unroute(name):
                    self.pods[name].unrouted_s = self.now_s
                case Reroute(name):
                    self.pods[name].unrouted_s = None
                case SetRouting(routing):
                    self.routing = dict(routing)
                case SetClocks():
                    pass
            self._settle()

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        for pod in list(self.pods.values()):
            if pod.ends_s is not None and self.now_s >= pod.ends_s:
                del self.pods[pod.name]
        self._settle()

    def _settle(self) -> None:
        """Play the controllers: pods for replicas, nodes for pods."""
        living = Counter((p.pool, p.tensor_parallel) for p in self.pods.values() if p.ends_s is None)
        for key, replicas in self.replicas.items():
            for _ in range(replicas - living[key]):
                name = f"{key[0]}-tp{key[1]}-{next(self.names):04d}"
                self.pods[name] = Pod(name, *key, created_s=self.now_s)
            if replicas < living[key]:
                mine = [p for p in self.pods.values() if (p.pool, p.tensor_parallel) == key and p.ends_s is None]
                order = [InstanceState.PENDING, InstanceState.STARTING, InstanceState.READY]
                mine.sort(key=lambda p: order.index(p.state(self.now_s)))
                for pod in mine[: living[key] - replicas]:
                    self._end(pod)
        for pod in self.pods.values():
            if pod.node is None and pod.ends_s is None:
                fitting = sorted((free, name) for name, free in self.free().items() if free >= pod.tensor_parallel)
                if fitting:
                    pod.node = fitting[0][1]
                    pod.ready_s = self.now_s + self.startup_s

    def _end(self, pod: Pod) -> None:
        if pod.node is None:
            del self.pods[pod.name]
        else:
            pod.ends_s = self.now_s + self.terminating_s


# ------------------------------------------------------------------ one decision
NOW_S = 1_000_000.0
SIZING = RoundSizing()
MIX = {RequestClass.SS: 2.0, RequestClass.MM: 3.0, RequestClass.LL: 1.0}


def nodes(count: int, gpus: int = 8) -> dict[str, int]:
    return {f"n{i:02d}": gpus for i in range(count)}


def look(
    load: LoadHistory | None,
    *,
    plan: Plan | None = None,
    instances: tuple[Instance, ...] = (),
    gpus: Mapping[str, int] | None = None,
) -> Observation:
    observation = World(nodes=dict(gpus or nodes(12))).observe(load)
    return replace(observation, plan=plan, instances=instances)


def decided(
    service: Service,
    observation: Observation,
    *,
    now_s: float = NOW_S,
    available_gpus: int = 96,
    basis: str = "one",
    sizing: Sizing = SIZING,
) -> Plan:
    return decide_with(service, sizing, observation, now_s=now_s, available_gpus=available_gpus, basis=basis)


def carried(plan: Plan) -> bool:
    return all(pool.capacity_per_s >= pool.rate_per_s for pool in plan.pools)
