"""From filled pools to a plan that says why it is as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from dynamollm.core.behavior import Recommendations, remember
from dynamollm.core.mix import gpus
from dynamollm.core.policies.base import Reason, Situation, describe_mix
from dynamollm.core.policies.filled import Filled, mix_of
from dynamollm.core.records import Plan, PoolPlan
from dynamollm.core.words import counted

WHOLE: Final = "*"
"""In what is remembered of recommendations, by pool: the GPUs of all pools together."""


def decided(s: Situation, filled: Sequence[Filled], *, recommended: int, binding: str = "") -> Plan:
    """Return the plan of these pools, decided now at both levels.

    Args:
        s: the situation.
        filled: pools.
        recommended: GPUs that would be best now, all pools together, whatever is held back.
        binding: the limits that other pools would break.
    """
    pools = tuple(one.with_ladders() for one in filled)
    reason = _reason(s, filled)
    binding = next((one.binding for one in filled if one.binding), binding)
    return Plan(
        pools=pools,
        scale_decided_s=s.now_s,
        shard_decided_s=s.now_s,
        power_w=sum(one.pool.power_w for one in filled),
        reason=reason,
        message=_message(s, reason, pools, binding),
        binding=binding,
        runner_up="; ".join(one.runner_up for one in filled if one.runner_up),
        downscale={
            **{one.pool.name: _remembered(s, one.pool.name, one.recommended_gpus) for one in filled},
            WHOLE: _remembered(s, WHOLE, recommended),
        },
    )


def grown(s: Situation, one: Filled, *, binding: str = "") -> Plan:
    """Return the current plan with this pool grown; what the levels decided stays decided when it was.

    ``binding``: the limits that its growth would break.
    """
    if s.current is None:
        raise ValueError("only a plan in force can grow")
    pools = tuple(one.with_ladders() if pool.name == one.pool.name else pool for pool in s.current.pools)
    reason = Reason.CAPACITY_UNAVAILABLE if one.short else Reason.LOAD_ABOVE_CAPACITY
    return replace(
        s.current,
        pools=pools,
        power_w=sum(pool.power_w for pool in pools),
        reason=reason,
        message=_message(s, reason, pools, binding),
        runner_up="",
        binding=binding,
        downscale={
            **s.current.downscale,
            one.pool.name: _remembered(s, one.pool.name, one.recommended_gpus),
            WHOLE: _remembered(s, WHOLE, sum(gpus(mix_of(pool)) for pool in pools)),
        },
    )


def _remembered(s: Situation, pool: str, recommended: int) -> Recommendations:
    past = s.current.downscale.get(pool, ()) if s.current else ()
    return remember(
        past,
        recommended=recommended,
        now_s=s.now_s,
        window_s=s.service.behavior.scale_down_stabilization_s,
    )


def _reason(s: Situation, filled: Sequence[Filled]) -> Reason:
    if any(one.short or one.degraded for one in filled):
        return Reason.CAPACITY_UNAVAILABLE
    if any(one.unattainable for one in filled):
        return Reason.SLO_UNATTAINABLE
    if s.current is None:
        return Reason.INITIAL
    old = {pool.name: mix_of(pool) for pool in s.current.pools}
    new = {one.pool.name: mix_of(one.pool) for one in filled}
    if [pool.classes for pool in s.current.pools] != [one.pool.classes for one in filled]:
        return Reason.SCALED
    if any(_resharded(old[name], mix) for name, mix in new.items()):
        return Reason.RESHARDED
    return Reason.STEADY if old == new else Reason.SCALED


def _resharded(old: Mapping[int, int], new: Mapping[int, int]) -> bool:
    more = any(new.get(tp, 0) > old.get(tp, 0) for tp in new)
    fewer = any(new.get(tp, 0) < old.get(tp, 0) for tp in old)
    return more and fewer


def _message(s: Situation, reason: Reason, pools: Sequence[PoolPlan], binding: str) -> str:
    what = ", ".join(f"{pool.name} {describe_mix(mix_of(pool))}" for pool in pools)
    rate = sum(pool.rate_per_s for pool in pools)
    capacity = sum(pool.capacity_per_s for pool in pools)
    plan = f"{what} for a peak of {rate:.2f} requests/s"
    room = counted(s.max_gpus, "GPU")
    does_not = f"would break {binding}" if binding else f"does not fit into {room} that may be had"
    sentences = {
        Reason.INITIAL: f"First plan: {plan}.",
        Reason.STEADY: f"Nothing was worth changing: {plan}.",
        Reason.SCALED: f"Scaled to {plan}.",
        Reason.RESHARDED: f"Re-sharded to {plan}.",
        Reason.LOAD_ABOVE_CAPACITY: f"The observed load outgrew the plan between two decisions: grown to {plan}.",
        Reason.CAPACITY_UNAVAILABLE: (
            f"The cheapest plan {does_not}: "
            f"{plan}, which carries {capacity:.2f}; raise that limit or the cluster's budget, or free GPUs."
        ),
        Reason.SLO_UNATTAINABLE: (
            f"No TP degree keeps the SLO for some class even at the highest clock: {plan}; "
            "relax slo, or allow a larger TP degree in gpu.tensorParallel."
        ),
    }
    dearer = f" A cheaper plan would break {binding}." if binding and reason is not Reason.CAPACITY_UNAVAILABLE else ""
    return sentences[reason] + dearer
