"""From joules to what people pay and emit: watt-hours, money, carbon."""

JOULES_PER_WATT_HOUR = 3600.0
WATT_HOURS_PER_KILOWATT_HOUR = 1000.0


def watt_hours(energy_j: float) -> float:
    """Return joules as Wh."""
    return energy_j / JOULES_PER_WATT_HOUR


def cost_micro_usd(energy_j: float, *, price_micro_usd_per_kwh: float) -> float:
    """Return what this energy costs at a price in µUSD/kWh, in µUSD."""
    return watt_hours(energy_j) / WATT_HOURS_PER_KILOWATT_HOUR * price_micro_usd_per_kwh


def carbon_milligrams(energy_j: float, *, intensity_g_per_kwh: float) -> float:
    """Return the CO₂ equivalent of this energy at a carbon intensity in g/kWh, in mg."""
    return watt_hours(energy_j) * intensity_g_per_kwh  # g/kWh is mg/Wh
