"""A plan as JSON and back, exactly: how the status keeps the plan in force over restarts.

camelCase keys, floats as they are (JSON carries every double exactly), a version that another reader can refuse.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import ClassLoad, GroupPlan, Ladder, LadderStep, Plan, PoolPlan

VERSION: Final = 1

REMEDY: Final = ": remove status.plan, and another is made"


class _Model(BaseModel):
    # Unknown fields are ignored: a newer minor version may have added some.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False, frozen=True)


class _Step(_Model):
    max_tokens_per_s: float
    clock_mhz: int


class _Group(_Model):
    tensor_parallel: int = Field(ge=1)
    instances: int = Field(ge=0)
    clock_mhz: int = Field(gt=0)
    safe_mhz: int = Field(gt=0)
    ladder: tuple[_Step, ...] = ()
    full_in_flight: float = Field(default=0.0, ge=0)


class _ClassLoad(_Model):
    rate_per_s: float = Field(ge=0)
    input_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    brief_share: float = Field(default=0.0, ge=0, le=1)


class _Pool(_Model):
    name: str
    classes: tuple[RequestClass, ...]
    rate_per_s: float = Field(ge=0)
    capacity_per_s: float = Field(ge=0)
    groups: tuple[_Group, ...]
    load: dict[RequestClass, _ClassLoad]
    capacity_by_tp: dict[int, float]
    gpu_budget: int
    power_w: float


class _Recommendation(_Model):
    time_s: float
    gpus: int


class _Plan(_Model):
    version: int
    pools: tuple[_Pool, ...]
    scale_decided_s: float
    shard_decided_s: float
    power_w: float
    reason: str
    message: str
    runner_up: str = ""
    binding: str = ""
    downscale: dict[str, tuple[_Recommendation, ...]]
    basis: str
    gpu_cap: int | None = None
    gpu_cap_until_s: float = 0.0
    correction: float = Field(default=1.0, ge=1)
    corrected_s: float = 0.0
    bursts: float = Field(default=1.0, ge=1)


def encode(plan: Plan) -> dict[str, Any]:
    """Return a plan as a JSON-able dict."""
    model = _Plan(
        version=VERSION,
        pools=tuple(_encode_pool(pool) for pool in plan.pools),
        scale_decided_s=plan.scale_decided_s,
        shard_decided_s=plan.shard_decided_s,
        power_w=plan.power_w,
        reason=str(plan.reason),
        message=plan.message,
        runner_up=plan.runner_up,
        binding=plan.binding,
        downscale={
            pool: tuple(_Recommendation(time_s=time_s, gpus=gpus) for time_s, gpus in past)
            for pool, past in plan.downscale.items()
        },
        basis=plan.basis,
        gpu_cap=plan.gpu_cap,
        gpu_cap_until_s=plan.gpu_cap_until_s,
        correction=plan.correction,
        corrected_s=plan.corrected_s,
        bursts=plan.bursts,
    )
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def decode(value: Mapping[str, Any]) -> Plan:
    """Return the plan of a dict that ``encode`` made.

    Raises:
        InvalidInputError: it is not a plan, or one of another version.
    """
    version = value.get("version") if isinstance(value, Mapping) else None
    if version != VERSION:
        raise InvalidInputError(f"the stored plan has version {version!r}, and this operator reads {VERSION}{REMEDY}")
    try:
        model = _Plan.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(
            f"the stored plan's field {place} is {first['input']!r}, {first['msg']}{REMEDY}"
        ) from error
    return Plan(
        pools=tuple(_decode_pool(pool) for pool in model.pools),
        scale_decided_s=model.scale_decided_s,
        shard_decided_s=model.shard_decided_s,
        power_w=model.power_w,
        reason=model.reason,
        message=model.message,
        runner_up=model.runner_up,
        binding=model.binding,
        downscale={pool: tuple((entry.time_s, entry.gpus) for entry in past) for pool, past in model.downscale.items()},
        basis=model.basis,
        gpu_cap=model.gpu_cap,
        gpu_cap_until_s=model.gpu_cap_until_s,
        correction=model.correction,
        corrected_s=model.corrected_s,
        bursts=model.bursts,
    )


def _encode_pool(pool: PoolPlan) -> _Pool:
    return _Pool(
        name=pool.name,
        classes=pool.classes,
        rate_per_s=pool.rate_per_s,
        capacity_per_s=pool.capacity_per_s,
        groups=tuple(
            _Group(
                tensor_parallel=group.tensor_parallel,
                instances=group.instances,
                clock_mhz=group.clock_mhz,
                safe_mhz=group.ladder.safe_mhz,
                full_in_flight=group.full_in_flight,
                ladder=tuple(
                    _Step(max_tokens_per_s=step.max_tokens_per_s, clock_mhz=step.clock_mhz)
                    for step in group.ladder.steps
                ),
            )
            for group in pool.groups
        ),
        load={
            request_class: _ClassLoad(
                rate_per_s=part.rate_per_s,
                input_tokens=part.input_tokens,
                output_tokens=part.output_tokens,
                brief_share=part.brief_share,
            )
            for request_class, part in pool.load.items()
        },
        capacity_by_tp=dict(pool.capacity_by_tp),
        gpu_budget=pool.gpu_budget,
        power_w=pool.power_w,
    )


def _decode_pool(pool: _Pool) -> PoolPlan:
    return PoolPlan(
        name=pool.name,
        classes=pool.classes,
        rate_per_s=pool.rate_per_s,
        capacity_per_s=pool.capacity_per_s,
        groups=tuple(
            GroupPlan(
                tensor_parallel=group.tensor_parallel,
                instances=group.instances,
                ladder=Ladder(
                    steps=tuple(LadderStep(step.max_tokens_per_s, step.clock_mhz) for step in group.ladder),
                    safe_mhz=group.safe_mhz,
                ),
                clock_mhz=group.clock_mhz,
                full_in_flight=group.full_in_flight,
            )
            for group in pool.groups
        ),
        load={
            request_class: ClassLoad(part.rate_per_s, part.input_tokens, part.output_tokens, part.brief_share)
            for request_class, part in pool.load.items()
        },
        capacity_by_tp=pool.capacity_by_tp,
        gpu_budget=pool.gpu_budget,
        power_w=pool.power_w,
    )
