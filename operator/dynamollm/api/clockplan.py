"""The clock plan: what the operator publishes on the agents' DaemonSet and every agent reads."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def _alias(name: str) -> str:
    return to_camel(name).replace("Mhz", "MHz")


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=_alias, populate_by_name=True, extra="forbid", frozen=True)


class ClockLadderStep(_Model):
    """Up to this load of one instance (prompt + generated tokens/s), this SM clock."""

    max_tokens_per_second: float = Field(ge=0)
    clock_mhz: int = Field(gt=0)


class ClockGroup(_Model):
    """The limits, the safe clock and the ladder of one shard group."""

    min_mhz: int = Field(gt=0)
    max_mhz: int = Field(gt=0)
    safe_mhz: int = Field(gt=0)
    ladder: tuple[ClockLadderStep, ...] = ()


class ClockPlan(_Model):
    """Every shard group's clocks, valid for ``lease_seconds`` of wall time after ``issued_at``."""

    version: int = Field(default=1, ge=1, le=1)
    issued_at: datetime
    lease_seconds: float = Field(gt=0)
    groups: dict[str, ClockGroup] = Field(default_factory=dict)
    """Key ``<namespace>/<service>/<pool>/<tp>``."""


def clock_group_key(*, namespace: str, service: str, pool: str, tensor_parallel: int) -> str:
    """Return the key of a shard group in the clock plan."""
    return f"{namespace}/{service}/{pool}/{tensor_parallel}"
