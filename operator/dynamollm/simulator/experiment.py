"""One question to the simulator, and its answer for one policy: what the command line, sweeps and reports share."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Final

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.core.decide import POLICIES, decide
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import ORDERS, RULES
from dynamollm.core.prices import prices_at
from dynamollm.core.profile import Profile
from dynamollm.core.records import (
    NodeGpus,
    Observation,
    Plan,
    PolicyName,
    Service,
    Slo,
)
from dynamollm.simulator.clairvoyant import NAME as CLAIRVOYANT
from dynamollm.simulator.clairvoyant import Clairvoyant, Search
from dynamollm.simulator.keeping import Keeper
from dynamollm.simulator.overheads import Overheads, overheads
from dynamollm.simulator.replay import Ended, Progress, Replay, Setup
from dynamollm.simulator.result import Result, result_of
from dynamollm.simulator.shipped import open_profile, sample_service
from dynamollm.simulator.single_pool_size import single_pool_instances
from dynamollm.simulator.survey import Survey, constant_history, survey
from dynamollm.simulator.trace_files import open_trace
from dynamollm.simulator.workload import Workload

FIXED: Final = frozenset({"SinglePool", "MultiPool", "ScaleShard", "ScaleFreq"})
"""Policies whose instances are fixed at a peak: they are told the trace's, as the paper's are."""

ALL: Final = (
    "SinglePool",
    "MultiPool",
    "ScaleInst",
    "ScaleShard",
    "ScaleFreq",
    "DynamoLLM",
    "SinglePoolElastic",
    "Joint",
)
"""The eight."""

_FIRST_RATE_S: Final = 300.0
"""The operator is told the rate of so much of the trace's beginning, as a user tells it in spec.forecast."""

_WARM_UP_S: Final = 1800.0
_SETTLED_S: Final = 300.0
"""From the start of the first instances until what had waited for them is served, and a pool level has decided."""
_SPARE_SERVERS: Final = len(ALL) + 1
"""Beyond twice SinglePool's: nine pools need a server each, however little is asked of them."""


@dataclass(frozen=True)
class Question:
    """What is simulated; all of it, so that the same question has the same answer."""

    trace: str
    profile: str = "modern"
    slo_rule: str = "att"
    servers: int | None = None
    """Of the cluster and of SinglePool; None: SinglePool's by search, the others as many as they want."""
    scale: float = 1.0
    released_w: float = 0.0
    seed: int = 0
    accuracy: float = 0.81
    """Of the predicted output class: the paper's predictor."""
    overheads: str = "measured"
    startup_s: float | None = None
    """In place of what the overheads say."""
    loaded_idle_w: float | None = None
    """In place of the profile's."""
    pools: int | None = None
    """Pinned, where the policy decides how many there are."""
    emergency: str = "clock"
    """``clock``; ``resteer`` and ``squash`` beyond it."""
    service: Path | None = None
    """Manifest of an InferenceService; None: the sample's SLOs and defaults."""
    prices: ClusterPolicySpec = field(default_factory=ClusterPolicySpec)


@dataclass(frozen=True, slots=True)
class Known:
    """What takes a while to find out, and is the same for all policies."""

    seen: Survey
    single_pool: int
    """SinglePool's servers."""


@dataclass(frozen=True)
class Prepared:
    """A question with what is the same for all policies."""

    question: Question
    profile: Profile
    workload: Workload
    service: Service
    known: Known

    @property
    def seen(self) -> Survey:
        """What is known of the trace."""
        return self.known.seen

    @property
    def single_pool(self) -> int:
        """SinglePool's servers."""
        return self.known.single_pool

    @cached_property
    def overheads(self) -> Overheads:
        """Times of changes."""
        times = overheads(self.question.overheads, self.profile)
        startup_s = self.question.startup_s
        return times if startup_s is None else replace(times, startup_s=startup_s, reshard_s=startup_s)


def prepare(question: Question, known: Known | None = None) -> Prepared:
    """Read trace and profile, and size SinglePool where that is not known yet.

    Raises:
        InvalidInputError: something in the question is not there, or not what it should be.
    """
    if question.slo_rule not in RULES:
        raise InvalidInputError(f"SLO rule {question.slo_rule!r}: use one of {', '.join(RULES)}")
    if not 0 <= question.accuracy <= 1:
        raise InvalidInputError(f"an accuracy of {question.accuracy:g}: give a share from 0 to 1")
    profile = open_profile(question.profile, startup_s=_startup_s(question), loaded_idle_w=question.loaded_idle_w)
    service = replace(sample_service(question.service), slo=slo_of(question))
    trace = open_trace(question.trace, scale=question.scale, boundaries=service.boundaries, seed=question.seed)
    startup_s = overheads(question.overheads, profile).startup_s if question.startup_s is None else question.startup_s
    workload = Workload(
        trace=trace,
        boundaries=service.boundaries,
        warm_up_s=_warm_up_s(trace.duration_s, startup_s=startup_s, tick_s=service.intervals.clock_s),
        accuracy=question.accuracy,
        seed=question.seed,
    )
    seen = survey(workload) if known is None else known.seen
    if seen.total == 0:
        raise InvalidInputError(f"{trace.name}: no requests are left at a scale of {question.scale:g}: raise it")
    first_rate = float(seen.requests[0].sum()) / min(_FIRST_RATE_S, trace.duration_s)
    service = replace(
        service,
        forecast=replace(service.forecast, initial_rate_per_s=first_rate),
        prices=replace(prices_at(question.prices, now_s=0.0), released_gpu_w=question.released_w),
        pins=replace(service.pins, pools=question.pools),
    )
    if known is None:
        servers = question.servers or single_pool_instances(workload, seen, service, profile)
        known = Known(seen, servers)
    return Prepared(question, profile, workload, service, known)


def _warm_up_s(duration_s: float, *, startup_s: float, tick_s: float) -> float:
    """Return the time before the trace, in whole ticks: as long as the trace, up to half an hour, but no less than it takes."""
    least_s = tick_s * ceil((startup_s + _SETTLED_S) / tick_s)
    return max(least_s, min(_WARM_UP_S, tick_s * (duration_s // tick_s)))


def slo_of(question: Question) -> Slo:
    """Return the SLO by which requests are judged."""
    return replace(sample_service(question.service).slo, rule=RULES[question.slo_rule])


def _startup_s(question: Question) -> float | None:
    """Return the start-up time that the planner is to know of, where it is not the profile's own."""
    if question.startup_s is not None or question.overheads == "measured":
        return question.startup_s
    return overheads(question.overheads, open_profile(question.profile)).startup_s


def answer(
    prepared: Prepared, policy: str, order: str, progress: Progress | None = None, keeper: Keeper | None = None
) -> tuple[Result, Ended]:
    """Simulate one policy in one order of service; from where ``keeper`` kept it, if it did.

    Raises:
        InvalidInputError: there is no such policy or order.
    """
    if policy not in (*ALL, CLAIRVOYANT):
        raise InvalidInputError(f"policy {policy!r}: use all, or some of {', '.join((*ALL, CLAIRVOYANT))}")
    if order not in ORDERS:
        raise InvalidInputError(f"order {order!r}: use some of {', '.join(ORDERS)}")
    setup = _setup(prepared, policy, order)
    if policy == CLAIRVOYANT:
        return _bound(prepared, setup, order, progress, keeper)
    replay: Replay | None = keeper.load() if keeper else None
    ended = (replay or Replay(setup)).run(progress, keeper)
    return _result(prepared, ended, policy, order), ended


def _bound(
    prepared: Prepared, setup: Setup, order: str, progress: Progress | None, keeper: Keeper | None
) -> tuple[Result, Ended]:
    replay: Clairvoyant | None = keeper.load() if keeper else None
    search = Search() if replay is None else replay.search
    while (reserve := search.reserve) is not None:
        if replay is None:
            replay = Clairvoyant(setup, prepared.seen, search, reserve=reserve)
        ended = replay.run(search.told(progress) if progress else None, keeper)
        search.take(_result(prepared, ended, CLAIRVOYANT, order), ended)
        replay = None
    if search.best is None:
        raise ValueError("a search without reserves finds none")
    result, ended = search.best
    return replace(result, wall_seconds=round(search.wall_s, 3)), ended


def _result(prepared: Prepared, ended: Ended, policy: str, order: str) -> Result:
    return result_of(
        ended,
        policy=policy,
        order=order,
        prices=prepared.question.prices,
        released_w=prepared.question.released_w,
        cluster_gpus=prepared.single_pool * prepared.service.gpus_per_node,
    )


def _setup(prepared: Prepared, policy: str, order: str) -> Setup:
    question, service = prepared.question, prepared.service
    nodes = prepared.single_pool
    if question.servers is None and policy != "SinglePool":
        nodes = 2 * nodes + _SPARE_SERVERS
    limits = replace(service.limits, max_gpus=nodes * service.gpus_per_node)
    if policy == "SinglePool":
        limits = replace(limits, min_instances=prepared.single_pool)
    service = replace(
        service,
        policy=PolicyName("Joint" if policy == CLAIRVOYANT else policy),
        order=ORDERS[order],
        limits=limits,
    )
    setup = Setup(
        workload=prepared.workload,
        service=service,
        profile=prepared.profile,
        overheads=prepared.overheads,
        nodes=nodes,
        resteer=question.emergency in ("resteer", "squash"),
        squash=question.emergency == "squash",
    )
    return replace(setup, initial_plan=_at_the_peak(setup, prepared.seen)) if policy in FIXED else setup


def _at_the_peak(setup: Setup, seen: Survey) -> Plan:
    """Return the plan of a policy that is fixed at the peak, each class's own where each has a pool."""
    per_node = setup.service.gpus_per_node
    observation = Observation(
        load=constant_history(seen.peaks(), now_s=0.0),
        groups=(),
        instances=(),
        nodes=tuple(NodeGpus(f"node-{i:03d}", per_node, per_node) for i in range(setup.nodes)),
        routing={},
    )
    return decide(setup.service, setup.profile, observation, now_s=0.0, available_gpus=setup.nodes * per_node)


def known_policies(text: str) -> list[str]:
    """Return the policies that a command line names: ``all`` is the eight.

    Raises:
        InvalidInputError: one is not known.
    """
    names: list[str] = []
    for name in text.split(","):
        names += ALL if name.strip() == "all" else [name.strip()]
    for name in names:
        if name not in (*ALL, CLAIRVOYANT):
            raise InvalidInputError(f"policy {name!r}: use all, or some of {', '.join((*ALL, CLAIRVOYANT))}")
        if name != CLAIRVOYANT and name not in {str(known) for known in POLICIES}:
            raise InvalidInputError(f"policy {name!r} is not part of this version")
    return list(dict.fromkeys(names))


def known_orders(text: str) -> list[str]:
    """Return the orders of service that a command line names.

    Raises:
        InvalidInputError: one is not known.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in ORDERS:
            raise InvalidInputError(f"order {name!r}: use some of {', '.join(ORDERS)}")
    return names
