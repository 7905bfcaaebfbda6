"""The ClusterPolicy: what holds for all services of the cluster. One object, named ``default``."""

from typing import Annotated, ClassVar

from pydantic import Field

from dynamollm.api.common import Rule, Spec, list_map

PriceMicroUsd = Annotated[int, Field(ge=0, le=100_000_000)]
GramsPerKwh = Annotated[int, Field(ge=0, le=10_000)]
HourOfDay = Annotated[int, Field(ge=0, le=23)]


class PriceFrom(Spec):
    """A price of electricity from an hour of the day on."""

    from_hour: HourOfDay
    """Hour of the day, UTC."""
    micro_usd_per_kwh: PriceMicroUsd
    """Price from then on until the next entry, millionths of a US dollar per kWh."""


class IntensityFrom(Spec):
    """A carbon intensity from an hour of the day on."""

    from_hour: HourOfDay
    """Hour of the day, UTC."""
    grams_per_kwh: GramsPerKwh
    """Intensity from then on until the next entry, grams of CO2 equivalent per kWh."""


class ClusterPolicySpec(Spec):
    """Budgets, prices and carbon intensity that all services of the cluster share."""

    max_gpus: Annotated[int | None, Field(ge=1, le=100_000)] = None
    """GPUs that all services together may take, pods that are being replaced included; absent: no budget."""
    max_watts: Annotated[int | None, Field(ge=1, le=1_000_000_000)] = None
    """Expected GPU power of all services' plans together at most, W; absent: no budget."""
    gpu_price_micro_usd_per_hour: PriceMicroUsd | None = None
    """Price of holding a GPU for an hour, millionths of a US dollar (2 USD is 2000000); absent: unknown, and what is said of cost is of electricity alone. 0: it costs nothing."""
    released_gpu_watts: Annotated[int, Field(ge=0, le=5_000)] = 0
    """What a GPU draws that no service holds, W: 0 where its node is switched off or used by others, the profile's gpu.idleWatts where it stays on. Holding a GPU costs only what it draws beyond that."""
    electricity_price_micro_usd_per_kwh: PriceMicroUsd | None = None
    """Price of electricity at all hours, millionths of a US dollar per kWh (0.12 USD is 120000); absent, without a schedule: unknown, no cost is reported, and plans count the price of GPUs alone."""
    electricity_price_schedule: Annotated[
        tuple[PriceFrom, ...], Field(max_length=24, json_schema_extra=list_map("fromHour"))
    ] = ()
    """Price of electricity by hour of the day, in place of one price; before the first entry the last one holds."""
    carbon_intensity_grams_per_kwh: GramsPerKwh | None = None
    """Carbon intensity of the electricity at all hours, grams of CO2 equivalent per kWh; absent, without a schedule: no carbon is reported."""
    carbon_intensity_schedule: Annotated[
        tuple[IntensityFrom, ...], Field(max_length=24, json_schema_extra=list_map("fromHour"))
    ] = ()
    """Carbon intensity by hour of the day, in place of one intensity; before the first entry the last one holds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.electricityPriceMicroUSDPerKWh) || self.electricityPriceSchedule.size() == 0",
            message="electricityPriceSchedule and electricityPriceMicroUSDPerKWh are both set: remove one",
            detail="electricityPriceMicroUSDPerKWh is %d, and electricityPriceSchedule has prices too: remove one",
            values=("self.electricityPriceMicroUSDPerKWh",),
            field_path=".electricityPriceSchedule",
            holds=lambda self: self.electricity_price_micro_usd_per_kwh is None or not self.electricity_price_schedule,
            found=lambda self: (self.electricity_price_micro_usd_per_kwh,),
        ),
        Rule(
            rule="!has(self.carbonIntensityGramsPerKWh) || self.carbonIntensitySchedule.size() == 0",
            message="carbonIntensitySchedule and carbonIntensityGramsPerKWh are both set: remove one",
            detail="carbonIntensityGramsPerKWh is %d, and carbonIntensitySchedule has intensities too: remove one",
            values=("self.carbonIntensityGramsPerKWh",),
            field_path=".carbonIntensitySchedule",
            holds=lambda self: self.carbon_intensity_grams_per_kwh is None or not self.carbon_intensity_schedule,
            found=lambda self: (self.carbon_intensity_grams_per_kwh,),
        ),
    )
    root_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.metadata.name == 'default'",
            message="metadata.name must be default: the cluster has one ClusterPolicy",
            detail="metadata.name is %s: the cluster has one ClusterPolicy, name it default",
            values=("self.metadata.name",),
            holds=lambda name: name == "default",
            found=lambda name: (name,),
        ),
    )
