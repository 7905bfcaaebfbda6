"""The clock of an instance by its load: the ladder that a plan carries, and the choice on it that agents make.

Energy against clock is U-shaped: below some clock a step takes so much longer that it costs more. So a ladder takes,
for each load, the clock of least power that keeps the SLO there, not the lowest one.
"""

from typing import TYPE_CHECKING, Final

from dynamollm.core.loadmeter import TIME_CONSTANT_S
from dynamollm.core.margins import NO_RESERVE, Reserve
from dynamollm.core.profile import Profile
from dynamollm.core.records import Ladder, LadderStep, Load, Order, Slo, SloRule

if TYPE_CHECKING:
    from dynamollm.core.pooling import Capacities
    from dynamollm.core.steptable import Floats

_CLOCK_STRIDE_MHZ: Final = 75
"""Between the clocks that a ladder weighs: finer ones differ by less than 2 % in power."""

_LOADS: Final = 30
"""Loads between zero and the capacity at the highest clock at which a ladder chooses anew."""

DEVIATIONS: Final = 2.0
"""Of the load that agents measure (`core.loadmeter`): a mean over half a minute of requests that come by chance is often
below the load that it is of, and a clock that is too low for that delays requests until the mean has followed."""

_FIVE_TIMES: Final = 0.85
"""Share of a clock's capacity that is used by the rule FiveTimesAlone: what it measures grows with every step's time, and
no plan learns from misses of it."""

_DOWN_MARGIN: Final = 0.9
"""A lower clock is taken only below this share of the load that it is good for: hysteresis."""

_QUEUE_PER_RUNNING: Final = 0.5
_QUEUE_AT_LEAST: Final = 3
"""More requests waiting than these, per running request and at least, is an emergency: the queue is growing."""


def build_ladder(
    profile: Profile,
    *,
    load: Load,
    slo: Slo,
    tensor_parallel: int,
    order: Order = Order.FIRST_COME_FIRST_SERVED,
    instances: int = 1,
    routers: int = 1,
    reserve: Reserve = NO_RESERVE,
    known: "Capacities | None" = None,
) -> Ladder:
    """Return load of one instance (prompt + generated tokens/s of this mix) → clock of least power within the SLO.

    Clocks never fall as load grows. No steps: the SLO holds at no clock, or nothing is asked for; the highest clock
    applies to every load. ``instances``: how many the pool has, of which this is one; ``routers``: in
    front of it; ``reserve``: what capacities are divided by; ``known``: what such an instance carries at the clocks
    that ladders weigh, where that is worked out.

    Raises:
        OutOfRangeError: the TP degree or the input tokens are outside the profile.
    """
    # Agents choose, they never build.
    import numpy as np  # noqa: PLC0415

    from dynamollm.core.capacity import capacity_table, power_table, single_mix  # noqa: PLC0415

    safe_mhz = profile.max_clock_mhz
    mix = single_mix(load)
    if mix is None:
        return Ladder(steps=(), safe_mhz=safe_mhz)
    rate = sum(part.rate_per_s for part in load.values())
    tokens = sum(part.rate_per_s * (part.input_tokens + part.output_tokens) for part in load.values()) / rate
    clocks = ladder_clocks(profile)
    degrees = (tensor_parallel,)
    found = (
        known
        or capacity_table(
            profile, mix, slo=slo, order=order, tensor_parallel=degrees, clocks_mhz=clocks, routers=routers
        )
    ).less(reserve.clocks, pooled=reserve.pooled)
    usable = [float(one) for one in left_to_clocks(found.in_pool(instances), rule=slo.rule).ravel()]
    loads = [usable[-1] * index / _LOADS for index in range(1, _LOADS + 1)]
    if loads[-1] <= 0:
        return Ladder(steps=(), safe_mhz=safe_mhz)
    wanted = np.broadcast_to(loads, (1, 1, len(clocks), len(loads)))
    power = power_table(profile, mix, tensor_parallel=degrees, clocks_mhz=clocks, rate_per_s=wanted)[0, 0]
    steps: list[LadderStep] = []
    lowest = 0
    for index, most in enumerate(loads):
        able = [place for place in range(lowest, len(clocks)) if usable[place] >= most] or [len(clocks) - 1]
        lowest = min(able, key=lambda place: (power[place, index], place))
        step = LadderStep(max_tokens_per_s=most * tokens, clock_mhz=clocks[lowest])
        if steps and steps[-1].clock_mhz == step.clock_mhz:
            steps[-1] = step
        else:
            steps.append(step)
    return Ladder(steps=tuple(steps), safe_mhz=safe_mhz)


def left_to_clocks(capacity_per_s: "Floats", *, rule: SloRule) -> "Floats":
    """Return at which measured loads clocks that carry so much still do, requests/s of an instance.

    n requests that come by chance within the meter's 2 · ``TIME_CONSTANT_S`` deviate by the root of n.
    """
    # As above: agents import this module, and never call this.
    import numpy as np  # noqa: PLC0415

    noise = DEVIATIONS * (2 * TIME_CONSTANT_S) ** -0.5
    most = capacity_per_s * (_FIVE_TIMES if rule is SloRule.FIVE_TIMES_ALONE else 1.0)
    # load + noise · √load = most
    root = (np.sqrt(noise**2 + 4 * most) - noise) / 2
    load: Floats = root**2
    return load


def ladder_clocks(profile: Profile) -> tuple[int, ...]:
    """Return the clocks that ladders weigh, ascending, the highest among them."""
    return tuple(mhz for mhz in profile.clocks_mhz if (profile.max_clock_mhz - mhz) % _CLOCK_STRIDE_MHZ == 0)


def select_clock(
    ladder: Ladder, *, tokens_per_s: float | None, waiting: int | None, running: int | None, current_mhz: int | None
) -> int:
    """Return the clock for an instance, in MHz.

    Up at once, down only with a margin. Anything unknown, and a queue that grows, mean the safe clock.

    Args:
        ladder: of the instance's shard group.
        tokens_per_s: its load, prompt and generated tokens/s, smoothed; None: unknown.
        waiting: requests in its queue; None: unknown.
        running: requests in its batch; None: unknown.
        current_mhz: the clock chosen last; None: none yet.
    """
    if tokens_per_s is None or waiting is None or running is None:
        return ladder.safe_mhz
    if waiting >= max(_QUEUE_AT_LEAST, _QUEUE_PER_RUNNING * running):
        return ladder.safe_mhz
    wanted = _rung(ladder, tokens_per_s)
    if current_mhz is None or wanted >= current_mhz:
        return wanted
    # Low enough for the lower clock with the margin? Else no lower than today's, and no higher than needed then.
    return min(current_mhz, _rung(ladder, tokens_per_s / _DOWN_MARGIN))


def _rung(ladder: Ladder, tokens_per_s: float) -> int:
    return next((step.clock_mhz for step in ladder.steps if tokens_per_s <= step.max_tokens_per_s), ladder.safe_mhz)
