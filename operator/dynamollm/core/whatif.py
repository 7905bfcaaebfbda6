"""What would be planned for a load that somebody writes down: the operator's own decision, without a cluster.

The load is taken as what has come steadily for hours and will go on so, which no forecast adds a band to. What the
plan in force has is taken as being there and serving, and both levels as due.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from dynamollm.core.capacity import capacity_per_s, operating_point
from dynamollm.core.classes import ClassBoundaries, Length, RequestClass
from dynamollm.core.decide import decide, measured, sizing_of
from dynamollm.core.errors import InvalidInputError, OutOfRangeError
from dynamollm.core.margins import NO_RESERVE
from dynamollm.core.profile import Profile
from dynamollm.core.records import (
    Group,
    Instance,
    InstanceState,
    Load,
    LoadHistory,
    NodeGpus,
    Observation,
    Order,
    Plan,
    PoolPlan,
    Service,
    Slo,
)
from dynamollm.core.sizing import rate_per_s
from dynamollm.core.words import counted

STEP_S: Final = 60.0
HISTORY_S: Final = 4 * 3600.0
"""How long the load is said to have come: long enough for the forecast to have tested itself."""


def plan_for_load(
    service: Service,
    profile: Profile,
    load: Load,
    *,
    nodes: Sequence[NodeGpus],
    now_s: float,
    current: Plan | None = None,
) -> Plan:
    """Return the plan that the operator would put in force.

    Args:
        service: with its prices.
        profile: of its model on its GPUs.
        load: by class.
        nodes: GPUs that are there; what ``current`` holds is not among the free ones.
        now_s: unix seconds.
        current: the plan in force; what it remembers of recommendations is forgotten, so that nothing is held back for a while.

    Raises:
        InvalidInputError: the profile knows none of the service's TP degrees.
        OutOfRangeError: the load is outside the profile's range.
    """
    check_in_range(load, profile)
    instances = () if current is None else _in_place(current, now_s=now_s)
    observation = Observation(
        load=_steady(load, service, now_s=now_s),
        groups=() if current is None else _groups(current),
        instances=instances,
        nodes=tuple(nodes),
        routing={} if current is None else current.routing,
        plan=None if current is None else _due(current, service, now_s=now_s),
    )
    held = sum(instance.tensor_parallel for instance in instances)
    free = sum(node.free for node in nodes)
    return decide(service, profile, observation, now_s=now_s, available_gpus=held + free)


def check_in_range(load: Load, profile: Profile) -> None:
    """Check that the profile was measured where the load is.

    Raises:
        OutOfRangeError: it was not; names the class, the axis and the value.
    """
    for request_class, part in load.items():
        if part.rate_per_s > 0 and part.input_tokens > profile.max_input_tokens:
            raise OutOfRangeError(
                f"{request_class}.input_tokens is {part.input_tokens:g}, and profile {profile.name} was measured up to "
                f"{profile.max_input_tokens} (validRange.maxInputTokens): plan with shorter inputs, or measure longer ones"
            )


def check_lengths(load: Load, boundaries: ClassBoundaries) -> None:
    """Check that each class has lengths that belong to it.

    Raises:
        InvalidInputError: they make another class; names the field, the value and that class.
    """
    for request_class, part in load.items():
        if part.rate_per_s <= 0:
            continue
        actual = boundaries.classify(input_tokens=part.input_tokens, output_tokens=part.output_tokens)
        if actual is request_class:
            continue
        wrong_input = actual.input_length is not request_class.input_length
        name, value = ("input_tokens", part.input_tokens) if wrong_input else ("output_tokens", part.output_tokens)
        length = request_class.input_length if wrong_input else request_class.output_length
        raise InvalidInputError(
            f"{request_class}.{name} is {value:g}, and {_words(length)} {name.partition('_')[0]}s are "
            f"{_range(boundaries, length, of_input=wrong_input)}: make it class {actual}, or change spec.classes"
        )


# ------------------------------------------------------------------ what a plan means for who asks
@dataclass(frozen=True, slots=True)
class ExpectedLatency:
    """What one class may expect at the planned load, ms."""

    request_class: RequestClass
    pool: str
    ttft_p50_ms: float
    ttft_p99_ms: float
    tbt_p50_ms: float
    tbt_p99_ms: float
    attainable: bool
    """Whether an instance of some TP degree keeps the SLO for this class alone, if only at the lowest rate."""


def expected_latency(service: Service, profile: Profile, plan: Plan) -> tuple[ExpectedLatency, ...]:
    """Return the latency of every class that has load, at the clocks that the plan expects.

    Where a pool has instances of several TP degrees, that of the slower ones. ``inf``: the queue grows without end, or
    there is no instance.
    """
    service = measured(service, profile)
    sizing = sizing_of(service, profile, reserve=NO_RESERVE)
    found = []
    for pool in plan.pools:
        points = {percentile: _by_class(service, profile, pool, percentile=percentile) for percentile in (50.0, 99.0)}
        for request_class, part in pool.load.items():
            median, tail = (points[percentile].get(request_class, (math.inf, math.inf)) for percentile in (50.0, 99.0))
            attainable = any(
                sizing.capacity_per_s(load={request_class: part}, tensor_parallel=degree) > 0
                for degree in service.tensor_parallel
            )
            found.append(
                ExpectedLatency(request_class, pool.name, median[0], tail[0], median[1], tail[1], attainable=attainable)
            )
    order = list(RequestClass)
    return tuple(sorted(found, key=lambda one: order.index(one.request_class)))


def _by_class(
    service: Service, profile: Profile, pool: PoolPlan, *, percentile: float
) -> Mapping[RequestClass, tuple[float, float]]:
    """Return TTFT and mean TBT, ms, by class at one percentile: the slowest group's."""
    worst: dict[RequestClass, tuple[float, float]] = {}
    instances = sum(group.instances for group in pool.groups)
    for group in pool.groups if pool.load else ():
        if not group.instances:
            continue
        # Where none carries anything within the SLO, each gets as much as any other.
        share = 1 / instances
        if pool.capacity_per_s > 0:
            share = pool.capacity_by_tp.get(group.tensor_parallel, 0.0) / pool.capacity_per_s
        if share <= 0:
            continue
        point = operating_point(
            profile,
            load=pool.load,
            slo=service.slo,
            percentile=percentile,
            order=service.order,
            tensor_parallel=group.tensor_parallel,
            clock_mhz=group.clock_mhz,
            scale=share,
            instances=max(1, instances),
            routers=service.routers,
        )
        for request_class, ttft_ms in point.ttft_ms.items():
            before = worst.get(request_class, (0.0, 0.0))
            worst[request_class] = (max(before[0], ttft_ms), max(before[1], point.tbt_ms[request_class]))
    return worst


# ------------------------------------------------------------------ the world around it
def nodes_for(service: Service) -> tuple[NodeGpus, ...]:
    """Return as many empty nodes as the service's limit of GPUs needs: what is assumed where nobody says."""
    count = -(-service.limits.max_gpus // service.gpus_per_node)
    return tuple(
        NodeGpus(name=f"node-{index}", allocatable=service.gpus_per_node, free=service.gpus_per_node)
        for index in range(count)
    )


def without_instances(nodes: Sequence[NodeGpus], plan: Plan) -> tuple[NodeGpus, ...]:
    """Return the nodes with the plan's instances on them, the largest first, each on the fullest node that has room.

    They hold GPUs that are not free, as long as there are such; what is not free on no node that is large enough they take of what
    is, as on nodes of which only the GPUs are told.

    Raises:
        InvalidInputError: they do not fit.
    """
    free = [node.free for node in nodes]
    held = [node.allocatable - node.free for node in nodes]
    degrees = sorted(
        (group.tensor_parallel for pool in plan.pools for group in pool.groups for _ in range(group.instances)),
        reverse=True,
    )
    for tensor_parallel in degrees:
        place = next((gpus for gpus in (held, free) if max(gpus, default=0) >= tensor_parallel), None)
        if place is None:
            raise InvalidInputError(
                f"the plan in force holds {counted(plan.gpus, 'GPU')}, and its TP{tensor_parallel} instances do not fit into the inventory: "
                f"beside the others no node has more than {counted(max(held, default=0), 'GPU')} that are not free (gpus less free), or "
                f"{max(free, default=0)} that are; correct these, or give the nodes that they are on"
            )
        fullest = min((gpus, node) for node, gpus in enumerate(place) if gpus >= tensor_parallel)[1]
        place[fullest] -= tensor_parallel
    return tuple(replace(node, free=gpus) for node, gpus in zip(nodes, free, strict=True))


def _steady(load: Load, service: Service, *, now_s: float) -> LoadHistory:
    samples = int(max(HISTORY_S, 2 * service.intervals.scale_s) / STEP_S)
    return LoadHistory(
        end_s=now_s,
        step_s=STEP_S,
        rate_per_s={
            request_class: (load[request_class].rate_per_s if request_class in load else 0.0,) * samples
            for request_class in RequestClass
        },
        input_tokens={request_class: part.input_tokens for request_class, part in load.items()},
        output_tokens={request_class: part.output_tokens for request_class, part in load.items()},
        brief_share={c: part.brief_share for c, part in load.items()},
    )


def _groups(plan: Plan) -> tuple[Group, ...]:
    return tuple(
        Group(pool=pool.name, tensor_parallel=group.tensor_parallel, replicas=group.instances)
        for pool in plan.pools
        for group in pool.groups
    )


def _in_place(plan: Plan, *, now_s: float) -> tuple[Instance, ...]:
    return tuple(
        Instance(
            name=f"{pool.name}-tp{group.tensor_parallel}-{index}",
            pool=pool.name,
            tensor_parallel=group.tensor_parallel,
            state=InstanceState.READY,
            created_s=now_s - HISTORY_S,
            in_flight=0,
        )
        for pool in plan.pools
        for group in pool.groups
        for index in range(group.instances)
    )


def _due(plan: Plan, service: Service, *, now_s: float) -> Plan:
    """Return the plan as decided one epoch ago, and as if it had been best ever since: the answer is not of the minute that it is asked in."""
    return replace(
        plan,
        downscale={},
        scale_decided_s=now_s - service.intervals.scale_s,
        shard_decided_s=now_s - service.intervals.shard_s,
    )


def _words(length: Length) -> str:
    return {Length.SHORT: "short", Length.MEDIUM: "medium", Length.LONG: "long"}[length]


def _range(boundaries: ClassBoundaries, length: Length, *, of_input: bool) -> str:
    short = boundaries.input_short if of_input else boundaries.output_short
    medium = boundaries.input_medium if of_input else boundaries.output_medium
    return {
        Length.SHORT: f"below {short} tokens",
        Length.MEDIUM: f"{short} to below {medium} tokens",
        Length.LONG: f"{medium} tokens or more",
    }[length]


# ------------------------------------------------------------------ what one instance carries
@dataclass(frozen=True, slots=True)
class Carried:
    """One instance under a mix, at one order of service, TP degree and clock."""

    order: Order
    tensor_parallel: int
    clock_mhz: int
    rate_per_s: float
    """Requests/s within the SLO; 0.0: not even one request alone meets it."""
    power_w: float
    """Of all its GPUs, at that rate."""
    half_power_w: float
    """The same at half that rate."""

    @property
    def joules_per_request(self) -> float | None:
        """Energy per request at the full rate; None where it carries nothing."""
        return self.power_w / self.rate_per_s if self.rate_per_s > 0 else None


def carried(
    service: Service,
    profile: Profile,
    load: Load,
    *,
    orders: Iterable[Order],
    tensor_parallel: Iterable[int],
    clocks_mhz: Iterable[int],
) -> tuple[Carried, ...]:
    """Return what an instance carries of the load's mix within the SLO; the load's total rate does not matter.

    Raises:
        OutOfRangeError: a TP degree, a clock or a length is outside the profile.
    """
    check_in_range(load, profile)
    points = product(orders, tensor_parallel, clocks_mhz)
    return tuple(
        _carried(profile, load, slo=service.slo, order=order, tensor_parallel=degree, clock_mhz=clock_mhz)
        for order, degree, clock_mhz in points
    )


def _carried(profile: Profile, load: Load, *, slo: Slo, order: Order, tensor_parallel: int, clock_mhz: int) -> Carried:
    rate = capacity_per_s(
        profile, load=load, slo=slo, order=order, tensor_parallel=tensor_parallel, clock_mhz=clock_mhz
    )
    full, half = (
        operating_point(
            profile,
            load=load,
            slo=slo,
            order=order,
            tensor_parallel=tensor_parallel,
            clock_mhz=clock_mhz,
            scale=share * rate / rate_per_s(load),
        ).power_w
        for share in (1.0, 0.5)
    )
    return Carried(order, tensor_parallel, clock_mhz, rate, full, half)
