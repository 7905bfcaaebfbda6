"""What should be in force now: which levels are due, what is known, and the policy's answer.

``decide`` is level-based: it looks at one observation and at the plan in force, and gives back that same plan
(equal in every field) where nothing is due. Its own result is a fixed point.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from dynamollm.core.behavior import change_under_way, stuck_pending
from dynamollm.core.bursts import kept_for_bursts
from dynamollm.core.coupling import HAD_LATELY, LEFT_BY_CLUSTER, MAX_GPUS, ON_NODES
from dynamollm.core.errors import InvalidInputError, OutOfRangeError, UnknownDataError
from dynamollm.core.feedback import NOTHING, Learned, feedback
from dynamollm.core.forecast import outlook, prior_outlook, recent_load
from dynamollm.core.inventory import bins, room_beside
from dynamollm.core.margins import Reserve, reserve
from dynamollm.core.objective import budget
from dynamollm.core.policies.base import CANNOT_KEEP_SLO, HOLDING, Due, Policy, Reason, Situation
from dynamollm.core.policies.dynamo_llm import DYNAMO_LLM
from dynamollm.core.policies.joint import JOINT
from dynamollm.core.policies.multi_pool import MULTI_POOL
from dynamollm.core.policies.scale_freq import SCALE_FREQ
from dynamollm.core.policies.scale_inst import SCALE_INST
from dynamollm.core.policies.scale_shard import SCALE_SHARD
from dynamollm.core.policies.single_pool import SINGLE_POOL
from dynamollm.core.policies.single_pool_elastic import SINGLE_POOL_ELASTIC
from dynamollm.core.profile import Profile
from dynamollm.core.records import (
    InstanceState,
    Intervals,
    Ladder,
    Observation,
    Plan,
    PolicyName,
    PoolPlan,
    Prices,
    Service,
)
from dynamollm.core.sizing import ProfileSizing, Sizing, rate_per_s, tokens_per_s

POLICIES: Final[Mapping[PolicyName, Policy]] = {
    PolicyName.SINGLE_POOL: SINGLE_POOL,
    PolicyName.MULTI_POOL: MULTI_POOL,
    PolicyName.SCALE_INST: SCALE_INST,
    PolicyName.SCALE_SHARD: SCALE_SHARD,
    PolicyName.SCALE_FREQ: SCALE_FREQ,
    PolicyName.DYNAMO_LLM: DYNAMO_LLM,
    PolicyName.SINGLE_POOL_ELASTIC: SINGLE_POOL_ELASTIC,
    PolicyName.JOINT: JOINT,
}

_LEAST_PACE_S: Final = 60.0
"""Between two decisions of a policy that decides all at once: a sample of the load."""

_GROWTHS: Final = 4
"""How often a plan may grow before it is taken as it is: once nearly always, and each growth adds instances."""


def decide(
    service: Service,
    profile: Profile,
    observation: Observation,
    *,
    now_s: float,
    available_gpus: int,
    available_watts: float | None = None,
) -> Plan:
    """Return the plan that should be in force.

    ``available_gpus`` is what the service may hold in all: what its instances hold now and what is free, within the
    budgets above it (ClusterPolicy), and ``available_watts`` what it may draw in all within them; ``limits`` are applied
    here.

    Raises:
        InvalidInputError: the profile knows none of the service's TP degrees.
        OutOfRangeError: the load is outside the profile's range, and there is no plan to hold.
    """
    service = measured(service, profile)
    bursts = kept_for_bursts(observation.load)
    kept = reserve(chunked=profile.interleaves_prefill, order=service.order, rule=service.slo.rule).times(bursts)
    learned = feedback(service, observation, startup_s=profile.startup_s, now_s=now_s)
    sizing = sizing_of(service, profile, reserve=kept, correction=learned.factor)
    # Prices follow a schedule: they count from the next decision on, and make no settings new.
    basis = f"{replace(service, prices=Prices())!r}|{profile.name}"
    plan = decide_with(
        service,
        sizing,
        observation,
        now_s=now_s,
        available_gpus=available_gpus,
        available_watts=available_watts,
        basis=basis,
        learned=learned,
    )
    if plan.reason in HOLDING or _is_as_decided(plan, observation.plan):
        return plan
    told = f" Requests come in bursts: {100 * (bursts - 1):.0f} % more is kept for them." if bursts > 1 else ""
    return replace(plan, bursts=bursts, message=plan.message + told)


def _is_as_decided(plan: Plan, before: Plan | None) -> bool:
    """Return whether a plan is the one of an earlier decision, but perhaps for what was learned since."""
    if before is None or plan is before:
        return plan is before
    decided = (plan.pools, plan.scale_decided_s, plan.shard_decided_s)
    return decided == (before.pools, before.scale_decided_s, before.shard_decided_s)


def measured(service: Service, profile: Profile) -> Service:
    """Return a service with those of its TP degrees that a profile was measured at.

    Raises:
        InvalidInputError: it has none.
    """
    pinned = service.pins.tensor_parallel
    wanted = service.tensor_parallel if pinned is None else (pinned,)
    usable = tuple(tp for tp in wanted if tp in profile.tensor_parallel)
    if not usable:
        raise InvalidInputError(
            f"gpu.tensorParallel {list(wanted)} has no degree that profile {profile.name!r} was "
            f"measured at: use some of {list(profile.tensor_parallel)}, or another profile"
        )
    return replace(service, tensor_parallel=usable)


def sizing_of(service: Service, profile: Profile, *, reserve: Reserve, correction: float = 1.0) -> ProfileSizing:
    """Return what instances of a service are worth on a profile, so much of a capacity kept in reserve, and corrected."""
    return ProfileSizing(
        profile=profile,
        slo=service.slo,
        order=service.order,
        clock_mhz=service.pins.clock_mhz,
        routers=service.routers,
        reserve=reserve,
        correction=correction,
    )


def decide_with(
    service: Service,
    sizing: Sizing,
    observation: Observation,
    *,
    now_s: float,
    available_gpus: int,
    basis: str,
    available_watts: float | None = None,
    learned: Learned = NOTHING,
) -> Plan:
    """Return the plan that should be in force, on any source of capacities; see ``decide``.

    ``basis`` stands for all settings that the plan is made for: where it changes, everything is decided anew.
    """
    fingerprint = hashlib.sha256(basis.encode()).hexdigest()[:16]
    plan = observation.plan
    current = plan if plan is not None and plan.basis == fingerprint else None
    if service.pins.tensor_parallel is not None:
        service = replace(service, tensor_parallel=(service.pins.tensor_parallel,))
    intervals = service.intervals
    service = replace(
        service,
        intervals=epochs(service, startup_s=sizing.startup_s),
        behavior=replace(service.behavior, min_saving=least_saving(service)),
    )
    cap, cap_until_s = _cap(service, observation, now_s=now_s, believed_s=intervals.shard_s)
    places = bins(observation.nodes, observation.instances)
    # The first of equals is what a user would change first.
    limits = {
        MAX_GPUS: service.limits.max_gpus,
        ON_NODES if available_gpus >= sum(places) else LEFT_BY_CLUSTER: available_gpus,
        HAD_LATELY: available_gpus if cap is None else cap,
    }
    gpu_limit = min(limits, key=limits.__getitem__)
    situation = Situation(
        service=service,
        sizing=sizing,
        outlook=prior_outlook(settings=service.forecast, boundaries=service.boundaries),
        recent={},
        current=current,
        due=Due(cluster=True),
        max_gpus=limits[gpu_limit],
        bins=places,
        free=tuple(node.free for node in observation.nodes),
        may_reduce=not change_under_way(service, observation.instances, startup_s=sizing.startup_s, now_s=now_s),
        now_s=now_s,
        gpu_limit=gpu_limit,
        budget=budget(service.limits, service.prices, available_watts=available_watts),
    )
    anew = plan is None or _has_room_at_last(situation)
    try:
        decided = _known(situation, observation, intervals=intervals, misses=bool(learned.why))
    except UnknownDataError as error:
        held = _blind(situation) if plan is None or anew else plan
        decided = _held(held, sizing, Reason.LOAD_UNKNOWN, str(error))
    except OutOfRangeError as error:
        if plan is None:
            raise
        decided = _held(plan, sizing, Reason.LOAD_OUTSIDE_PROFILE, str(error))
    decided = _corrected(decided, learned)
    if plan is not None and decided == plan:
        return plan
    if decided.reason in HOLDING and not anew:
        return decided
    return replace(decided, basis=fingerprint, gpu_cap=cap, gpu_cap_until_s=cap_until_s)


def _corrected(plan: Plan, learned: Learned) -> Plan:
    """Return the plan with what was learned, and with that as its reason where it is what it was decided for."""
    plan = replace(plan, correction=learned.correction, corrected_s=learned.corrected_s)
    if not learned.why or plan.reason in HOLDING or plan.reason in CANNOT_KEEP_SLO:
        return plan
    more = f"{learned.why}: capacities count for {100 / learned.factor:.0f} % of the profile's, and less so by the hour"
    return replace(plan, reason=Reason.SLO_MISSED, message=f"{more}. {plan.message}")


def _known(blank: Situation, observation: Observation, *, intervals: Intervals, misses: bool) -> Plan:
    """Let the policy decide what is due, on load that is known; ``intervals``: as the service has them."""
    service, now_s = blank.service, blank.now_s
    recent = recent_load(observation.load, boundaries=service.boundaries, now_s=now_s)
    due = _due(replace(blank, recent=recent))
    if misses and not due.cluster:
        # Clocks too, which a pool that is only too hot does not get before it is due.
        due = Due(pools=True)
    if blank.current is not None and not due:
        return blank.current
    expected = outlook(
        observation.load,
        settings=service.forecast,
        intervals=intervals,
        boundaries=service.boundaries,
        now_s=now_s,
    )
    situation = replace(blank, recent=recent, outlook=expected, due=due)
    plan = _settled(situation, POLICIES[service.policy].plan(situation))
    on_time = levels_due(blank.current, service, startup_s=blank.sizing.startup_s, now_s=now_s)
    if blank.current is not None and not on_time and plan.pools == blank.current.pools:
        # Nothing came of an extraordinary decision, as in the cycle before: not a new plan.
        return blank.current if plan.reason == blank.current.reason else plan
    return plan


def _settled(s: Situation, plan: Plan) -> Plan:
    """Let pools that are too small for the load of now grow at once, as the next cycle would: a plan is a fixed point."""
    for _ in range(_GROWTHS):
        hot = frozenset(pool.name for pool in plan.pools if _is_hot(s, pool))
        if not hot:
            return plan
        grown = POLICIES[s.service.policy].plan(replace(s, current=plan, due=Due(hot=hot)))
        if grown.pools == plan.pools:
            return plan if grown.reason == plan.reason else grown
        plan = grown
    return plan


# ------------------------------------------------------------------ what is due
def _due(s: Situation) -> Due:
    on_time = levels_due(s.current, s.service, startup_s=s.sizing.startup_s, now_s=s.now_s)
    if s.current is None or on_time.cluster or s.current.gpus > s.max_gpus or _has_room_at_last(s):
        return Due(cluster=True)
    if on_time.pools or s.current.reason in HOLDING:
        return Due(pools=True)
    return Due(hot=frozenset(pool.name for pool in s.current.pools if _is_hot(s, pool)))


def _has_room_at_last(s: Situation) -> bool:
    """Whether the plan in force has no instance, as none fitted anywhere, and now one would."""
    smallest = min(s.service.tensor_parallel)
    return (
        s.current is not None
        and s.current.gpus == 0
        and smallest <= s.max_gpus
        and room_beside(s.bins, {})({smallest: 1})
    )


def epochs(service: Service, *, startup_s: float) -> Intervals:
    """Return how often each level decides: as the service has it, but where its policy decides all at once, as often as makes sense.

    The sooner the next decision, the less far ahead load has to be guessed; but before the instances of the last one serve
    there is nothing to judge it by, and load comes by the minute.
    """
    intervals = service.intervals
    if not POLICIES[service.policy].at_once:
        return intervals
    pace_s = min(intervals.scale_s, intervals.shard_s, max(_LEAST_PACE_S, startup_s))
    return replace(intervals, scale_s=pace_s, shard_s=pace_s)


def least_saving(service: Service) -> float:
    """Return the relative saving below which instances and pools are kept.

    A policy that decides all at once looks at its plan again within minutes. One with the paper's intervals does not for half an hour: there
    a change has to be worth it at other loads too, and so saves no less than the tolerance.
    """
    behavior = service.behavior
    return behavior.min_saving if POLICIES[service.policy].at_once else max(behavior.min_saving, behavior.tolerance)


def levels_due(current: Plan | None, service: Service, *, startup_s: float, now_s: float) -> Due:
    """Which levels' epochs have ended; a decision from the future (another clock) counts as ended."""
    if current is None:
        return Due(cluster=True)
    every = epochs(service, startup_s=startup_s)
    return Due(
        cluster=not 0 <= now_s - current.scale_decided_s < every.scale_s,
        pools=not 0 <= now_s - current.shard_decided_s < every.shard_s,
    )


def _is_hot(s: Situation, pool: PoolPlan) -> bool:
    """Whether the load of now is above what the plan carries at the mix of now, by more than the tolerance or than all of its reserve."""
    load = {c: s.recent[c] for c in pool.classes if c in s.recent}
    if rate_per_s(load) <= pool.rate_per_s and tokens_per_s(load) <= tokens_per_s(pool.load):
        return False
    capacity = sum(
        group.instances * s.sizing.capacity_per_s(load=load, tensor_parallel=group.tensor_parallel)
        for group in pool.groups
    )
    return rate_per_s(load) > capacity * min(1 + s.service.behavior.tolerance, s.sizing.reserve)


def _cap(service: Service, observation: Observation, *, now_s: float, believed_s: float) -> tuple[int | None, float]:
    """Return how many GPUs could be had while pods were pending too long, and until when that is believed."""
    if stuck_pending(service, observation.instances, now_s=now_s):
        held = sum(i.tensor_parallel for i in observation.instances if i.state is not InstanceState.PENDING)
        return held, now_s + believed_s
    plan = observation.plan
    if plan is not None and plan.gpu_cap is not None and now_s < plan.gpu_cap_until_s:
        return plan.gpu_cap, plan.gpu_cap_until_s
    return None, 0.0


# ------------------------------------------------------------------ when load cannot be judged
def _blind(s: Situation) -> Plan:
    """Return a first plan without any load: for the rate that the user expects, or the least at the largest TP."""
    policy = POLICIES[s.service.policy if s.service.forecast.initial_rate_per_s > 0 else PolicyName.SINGLE_POOL]
    plan = policy.plan(s)
    # Due as soon as load is known.
    return replace(plan, scale_decided_s=s.now_s - s.service.intervals.scale_s)


def _held(plan: Plan, sizing: Sizing, reason: Reason, message: str) -> Plan:
    """Return the plan with nothing but its clocks changed, to the safe one."""
    safe = Ladder(steps=(), safe_mhz=sizing.max_clock_mhz)
    pools = tuple(
        replace(
            pool,
            groups=tuple(replace(group, ladder=safe, clock_mhz=safe.safe_mhz) for group in pool.groups),
        )
        for pool in plan.pools
    )
    return replace(plan, pools=pools, reason=reason, message=message, runner_up="")
