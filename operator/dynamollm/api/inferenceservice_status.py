"""The status of an InferenceService: what is planned, what is there, and what it draws."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import Field

from dynamollm.api.common import Condition, Generation, RequestClassName, Status, list_map

Count = Annotated[int, Field(ge=0, le=1_000_000)]
OptionalCount = Annotated[int | None, Field(ge=0, le=1_000_000)]
BasisPoints = Annotated[int | None, Field(ge=0, le=10_000)]
MilliPerSecond = Annotated[int | None, Field(ge=0, le=1_000_000_000_000)]
Watts = Annotated[int | None, Field(ge=0, le=1_000_000_000)]
Total = Annotated[int | None, Field(ge=0, le=1_000_000_000_000_000)]
Text = Annotated[str | None, Field(max_length=1024)]
Column = Annotated[str | None, Field(max_length=64)]

PRESERVED: Final = {"x-kubernetes-preserve-unknown-fields": True}

CONDITIONS: Final[Mapping[str, str]] = {
    "Ready": "At least one instance of every pool serves, and the router is up.",
    "Planned": "A plan for the current spec is in force.",
    "Converged": "What is there is what the plan wants; False while steps are under way.",
    "SLOMet": "The share of requests that met their SLO is at least slo.percentile; Unknown without requests.",
    "MetricsAvailable": "Prometheus answers with recent load; False: the plan is held and clocks are safe.",
    "CapacityUnavailable": "True: pods waited for a node longer than behavior.pendingTimeoutSeconds.",
    "ProfileValid": "profileRef names a profile of this model, GPU and these TP degrees.",
    "PricesKnown": "The ClusterPolicy has the prices that objective and limits.maxCostCentsPerHour ask for; False: without any price plans minimise energy and a limit on cost is not kept; where only GPUs or only electricity has one, that alone counts.",
    "Paused": "True: spec.paused keeps everything as it is.",
}
"""The conditions of an InferenceService and when each is True."""


class GpusStatus(Status):
    """GPUs of the service."""

    desired: Count = 0
    """GPUs that the plan takes once it is in place."""
    ready: Count = 0
    """GPUs under instances that are Ready."""
    limit: Count = 0
    """GPUs that the service may take: the lower of spec.limits.maxGPUs and what the ClusterPolicy leaves."""


class GroupStatus(Status):
    """A shard group: the instances of a pool that share a TP degree, one Deployment."""

    tensor_parallel: Annotated[int, Field(ge=1, le=16)]
    """GPUs per instance."""
    desired: Count = 0
    """Instances that the plan wants."""
    ready: Count = 0
    """Instances that are Ready."""
    routable: Count = 0
    """Instances that get new requests."""
    draining: Count = 0
    """Instances that finish their requests and go."""
    clock_mhz: Annotated[int | None, Field(ge=0, le=10_000)] = None
    """SM clock expected at the planned load, MHz; agents follow the load."""


class PoolStatus(Status):
    """A pool: the instances that serve a set of request classes."""

    name: Annotated[str, Field(min_length=1, max_length=32)]
    """Name, part of the Deployments' names."""
    classes: Annotated[tuple[RequestClassName, ...], Field(max_length=9)] = ()
    """Request classes that are routed to it."""
    rate_per_second_milli: MilliPerSecond = None
    """Load that it is planned for, thousandths of a request/s."""
    capacity_per_second_milli: MilliPerSecond = None
    """Load that it carries within the SLO at the highest clock, thousandths of a request/s."""
    groups: Annotated[tuple[GroupStatus, ...], Field(max_length=8, json_schema_extra=list_map("tensorParallel"))] = ()
    """Its shard groups."""


class PowerStatus(Status):
    """GPU power of the service."""

    expected_watts: Watts = None
    """By the plan at the planned load, W."""
    observed_watts: Watts = None
    """Measured by the agents, W; absent: unknown."""


class ClassSloStatus(Status):
    """SLO attainment of one request class."""

    request_class: RequestClassName = Field(alias="class")
    """The class."""
    attainment_basis_points: BasisPoints = None
    """Share of its requests that met their SLO, hundredths of a percent."""
    requests: Total = None
    """Requests that the share is taken over."""


class SloStatus(Status):
    """SLO attainment over the last scale interval."""

    attainment_basis_points: BasisPoints = None
    """Share of all requests that met their SLO, hundredths of a percent; absent: unknown or no requests."""
    by_class: Annotated[tuple[ClassSloStatus, ...], Field(max_length=9, json_schema_extra=list_map("class"))] = ()
    """The same by class."""


class ForecastStatus(Status):
    """The forecast behind the plan."""

    rate_per_second_milli: MilliPerSecond = None
    """Expected peak over the horizon, thousandths of a request/s."""
    upper_rate_per_second_milli: MilliPerSecond = None
    """Upper band of the same, which capacity is planned for, thousandths of a request/s."""
    observed_rate_per_second_milli: MilliPerSecond = None
    """Load now, thousandths of a request/s; absent: unknown."""
    error_basis_points: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    """Mean absolute error of the expected peak over the last days, hundredths of a percent of the peak that came."""
    mode: Annotated[str | None, Field(max_length=32)] = None
    """Method in force: Prior, Untested, Reactive, Trend, Daily or Weekly."""
    coverage_basis_points: BasisPoints = None
    """Share of the peaks that came at or below the upper band, hundredths of a percent; forecast.bandPercentile is the aim."""
    pinball_per_second_milli: MilliPerSecond = None
    """Mean pinball loss of the upper band, thousandths of a request/s."""
    naive_pinball_per_second_milli: MilliPerSecond = None
    """The same of the naive forecast, the level with a band; above it the forecast demotes itself to that."""


class DisplayStatus(Status):
    """The same for people: ready-made texts, since a printer column can show one value only."""

    gpus: Column = None
    """GPUs ready of the limit, "36/96"."""
    clock: Column = None
    """Lowest and highest planned clock, "1005-1980 MHz"."""
    power: Column = None
    """GPU power, observed or else expected, "14.1 kW"."""
    slo: Column = None
    """SLO attainment, "99.4 %"."""


class InferenceServiceStatus(Status):
    """What is planned, what is there, and what it draws."""

    observed_generation: Generation = None
    """metadata.generation of the spec that this status speaks about."""
    policy: Annotated[str | None, Field(max_length=32)] = None
    """Policy in force."""
    gpus: GpusStatus | None = None
    """GPUs."""
    pool_count: Annotated[int | None, Field(ge=0, le=32)] = None
    """Pools of the plan that have instances."""
    pools: Annotated[tuple[PoolStatus, ...], Field(max_length=32, json_schema_extra=list_map("name"))] = ()
    """Pools of the plan, and those that are going."""
    power: PowerStatus | None = None
    """Power."""
    energy_watt_hours: Total = None
    """GPU energy since the service was created, Wh; absent: unknown."""
    cost_micro_usd: Total = None
    """Cost of that energy, each part at the price of its hour, since there is one in the ClusterPolicy; millionths of a US dollar."""
    carbon_milligrams: Total = None
    """Carbon of that energy, each part at the intensity of its hour, since there is one in the ClusterPolicy; milligrams of CO2 equivalent."""
    slo: SloStatus | None = None
    """SLO attainment."""
    forecast: ForecastStatus | None = None
    """Forecast."""
    plan_summary: Text = None
    """The plan in force and what is being done, one sentence."""
    plan: Annotated[dict[str, Any] | None, Field(json_schema_extra=PRESERVED)] = None
    """The plan in force, whole: a restarted operator goes on from here."""
    advice: Annotated[dict[str, Any] | None, Field(json_schema_extra=PRESERVED)] = None
    """The plan that mode Advise would enforce, whole."""
    display: DisplayStatus | None = None
    """Texts of the printer columns."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_map("type"))] = ()
    """What holds and what does not, each with a stable reason and a sentence that says what to do."""

    def with_display(self) -> Self:
        """Return the status with what the printer columns show, derived from the rest."""
        planned = [pool for pool in self.pools if any(group.desired for group in pool.groups)]
        clocks = [group.clock_mhz for pool in planned for group in pool.groups if group.clock_mhz is not None]
        watts = None
        if self.power is not None:
            watts = self.power.expected_watts if self.power.observed_watts is None else self.power.observed_watts
        attainment = None if self.slo is None else self.slo.attainment_basis_points
        display = DisplayStatus(
            gpus=None if self.gpus is None else f"{self.gpus.ready}/{self.gpus.limit}",
            clock=_range(clocks),
            power=None if watts is None else f"{watts / 1000:.1f} kW",
            slo=None if attainment is None else f"{attainment / 100:.1f} %",
        )
        return self.model_copy(update={"pool_count": len(planned), "display": display})


def _range(clocks_mhz: list[int]) -> str | None:
    if not clocks_mhz:
        return None
    low, high = min(clocks_mhz), max(clocks_mhz)
    return f"{low} MHz" if low == high else f"{low}-{high} MHz"
