"""What measured misses tell plans: instances carry less than was thought.

A profile can promise too much (another model, a slower engine, a busy network), and streams can come in longer bursts than
those that reserves were measured on. Where requests miss their SLO faster than it allows, capacities count for less from
then on, at once; what was learned fades over hours, and sooner where hardly any request misses its SLO any more, so that a
bad hour is not paid for by the week after it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dynamollm.core.classes import RequestClass
from dynamollm.core.policies.base import CANNOT_KEEP_SLO
from dynamollm.core.records import Attainment, Observation, Plan, Service, SloRule

WINDOW_S: Final = 120.0
"""Requests that ended so lately are looked at."""
BURN_RATE: Final = 2.0
"""How many times faster than the SLO allows they must miss it."""
LEAST_MISSED: Final = 10.0
"""Fewer misses within a window are chance."""
STEP: Final = 1.15
HALF_LIFE_S: Final = 7200.0

CALM: Final = 0.3
"""Where at most this share of the misses that the SLO allows came within a scale interval, chance counted in, less would do."""
CALM_STEP: Final = 1.02
CALM_PACE_S: Final = 600.0
"""Then so much less every ten minutes, besides the fading: slowly, as the scale interval still holds requests of before."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a service's capacities are divided by, besides the reserve."""

    correction: float = 1.0
    """As of ``corrected_s``; what a plan keeps."""
    corrected_s: float = 0.0
    factor: float = 1.0
    """What is left of it now."""
    why: str = ""
    """Why it was raised just now, in words; empty: it was not."""


NOTHING: Final = Learned()


def feedback(service: Service, observation: Observation, *, startup_s: float, now_s: float) -> Learned:
    """Return the correction of now: raised a step if requests miss their SLO although all of the plan serves, less if hardly any do.

    A raise needs a start-up and a window before its effect shows: until then there is no other.
    """
    plan, most = observation.plan, 1 + service.behavior.max_correction
    if plan is None:
        # Those who waited for the first instances tell nothing of these: they are out of the window by then.
        return Learned(corrected_s=now_s + WINDOW_S)
    before = Learned(plan.correction, plan.corrected_s, min(most, correction_at(plan, now_s=now_s)))
    age_s = now_s - before.corrected_s
    # A plan that cannot keep the SLO says so: its misses tell nothing new.
    if -WINDOW_S <= age_s < startup_s + WINDOW_S or plan.reason in CANNOT_KEEP_SLO or not _serves(plan, observation):
        return before
    if why := _misses(service, observation):
        factor = min(most, before.factor * STEP)
        return Learned(factor, now_s, factor, why) if factor > before.factor else before
    if before.factor > 1 and age_s >= CALM_PACE_S and _is_calm(service, observation):
        factor = max(1.0, before.factor / CALM_STEP)
        return Learned(factor, now_s, factor)
    return before


def correction_at(plan: Plan, *, now_s: float) -> float:
    """Return what is left of a plan's correction: half of what is above 1 after every ``HALF_LIFE_S``."""
    age_s = max(0.0, now_s - plan.corrected_s)
    return 1 + (plan.correction - 1) * math.exp2(-age_s / HALF_LIFE_S)


def _serves(plan: Plan, observation: Observation) -> bool:
    """Return whether every instance of the plan takes requests."""
    serving = Counter((one.pool, one.tensor_parallel) for one in observation.instances if one.serving)
    return all(
        serving[pool.name, group.tensor_parallel] >= group.instances for pool in plan.pools for group in pool.groups
    )


def _misses(service: Service, observation: Observation) -> str:
    """Return how many requests missed their SLO, in words; empty: no more than it allows, or it is not known."""
    allowed = 1 - service.slo.percentile / 100
    for what, (requests, met) in _counts(service, observation.attainment).items():
        missed = requests - met
        if missed >= max(LEAST_MISSED, BURN_RATE * allowed * requests):
            return f"{100 * missed / requests:.1f} % of the {what} of the last {WINDOW_S / 60:g} min missed their SLO"
    return ""


def _is_calm(service: Service, observation: Observation) -> bool:
    """Whether hardly any request of the scale interval missed its SLO; unknown is not.

    n misses that came by chance may as well have been two roots of n more.
    """
    counts = _counts(service, observation.settled_attainment).values()
    allowed = 1 - service.slo.percentile / 100
    missed = [(requests, max(0.0, requests - met)) for requests, met in counts]
    return bool(missed) and all(many + 2 * math.sqrt(many + 1) < CALM * allowed * requests for requests, many in missed)


def _counts(service: Service, attainment: Mapping[RequestClass, Attainment] | None) -> dict[str, tuple[float, float]]:
    """Return how many requests there were and how many met their SLO, by what the rule counts apart; empty: it is not known.

    Routers measure TTFT and TBT: of FiveTimesAlone they know nothing.
    """
    if not attainment or service.slo.rule is SloRule.FIVE_TIMES_ALONE:
        return {}
    if service.slo.rule is SloRule.PER_REQUEST:
        return {"requests": (sum(n.requests for n in attainment.values()), sum(n.met for n in attainment.values()))}
    return {f"{name} requests": (one.requests, one.met) for name, one in attainment.items()}
