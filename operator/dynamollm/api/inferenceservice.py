"""The InferenceService: a model, its latency SLOs, and within what limits the operator may reconfigure it."""

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from dynamollm.api.common import LIST_SET, NameRef, Rule, Spec, each_once
from dynamollm.api.inferenceservice_engine import Engine
from dynamollm.api.inferenceservice_slo import ClassesSpec, SloSpec

TensorParallel = Annotated[int, Field(ge=1, le=16)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
ResourceName = Annotated[
    str,
    Field(
        max_length=317,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]

_LABEL_VALUE: Final = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_NAME: Final = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_LONGEST_NAME: Final = 40


class ServedModel(Spec):
    """The model."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name, as clients send it and as the engine loads it."""


class Gpu(Spec):
    """The GPUs that the service runs on."""

    product: Annotated[str, Field(min_length=1, max_length=63)]
    """Value of the node label nvidia.com/gpu.product."""
    resource: ResourceName = "nvidia.com/gpu"
    """Extended resource by which pods request GPUs."""
    per_node: Annotated[int, Field(ge=1, le=16)] = 8
    """GPUs of one node."""
    tensor_parallel: Annotated[
        tuple[TensorParallel, ...],
        Field(min_length=1, max_length=5, json_schema_extra=LIST_SET),
        AfterValidator(each_once),
    ] = (2, 4, 8)
    """TP degrees (GPUs per instance) that may be used; each divides perNode."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.product.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
            message="gpu.product is not the value of a label: see kubectl get nodes -L nvidia.com/gpu.product",
            detail="gpu.product %s is not the value of a label: see kubectl get nodes -L nvidia.com/gpu.product",
            values=("self.product",),
            field_path=".product",
            holds=lambda self: _LABEL_VALUE.match(self.product) is not None,
            found=lambda self: (self.product,),
        ),
        Rule(
            rule="self.tensorParallel.all(tp, self.perNode % tp == 0)",
            message="every gpu.tensorParallel must divide gpu.perNode",
            detail="gpu.tensorParallel %s does not divide gpu.perNode %d: use divisors of it",
            values=(
                "self.tensorParallel.filter(tp, self.perNode % tp != 0)",
                "self.perNode",
            ),
            field_path=".tensorParallel",
            holds=lambda self: all(self.per_node % tp == 0 for tp in self.tensor_parallel),
            found=lambda self: (
                [tp for tp in self.tensor_parallel if self.per_node % tp],
                self.per_node,
            ),
        ),
    )


# ------------------------------------------------------------------ what the operator may do, and how fast
class LimitsSpec(Spec):
    """What a plan may never leave."""

    min_instances: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Instances that are always there."""
    max_gpus: Annotated[int, Field(ge=1, le=100_000)] = 96
    """GPUs at most, pods that are being replaced included."""
    max_watts: Annotated[int | None, Field(ge=1, le=1_000_000_000)] = None
    """Expected GPU power at the planned load at most, W; absent: no limit."""
    max_cost_cents_per_hour: Annotated[int | None, Field(ge=1, le=1_000_000_000)] = None
    """Cost of GPUs and their electricity at the planned load at most, US cents per hour; absent: no limit. The ClusterPolicy has the prices."""


class PinsSpec(Spec):
    """Knobs that are fixed; what is absent the planner decides."""

    tensor_parallel: TensorParallel | None = None
    """TP degree of every instance, one of gpu.tensorParallel."""
    clock_mhz: Annotated[int | None, Field(ge=1, le=10_000)] = None
    """SM clock of every GPU, MHz; one that the profile covers."""
    instances: Annotated[int | None, Field(ge=1, le=1_000)] = None
    """Instances of all pools together."""
    pools: Annotated[int | None, Field(ge=1, le=9)] = None
    """Pools that the request classes are divided into."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.pools) || !has(self.instances) || self.pools <= self.instances",
            message="pins.pools must not exceed pins.instances: every pool needs an instance",
            detail="pins.pools %d exceeds pins.instances %d, and every pool needs an instance: raise instances or lower pools",
            values=(
                "self.pools",
                "self.instances",
            ),
            field_path=".pools",
            holds=lambda self: self.pools is None or self.instances is None or self.pools <= self.instances,
            found=lambda self: (
                self.pools,
                self.instances,
            ),
        ),
    )


class BehaviorSpec(Spec):
    """What keeps the plan from flapping, and bounds each change."""

    scale_down_stabilization_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """Capacity goes down to the highest need of this many past seconds."""
    tolerance_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """Relative change of load below which a plan is kept, %."""
    min_saving_percent: Annotated[int, Field(ge=0, le=100)] = 2
    """Relative saving below which instances and pools are kept, %; with policies other than Joint the tolerance, if that is more."""
    drain_timeout_seconds: Seconds = 300
    """How long an instance that goes may finish its requests, s."""
    pending_timeout_seconds: Seconds = 300
    """How long a pod may wait for GPUs before the operator gives them back and plans anew, s."""
    max_correction_percent: Annotated[int, Field(ge=0, le=200)] = 50
    """How much more than its profile says the load may count for while requests miss their SLO, %; 0: misses change no plan."""


class IntervalsSpec(Spec):
    """How often each level decides; the defaults are the paper's."""

    scale_seconds: Seconds = 1800
    """Pools and instances, s."""
    shard_seconds: Seconds = 300
    """TP degrees, s."""
    clock_seconds: Seconds = 5
    """Clocks, s."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.clockSeconds <= self.shardSeconds && self.shardSeconds <= self.scaleSeconds",
            message="intervals must not descend: clockSeconds ≤ shardSeconds ≤ scaleSeconds",
            detail="intervals.clockSeconds %d, shardSeconds %d and scaleSeconds %d must not descend",
            values=(
                "self.clockSeconds",
                "self.shardSeconds",
                "self.scaleSeconds",
            ),
            holds=lambda self: self.clock_seconds <= self.shard_seconds <= self.scale_seconds,
            found=lambda self: (
                self.clock_seconds,
                self.shard_seconds,
                self.scale_seconds,
            ),
        ),
    )


class ForecastSpec(Spec):
    """How load is forecast."""

    band_percentile: Annotated[int, Field(ge=50, le=99)] = 80
    """Percentile of the forecast that capacity is planned for."""
    initial_requests_per_minute: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Load to expect until one scale interval has been observed, requests/min; 0: none."""


class RouterSpec(Spec):
    """The service's router."""

    replicas: Annotated[int, Field(ge=1, le=32)] = 1
    """Router pods. They balance apart from each other, so that bursts spread less well over the instances: behind two the plan holds a little more, most of it where batches are small."""


def _least_tp(spec: "InferenceServiceSpec") -> int:
    return spec.pins.tensor_parallel or min(spec.gpu.tensor_parallel)


_LEAST_TP: Final = "(has(self.pins.tensorParallel) ? self.pins.tensorParallel : self.gpu.tensorParallel.min())"
"""GPUs of the smallest instance that may be."""
_ONE_POOL: Final = "self.policy.startsWith('SinglePool')"


class InferenceServiceSpec(Spec):
    """A model that is served at least energy while every request class keeps its latency SLO."""

    model: ServedModel
    """The model."""
    engine: Engine
    """The engine."""
    gpu: Gpu
    """The GPUs."""
    profile_ref: NameRef
    """The PerformanceProfile of this model on these GPUs."""
    slo: SloSpec
    """The latency SLO."""
    classes: ClassesSpec = ClassesSpec()
    """Boundaries of the request classes."""
    policy: Literal[
        "Joint",
        "DynamoLLM",
        "SinglePoolElastic",
        "SinglePool",
        "MultiPool",
        "ScaleInst",
        "ScaleShard",
        "ScaleFreq",
    ] = "Joint"
    """Joint: pools, TP degrees, instances and clocks of least cost, all at once, as often as an instance takes to start, `intervals.shardSeconds` at most. DynamoLLM: the paper's three levels. SinglePoolElastic: one pool, scaled, re-sharded and clocked by load. SinglePool: one pool at the largest TP degree and the highest clock, sized for the peak. MultiPool: the same with a pool per class; ScaleInst, ScaleShard and ScaleFreq: MultiPool with instances, TP degrees or clocks by load."""
    objective: Literal["Energy", "Cost", "Carbon"] = "Energy"
    """What plans minimise. Energy: joules of the GPUs. Cost: GPU hours and electricity at the ClusterPolicy's prices. Carbon: grams at its carbon intensity."""
    pins: PinsSpec = PinsSpec()
    """Knobs that are fixed; what is absent the planner decides."""
    priority: Annotated[int, Field(ge=-1_000, le=1_000)] = 0
    """What this service lacks of GPUs or of a budget of the cluster, services of lower priority give back, the lowest first, down to their least instances."""
    mode: Literal["Enforce", "Advise"] = "Enforce"
    """Advise plans and reports, and touches nothing."""
    paused: bool = False
    """Keep everything as it is: no plan, no change; clocks stay within the last plan's safe limits."""
    limits: LimitsSpec = LimitsSpec()
    """Bounds on every plan."""
    behavior: BehaviorSpec = BehaviorSpec()
    """Damping and timeouts."""
    intervals: IntervalsSpec = IntervalsSpec()
    """Decision intervals."""
    forecast: ForecastSpec = ForecastSpec()
    """Forecast."""
    router: RouterSpec = RouterSpec()
    """Router."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.limits.maxGPUs >= self.limits.minInstances * self.gpu.tensorParallel.min()",
            message="limits.maxGPUs is below limits.minInstances × the smallest gpu.tensorParallel",
            detail="limits.maxGPUs %d is below limits.minInstances %d × the smallest gpu.tensorParallel %d: raise maxGPUs, lower minInstances or allow a smaller TP degree",
            values=(
                "self.limits.maxGPUs",
                "self.limits.minInstances",
                "self.gpu.tensorParallel.min()",
            ),
            field_path=".limits.maxGPUs",
            holds=lambda self: self.limits.max_gpus >= self.limits.min_instances * min(self.gpu.tensor_parallel),
            found=lambda self: (
                self.limits.max_gpus,
                self.limits.min_instances,
                min(self.gpu.tensor_parallel),
            ),
        ),
        Rule(
            rule="!has(self.pins.tensorParallel) || self.pins.tensorParallel in self.gpu.tensorParallel",
            message="pins.tensorParallel must be one of gpu.tensorParallel",
            detail="pins.tensorParallel %d is none of gpu.tensorParallel %s: pin one of them or allow it there",
            values=(
                "self.pins.tensorParallel",
                "self.gpu.tensorParallel",
            ),
            field_path=".pins.tensorParallel",
            holds=lambda self: (
                self.pins.tensor_parallel is None or self.pins.tensor_parallel in self.gpu.tensor_parallel
            ),
            found=lambda self: (
                self.pins.tensor_parallel,
                list(self.gpu.tensor_parallel),
            ),
        ),
        Rule(
            rule="!has(self.pins.instances) || self.pins.instances >= self.limits.minInstances",
            message="pins.instances must not be below limits.minInstances",
            detail="pins.instances %d is below limits.minInstances %d: raise it or lower minInstances",
            values=(
                "self.pins.instances",
                "self.limits.minInstances",
            ),
            field_path=".pins.instances",
            holds=lambda self: self.pins.instances is None or self.pins.instances >= self.limits.min_instances,
            found=lambda self: (
                self.pins.instances,
                self.limits.min_instances,
            ),
        ),
        Rule(
            rule=f"!has(self.pins.instances) || self.pins.instances * {_LEAST_TP} <= self.limits.maxGPUs",
            message="pins.instances × the TP degree do not fit into limits.maxGPUs",
            detail="pins.instances %d × a TP degree of %d do not fit into limits.maxGPUs %d: raise maxGPUs or pin fewer",
            values=(
                "self.pins.instances",
                _LEAST_TP,
                "self.limits.maxGPUs",
            ),
            field_path=".pins.instances",
            holds=lambda self: (
                self.pins.instances is None or self.pins.instances * _least_tp(self) <= self.limits.max_gpus
            ),
            found=lambda self: (
                self.pins.instances,
                _least_tp(self),
                self.limits.max_gpus,
            ),
        ),
        Rule(
            rule=f"!has(self.pins.pools) || self.pins.pools == 1 || !{_ONE_POOL}",
            message="pins.pools is more than one, and spec.policy has one pool only",
            detail="pins.pools is %d, and policy %s has one pool only: remove the pin or choose another policy",
            values=(
                "self.pins.pools",
                "self.policy",
            ),
            field_path=".pins.pools",
            holds=lambda self: self.pins.pools in (None, 1) or not self.policy.startswith("SinglePool"),
            found=lambda self: (
                self.pins.pools,
                self.policy,
            ),
        ),
    )
    root_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name names a Service and Deployments: at most 40 of a-z, 0-9 and -, a letter first",
            detail="metadata.name %s names a Service and Deployments: use at most 40 of a-z, 0-9 and -, a letter first",
            values=("self.metadata.name",),
            holds=lambda name: len(name) <= _LONGEST_NAME and _NAME.match(name) is not None,
            found=lambda name: (name,),
        ),
    )
