"""What keeps a plan from flapping: stabilisation of reductions, and none while a change is under way."""

from collections.abc import Iterable

from dynamollm.core.records import Instance, InstanceState, Service

Recommendations = tuple[tuple[float, int], ...]
"""(time_s, GPUs that were recommended then), oldest first."""


def stabilised_gpus(past: Recommendations, *, recommended: int, now_s: float, window_s: float) -> int:
    """Return the most GPUs that were recommended within the window, this recommendation included.

    As ``scaleDown.stabilizationWindowSeconds`` of a HorizontalPodAutoscaler: a reduction goes no lower than this.
    """
    return max([recommended, *(gpus for time_s, gpus in past if time_s > now_s - window_s)])


def remember(past: Recommendations, *, recommended: int, now_s: float, window_s: float) -> Recommendations:
    """Return the recommendations that still matter, with this one."""
    kept = tuple((time_s, gpus) for time_s, gpus in past if now_s - window_s < time_s < now_s)
    return (*kept, (now_s, recommended))


def change_under_way(service: Service, instances: Iterable[Instance], *, startup_s: float, now_s: float) -> bool:
    """Tell whether instances are waiting for GPUs or starting: until they are there, nothing may be taken away.

    What has been starting for longer than start-up and pending timeout together is broken, not under way: it must
    not hold the plan for ever.
    """
    patience_s = startup_s + service.behavior.pending_timeout_s
    return any(
        instance.state in (InstanceState.PENDING, InstanceState.STARTING)
        and instance.unrouted_s is None
        and now_s - instance.created_s <= patience_s
        for instance in instances
    )


def stuck_pending(service: Service, instances: Iterable[Instance], *, now_s: float) -> tuple[Instance, ...]:
    """Return the instances that have been waiting for GPUs longer than the pending timeout."""
    return tuple(
        instance
        for instance in instances
        if instance.state is InstanceState.PENDING and now_s - instance.created_s > service.behavior.pending_timeout_s
    )


def relative_change(new: float, old: float) -> float:
    """Return |new − old| / old; infinite from zero to something."""
    if old == 0:
        return 0.0 if new == 0 else float("inf")
    return abs(new - old) / old
