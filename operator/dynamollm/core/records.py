"""The records that flow through a cycle: what is observed and what should be; `core.moves` has the steps between.

Units are in the names. ``None`` always means unknown, never zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.past_load import PastLengths, PastLoad


# ------------------------------------------------------------------ the service's settings
class SloRule(StrEnum):
    """What it means that the SLO holds; the values are those of the API."""

    PER_REQUEST = "PerRequest"
    """"att": ``percentile`` % of all requests meet their own TTFT and their own mean TBT."""
    PER_CLASS_PERCENTILE = "PerClassPercentile"
    """"p99": in every class the ``percentile`` of TTFT, and of TBT over all token gaps, is within the class's limits."""
    FIVE_TIMES_ALONE = "FiveTimesAlone"
    """"x5": the ``percentile`` of end-to-end latency over that of the same request alone (at the largest TP degree and
    the highest clock) is at most five."""


class Order(StrEnum):
    """In which order an engine serves what waits; the values are those of the API."""

    FIRST_COME_FIRST_SERVED = "FirstComeFirstServed"
    EARLIEST_DEADLINE_FIRST = "EarliestDeadlineFirst"
    """By arrival + TTFT SLO."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency limits by class, and the rule by which they are judged."""

    ttft_ms: Mapping[RequestClass, float]
    tbt_ms: Mapping[RequestClass, float]
    percentile: float = 99.0
    rule: SloRule = SloRule.PER_REQUEST


class Objective(StrEnum):
    """What a plan minimises."""

    ENERGY = "Energy"
    COST = "Cost"
    CARBON = "Carbon"


@dataclass(frozen=True, slots=True)
class Prices:
    """What a joule and a GPU cost, in the units of the objectives."""

    electricity_usd_per_kwh: float = 0.0
    gpu_usd_per_hour: float = 0.0
    """Of each GPU that is held, at whatever load."""
    carbon_g_per_kwh: float = 0.0
    """CO2 equivalent."""
    released_gpu_w: float = 0.0
    """Watts that a GPU draws which nobody holds (about 75 W for an H100 whose node stays on); it counts as spent either
    way, so that holding a GPU costs only what it draws beyond that."""


class PolicyName(StrEnum):
    """The policies that ``spec.policy`` can name."""

    SINGLE_POOL = "SinglePool"
    MULTI_POOL = "MultiPool"
    SCALE_INST = "ScaleInst"
    SCALE_SHARD = "ScaleShard"
    SCALE_FREQ = "ScaleFreq"
    DYNAMO_LLM = "DynamoLLM"
    SINGLE_POOL_ELASTIC = "SinglePoolElastic"
    JOINT = "Joint"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may never leave."""

    min_instances: int = 1
    max_gpus: int = 96
    max_watts: float | None = None
    """Expected GPU watts at the planned load; None: no limit."""
    max_usd_per_hour: float | None = None
    """Cost at the planned load, electricity and GPUs; None: no limit."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Knobs that the user has fixed; None: the planner decides."""

    tensor_parallel: int | None = None
    clock_mhz: int | None = None
    instances: int | None = None
    """Of all pools together."""
    pools: int | None = None


@dataclass(frozen=True, slots=True)
class Behavior:
    """What keeps a plan from flapping, and bounds each change; seconds."""

    scale_down_stabilization_s: float = 300.0
    tolerance: float = 0.1
    """Relative change of load below which a plan is kept."""
    min_saving: float = 0.02
    """Relative saving below which instances and pools are kept; see ``decide.least_saving``."""
    drain_timeout_s: float = 300.0
    pending_timeout_s: float = 300.0
    max_correction: float = 0.5
    """How much more than its profile says the load may count for while requests miss their SLO; 0: misses change no plan."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often each level decides (the paper's 30 min, 5 min and 5 s)."""

    scale_s: float = 1800.0
    shard_s: float = 300.0
    clock_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """How load is forecast, and what is assumed before any was measured."""

    band: float = 0.8
    """Quantile of the upper band that capacity is planned for."""
    initial_rate_per_s: float = 0.0
    """Expected requests/s until one scale interval of load has been observed; 0: no expectation."""


@dataclass(frozen=True, slots=True)
class Service:
    """One InferenceService as the core sees it."""

    namespace: str
    name: str
    slo: Slo
    policy: PolicyName = PolicyName.JOINT
    boundaries: ClassBoundaries = field(default_factory=ClassBoundaries)
    tensor_parallel: tuple[int, ...] = (2, 4, 8)
    gpus_per_node: int = 8
    limits: Limits = field(default_factory=Limits)
    behavior: Behavior = field(default_factory=Behavior)
    intervals: Intervals = field(default_factory=Intervals)
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    order: Order = Order.FIRST_COME_FIRST_SERVED
    routers: int = 1
    """That balance apart from each other."""
    objective: Objective = Objective.ENERGY
    prices: Prices = field(default_factory=Prices)
    pins: Pins = field(default_factory=Pins)
    priority: int = 0
    """Services of higher priority get their GPUs first where a cluster's budget does not suffice for all."""


# ------------------------------------------------------------------ load
LEAST_RATE_PER_S: Final = 1e-6
"""Requests/s, one in eleven days: a class with fewer has none. No counter shows less; sums and decays of the forecast do,
down to what has no finite reciprocal."""


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """The load of one class: requests/s, mean lengths in tokens, and what means do not tell."""

    rate_per_s: float
    input_tokens: float
    output_tokens: float
    brief_share: float = 0.0
    """Share of the answers that are brief (``core.classes.is_brief``), 0 to 1. Until answers have been counted there are taken to be
    none: the first minutes of a service would ask for several times the GPUs for what few services have."""


Load = Mapping[RequestClass, ClassLoad]
"""Load by class; a class that is absent has none."""


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """Load by class on an even grid, oldest first.

    The sample i covers the ``step_s`` seconds that end at ``end_s - (n - 1 - i) * step_s``. A ``None`` or NaN is a gap:
    nothing was measured there. All sequences have the same length n ≥ 1.
    """

    end_s: float
    step_s: float
    rate_per_s: Mapping[RequestClass, Sequence[float | None]]
    input_tokens: Mapping[RequestClass, float]
    """Mean over the window, for classes with any request in it."""
    output_tokens: Mapping[RequestClass, float]
    brief_share: Mapping[RequestClass, float] = field(default_factory=dict)
    """Share of brief answers over the window, 0 to 1; a class that is absent has answered nothing, or nobody counted."""
    past: PastLoad | None = None
    """The weeks before on a coarser grid; None: there is nothing but the samples above."""
    lengths: PastLengths | None = None
    """How long requests were in the weeks before; None: nothing but the means above is known."""


# ------------------------------------------------------------------ what is
class InstanceState(StrEnum):
    """The life of an engine pod, as the kubelet and the scheduler tell it."""

    PENDING = "Pending"  # not scheduled: no GPUs
    STARTING = "Starting"  # scheduled, not Ready
    READY = "Ready"
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine pod."""

    name: str
    pool: str
    tensor_parallel: int
    state: InstanceState
    created_s: float
    unrouted_s: float | None = None
    """Since when it gets no new requests; None: routed as soon as it is Ready."""
    in_flight: int | None = None
    """Requests inside it, or None where that is unknown."""
    waits_for: str = ""
    """Why the scheduler has found no node for it yet, in its words."""

    @property
    def serving(self) -> bool:
        """Whether new requests may go to it now."""
        return self.state is InstanceState.READY and self.unrouted_s is None


@dataclass(frozen=True, slots=True)
class Group:
    """One shard group (a Deployment): instances of a pool that share a TP."""

    pool: str
    tensor_parallel: int
    replicas: int


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """GPUs of the service's product on a node."""

    name: str
    allocatable: int
    free: int
    """Allocatable less the requests of every pod on the node that has not ended."""


@dataclass(frozen=True, slots=True)
class Attainment:
    """Requests of one class that ended within a window, and how many of them met their SLO."""

    requests: float
    met: float


@dataclass(frozen=True, slots=True)
class Observation:
    """One coherent look at the world."""

    load: LoadHistory | None
    """None: unknown (no answer, stale, NaN); a true zero is a history of zeros."""
    groups: tuple[Group, ...]
    instances: tuple[Instance, ...]
    nodes: tuple[NodeGpus, ...]
    routing: Mapping[RequestClass, str]
    """The class → pool map that the router has now; empty before the first."""
    plan: "Plan | None" = None
    """The plan in force, as the status keeps it."""
    attainment: Mapping[RequestClass, Attainment] | None = None
    """By class over the last ``core.feedback.WINDOW_S``; None: unknown."""
    settled_attainment: Mapping[RequestClass, Attainment] | None = None
    """By class over the last scale interval; None: unknown."""


# ------------------------------------------------------------------ what should be
@dataclass(frozen=True, slots=True)
class LadderStep:
    """Up to this load per instance, this clock."""

    max_tokens_per_s: float
    clock_mhz: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """Load of one instance (prompt + generated tokens/s) → the clock of least energy that keeps the SLO.

    Steps ascend in load and never descend in clock; above the last one, ``safe_mhz`` applies.
    """

    steps: tuple[LadderStep, ...]
    safe_mhz: int


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What a shard group should be."""

    tensor_parallel: int
    instances: int
    ladder: Ladder
    clock_mhz: int
    """The clock expected at the planned load; agents follow the ladder."""
    full_in_flight: float = 0.0
    """Requests inside an instance that carries all it can within the SLO: beyond it, new ones go to a larger pool whose instances
    have fewer. 0.0: not known, and none do."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pool should be."""

    name: str
    classes: tuple[RequestClass, ...]
    rate_per_s: float
    """Planned load: the upper band of the forecast peak."""
    capacity_per_s: float
    """Requests/s of this mix that the groups carry within the SLO at the highest clock: at least, where there are more
    instances than the load needs."""
    groups: tuple[GroupPlan, ...]
    load: Load = field(default_factory=dict)
    """Planned load by class; the rates add up to ``rate_per_s``."""
    capacity_by_tp: Mapping[int, float] = field(default_factory=dict)
    """Requests/s of this mix that one instance carries within the SLO at the highest clock, for every TP that may be
    used: what instances of a TP that the plan leaves are still worth while they go."""
    gpu_budget: int = 0
    """GPUs that the cluster level granted: the pool level stays within them while they suffice."""
    power_w: float = 0.0
    """Expected GPU watts at the planned load."""

    @property
    def instances(self) -> int:
        """Instances of all groups."""
        return sum(group.instances for group in self.groups)


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be, and why."""

    pools: tuple[PoolPlan, ...]
    scale_decided_s: float
    """When the cluster level (pools, instances) last decided."""
    shard_decided_s: float
    """When the pool level (TP) last decided."""
    power_w: float
    """Expected GPU watts at the planned load."""
    reason: str
    """A stable CamelCase reason."""
    message: str
    """One sentence for the person on call."""
    runner_up: str = ""
    """The next best plan and what it would have cost, for explanation."""
    binding: str = ""
    """The limits that the cheapest plan would break, with what it would take of them; empty: this is the cheapest."""
    downscale: Mapping[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    """Stabilisation: per pool the recent (time_s, recommended GPUs), so that a restart forgets nothing."""
    basis: str = ""
    """Fingerprint of the settings that the plan was made for: other settings, another plan at once."""
    gpu_cap: int | None = None
    """GPUs that could be had when pods were pending too long: no more are asked for until ``gpu_cap_until_s``."""
    gpu_cap_until_s: float = 0.0
    correction: float = 1.0
    """How many times more than its profile promises the load asked for at ``corrected_s``, learned from measured misses; it fades
    from then on (``core.feedback``)."""
    corrected_s: float = 0.0
    bursts: float = 1.0
    """How many times as much its instances keep in reserve as for load that comes evenly (``core.bursts``)."""

    @property
    def gpus(self) -> int:
        """GPUs that the plan takes once it is in place."""
        return sum(group.tensor_parallel * group.instances for pool in self.pools for group in pool.groups)

    @property
    def routing(self) -> Mapping[RequestClass, str]:
        """Class → pool."""
        return {request_class: pool.name for pool in self.pools for request_class in pool.classes}
