"""From the custom resource to the core's ``Service``: percent to fractions, per minute to per second, integers to values."""

from typing import Final

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.core.classes import ClassBoundaries, Length, RequestClass
from dynamollm.core.records import (
    Behavior,
    ForecastSettings,
    Intervals,
    Limits,
    Objective,
    Order,
    Pins,
    PolicyName,
    Service,
    Slo,
    SloRule,
)

CENTS_PER_USD: Final = 100


def service_from_spec(namespace: str, name: str, spec: InferenceServiceSpec) -> Service:
    """Return the service as the core sees it; nothing has a price yet, see `core.prices`.

    The spec is taken as valid: pydantic and the API server have judged it before.
    """
    cents_per_hour = spec.limits.max_cost_cents_per_hour
    return Service(
        namespace=namespace,
        name=name,
        slo=_slo(spec),
        policy=PolicyName(spec.policy),
        boundaries=ClassBoundaries(
            input_short=spec.classes.input_tokens.short,
            input_medium=spec.classes.input_tokens.medium,
            output_short=spec.classes.output_tokens.short,
            output_medium=spec.classes.output_tokens.medium,
        ),
        tensor_parallel=tuple(sorted(set(spec.gpu.tensor_parallel))),
        gpus_per_node=spec.gpu.per_node,
        limits=Limits(
            min_instances=spec.limits.min_instances,
            max_gpus=spec.limits.max_gpus,
            max_watts=None if spec.limits.max_watts is None else float(spec.limits.max_watts),
            max_usd_per_hour=None if cents_per_hour is None else cents_per_hour / CENTS_PER_USD,
        ),
        behavior=Behavior(
            scale_down_stabilization_s=spec.behavior.scale_down_stabilization_seconds,
            tolerance=spec.behavior.tolerance_percent / 100,
            min_saving=spec.behavior.min_saving_percent / 100,
            drain_timeout_s=spec.behavior.drain_timeout_seconds,
            pending_timeout_s=spec.behavior.pending_timeout_seconds,
            max_correction=spec.behavior.max_correction_percent / 100,
        ),
        intervals=Intervals(
            scale_s=spec.intervals.scale_seconds,
            shard_s=spec.intervals.shard_seconds,
            clock_s=spec.intervals.clock_seconds,
        ),
        forecast=ForecastSettings(
            band=spec.forecast.band_percentile / 100,
            initial_rate_per_s=spec.forecast.initial_requests_per_minute / 60,
        ),
        order=Order(spec.engine.scheduling),
        routers=spec.router.replicas,
        objective=Objective(spec.objective),
        pins=Pins(
            tensor_parallel=spec.pins.tensor_parallel,
            clock_mhz=spec.pins.clock_mhz,
            instances=spec.pins.instances,
            pools=spec.pins.pools,
        ),
        priority=spec.priority,
    )


def _slo(spec: InferenceServiceSpec) -> Slo:
    by_input = {
        Length.SHORT: spec.slo.ttft_milliseconds.short,
        Length.MEDIUM: spec.slo.ttft_milliseconds.medium,
        Length.LONG: spec.slo.ttft_milliseconds.long,
    }
    ttft_ms = {request_class: float(by_input[request_class.input_length]) for request_class in RequestClass}
    tbt_ms = dict.fromkeys(RequestClass, float(spec.slo.tbt_milliseconds))
    for override in spec.slo.overrides:
        request_class = RequestClass(override.request_class)
        if override.ttft_milliseconds is not None:
            ttft_ms[request_class] = float(override.ttft_milliseconds)
        if override.tbt_milliseconds is not None:
            tbt_ms[request_class] = float(override.tbt_milliseconds)
    return Slo(ttft_ms=ttft_ms, tbt_ms=tbt_ms, percentile=float(spec.slo.percentile), rule=SloRule(spec.slo.rule))
