"""What a plan minimises and what it may spend: watts and held GPUs, weighed by the service's objective and prices.

Every objective is linear in the two, so one pair of weights ranks all plans. Costs are in equivalent watts: what a
plan's watts and GPUs are worth, in watts of the same worth.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.records import Limits, Objective, Prices, Service

_GPU_ONLY_W: Final = 1000.0
"""Equivalent watts of a GPU where electricity costs nothing and GPUs do: any value ranks plans the same."""

ROUNDING: Final = 1e-6
"""Relative error of sums that a limit tolerates."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Equivalent watts of a watt drawn and of a GPU held."""

    watt: float = 1.0
    gpu: float = 0.0
    """Negative where released GPUs go on drawing: holding one costs only what it draws beyond that."""

    def cost(self, watts: Any, gpus: Any) -> Any:
        """Return equivalent watts, of numbers or of arrays."""
        return self.watt * watts + self.gpu * gpus


ENERGY: Final = Weights()
"""Watts alone."""


def weights(service: Service) -> Weights:
    """Return what a service's objective weighs; where its prices are all zero they rank nothing, and energy does."""
    prices = service.prices
    per_watt = {
        Objective.ENERGY: 1.0,
        Objective.COST: prices.electricity_usd_per_kwh,
        Objective.CARBON: prices.carbon_g_per_kwh,
    }[service.objective]
    per_gpu = 1e3 * prices.gpu_usd_per_hour if service.objective is Objective.COST else 0.0
    if per_watt <= 0:
        return Weights(watt=0.0, gpu=_GPU_ONLY_W) if per_gpu > 0 else Weights(gpu=-prices.released_gpu_w)
    return Weights(gpu=per_gpu / per_watt - prices.released_gpu_w)


def usd_per_hour(prices: Prices, *, watts: Any, gpus: Any) -> Any:
    """Return what running costs, electricity of the held GPUs and the GPUs themselves; of numbers or of arrays."""
    return prices.electricity_usd_per_kwh * watts / 1e3 + prices.gpu_usd_per_hour * gpus


def grams_per_hour(prices: Prices, *, watts: float) -> float:
    """Return grams of CO2 equivalent an hour."""
    return prices.carbon_g_per_kwh * watts / 1e3


@dataclass(frozen=True, slots=True)
class Budget:
    """Watts and money that are left for what is not planned yet."""

    watts: float = math.inf
    usd_per_hour: float = math.inf
    prices: Prices = field(default_factory=Prices)

    @property
    def bounded(self) -> bool:
        """Whether there is a limit at all."""
        return not (math.isinf(self.watts) and math.isinf(self.usd_per_hour))

    def allows(self, *, watts: Any, gpus: Any) -> NDArray[np.bool_]:
        """Tell which of these may be afforded; of numbers or of arrays."""
        if not self.bounded:
            return np.ones(np.shape(watts), dtype=np.bool_)
        slack = 1 + ROUNDING
        spent = usd_per_hour(self.prices, watts=watts, gpus=gpus)
        allowed: NDArray[np.bool_] = np.logical_and(watts <= self.watts * slack, spent <= self.usd_per_hour * slack)
        return allowed

    def less(self, *, watts: float, gpus: float) -> "Budget":
        """Return what is left after these."""
        spent = usd_per_hour(self.prices, watts=watts, gpus=gpus)
        return Budget(self.watts - watts, self.usd_per_hour - spent, self.prices)


def budget(limits: Limits, prices: Prices, *, available_watts: float | None = None) -> Budget:
    """Return what a service may spend, within its own limits and what the budgets above it leave."""
    return Budget(
        watts=min(math.inf if watts is None else watts for watts in (limits.max_watts, available_watts)),
        usd_per_hour=math.inf if limits.max_usd_per_hour is None else limits.max_usd_per_hour,
        prices=prices,
    )
