"""What every policy is given and gives: a situation in, the plan that should be in force out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Final, Protocol

from dynamollm.core.classes import RequestClass
from dynamollm.core.coupling import MAX_GPUS
from dynamollm.core.forecast import Outlook
from dynamollm.core.objective import Budget
from dynamollm.core.records import Load, Plan, Service
from dynamollm.core.sizing import Sizing


class Reason(StrEnum):
    """The stable reasons of a plan, for conditions, events and whoever filters on them (docs/decisions.md)."""

    INITIAL = "Initial"
    """The first plan of these settings."""
    STEADY = "Steady"
    """A level decided, and nothing was worth changing."""
    SCALED = "Scaled"
    """Instances or pools changed."""
    RESHARDED = "Resharded"
    """TP degrees changed."""
    LOAD_ABOVE_CAPACITY = "LoadAboveCapacity"
    """Between the epochs the observed load outgrew the plan, which grew at once."""
    SLO_MISSED = "SLOMissed"
    """Requests missed their SLO: capacities count for less, and the plan grew at once."""
    LOAD_UNKNOWN = "LoadUnknown"
    """No trustworthy load: the last plan holds, with safe clocks."""
    LOAD_OUTSIDE_PROFILE = "LoadOutsideProfile"
    """The profile was not measured where the load is: the last plan holds, with safe clocks."""
    CAPACITY_UNAVAILABLE = "CapacityUnavailable"
    """The load needs more GPUs than the service may have or the nodes can give."""
    SLO_UNATTAINABLE = "SLOUnattainable"
    """For some class no TP degree keeps the SLO even at the highest clock and for one request at a time."""


HOLDING: Final = frozenset({Reason.LOAD_UNKNOWN, Reason.LOAD_OUTSIDE_PROFILE})
"""Reasons of plans that only hold what was there, with safe clocks, until load can be judged again."""


CANNOT_KEEP_SLO: Final = frozenset({Reason.CAPACITY_UNAVAILABLE, Reason.SLO_UNATTAINABLE})
"""Reasons of plans that know that they do not keep the SLO."""


@dataclass(frozen=True, slots=True)
class Due:
    """Which levels decide in this cycle."""

    cluster: bool = False
    """Pools, instances and routing."""
    pools: bool = False
    """TP degrees."""
    hot: frozenset[str] = frozenset()
    """Pools whose observed load is above what their plan carries."""

    def __bool__(self) -> bool:
        return self.cluster or self.pools or bool(self.hot)


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a policy decides on."""

    service: Service
    sizing: Sizing
    outlook: Outlook
    recent: Load
    """The load of now, by class; empty where only the prior is known."""
    current: Plan | None
    """The plan in force, if it was made for these settings."""
    due: Due
    max_gpus: int
    """GPUs that the service may hold in all now: its limit, what can be had, and what could not be had lately."""
    bins: tuple[int, ...] | None
    """Where instances fit: free GPUs of each node and the place of each own instance; None: unknown."""
    free: tuple[int, ...]
    """GPUs that are free now, by node."""
    may_reduce: bool
    """False while instances are waiting or starting."""
    now_s: float
    gpu_limit: str = MAX_GPUS
    """What it is that allows no more than ``max_gpus`` (``core.coupling``)."""
    budget: Budget = field(default_factory=Budget)
    """Watts and money that the service may spend."""


class Policy(Protocol):
    """A policy; it keeps no state between calls."""

    @property
    def at_once(self) -> bool:
        """Whether pools, instances and TP degrees are one decision, made as often as the paper's pool level."""

    def plan(self, situation: Situation) -> Plan:
        """Return the plan that should be in force; ``situation.current`` itself where nothing changes."""


@cache
def pool_name(classes: tuple[RequestClass, ...]) -> str:
    """Return the name of the pool of these classes: its largest class in lower case."""
    return list(RequestClass)[max(list(RequestClass).index(c) for c in classes)].value.lower()


def describe_mix(mix: Mapping[int, int]) -> str:
    """Return a mix for people: ``2×TP4 + 1×TP8``."""
    return " + ".join(f"{count}×TP{tp}" for tp, count in sorted(mix.items())) or "no instance"
