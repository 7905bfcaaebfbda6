"""The runner-up of a plan in words: what it would be, what more it would use, and why it was not taken."""

from dynamollm.core.decide import least_saving
from dynamollm.core.objective import ENERGY, weights
from dynamollm.core.policies.base import describe_mix
from dynamollm.core.policies.filled import mix_of
from dynamollm.core.policies.joint import POOL_WORTH
from dynamollm.core.records import Objective, Plan, PoolPlan, Service
from dynamollm.core.runnerup import SAME, Lost, RunnerUp
from dynamollm.core.words import counted


def in_words(other: RunnerUp, service: Service, plan: Plan) -> str:
    """Return a sentence or two on the runner-up of a plan."""
    if other.parted:
        pools = "; ".join(
            f"{' '.join(c for c in one.classes if c in one.load)} on {_groups(one)}" for one in other.pools
        )
        what = f"{counted(len(other.pools), 'pool')}: {pools}"
    else:
        what = "; ".join(f"the same pools, but {one.name} on {_groups(one)}" for one in other.pools)
    return f"{what}. Not taken: {_why(other, service, plan)}."


def _groups(pool: PoolPlan) -> str:
    """Return a pool's instances and clocks: ``1×TP2 at 1980 MHz + 2×TP4 at 855 MHz``."""
    clocks = {group.tensor_parallel: group.clock_mhz for group in pool.groups}
    return " + ".join(f"{describe_mix({tp: count})} at {clocks[tp]} MHz" for tp, count in sorted(mix_of(pool).items()))


def _why(other: RunnerUp, service: Service, plan: Plan) -> str:
    behavior = service.behavior
    more = other.gpus - plan.gpus
    return {
        Lost.DEARER: f"it would use {_amount(other, service)} more",
        Lost.CARRIES_LESS: (
            f"it would carry {other.capacity_per_s:.2f} requests/s, less than these "
            f"{sum(pool.capacity_per_s for pool in plan.pools):.2f}"
        ),
        Lost.SERVES_LESS: "it would serve less of a load that does not fit",
        Lost.MORE_GPUS: f"it would take {counted(more, 'GPU')} more",
        Lost.MORE_POOLS: f"it would save {_amount(other, service)}, and a pool more has to save {100 * POOL_WORTH:g} %",
        Lost.IN_FORCE: (
            f"it would save {_amount(other, service)}; what is in force stays unless a change saves more than "
            f"{100 * least_saving(service):g} % (behavior.minSavingPercent) at every load within {100 * behavior.tolerance:g} % of "
            "this one (behavior.tolerancePercent), and carries the load with an instance fewer"
        ),
        Lost.EQUAL: f"it would use as much, to within {100 * SAME:g} %",
    }[other.lost]


def _amount(other: RunnerUp, service: Service) -> str:
    """Return how far its objective is from the plan's: ``122 W (4.7 %)``."""
    prices, amount = service.prices, abs(other.more_w)
    share = f" ({100 * abs(other.share):.2g} %)" if other.share else ""
    if service.objective is Objective.COST and prices.electricity_usd_per_kwh > 0:
        return f"{amount * prices.electricity_usd_per_kwh / 1e3:.2f} USD/h{share}"
    if service.objective is Objective.COST and prices.gpu_usd_per_hour > 0:
        return f"{amount / weights(service).gpu * prices.gpu_usd_per_hour:.2f} USD/h{share}"
    if service.objective is Objective.CARBON and prices.carbon_g_per_kwh > 0:
        return f"{amount * prices.carbon_g_per_kwh / 1e3:.0f} g/h of CO2 equivalent{share}"
    released = "" if weights(service) == ENERGY else ", what released GPUs draw counted"
    return f"{amount:.0f} W{share}{released}"
