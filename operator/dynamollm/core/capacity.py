"""How much load instances carry within the SLO, and what they draw, for many mixes, TP degrees and clocks at once.

One model for all: the scalar functions are the batched ones on a single mix. The closed form is in `core.stream`,
`core.waiting` and `core.violation`; what it is worth is measured against iteration-level simulation (docs/model.md), and
``core.margins`` has the factors that follow from that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import OutOfRangeError
from dynamollm.core.largest import largest
from dynamollm.core.margins import margin
from dynamollm.core.pooling import Capacities, gain
from dynamollm.core.profile import Profile
from dynamollm.core.records import Load, Order, Slo
from dynamollm.core.state import State
from dynamollm.core.steptable import Floats
from dynamollm.core.stream import NEWTON, Grid, Mixes, Stream, mixes_of
from dynamollm.core.usual import MANY, usual_guess
from dynamollm.core.violation import Limits, Misses, limits_of

_BLOCK: Final = 16_384
"""Watts that are worked out at a time: with what they need they stay in a core's own cache."""
_OVERLOAD: Final = 1 - 1e-5
_NO_RATE: Final = 1e-12
"""Requests/ms: not one in ten thousand years."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One instance under a load."""

    meets_slo: bool
    attainment: float
    """Share that keeps the SLO: of requests, or by the rule PerClassPercentile of the worst class's; 0 to 1."""
    ttft_ms: Mapping[RequestClass, float]
    """At the percentile that was asked for."""
    tbt_ms: Mapping[RequestClass, float]
    """Mean TBT of a request, likewise."""
    busy: float
    """Share of time with any request inside, 0 to 1."""
    power_w: float
    """Of all GPUs of the instance, mean over time."""


def capacity_table(
    profile: Profile,
    mixes: Mixes,
    *,
    slo: Slo,
    order: Order,
    tensor_parallel: Sequence[int],
    clocks_mhz: Sequence[int],
    routers: int = 1,
) -> Capacities:
    """Return the largest total rates, requests/s, that an instance carries within the SLO, [mix, TP, clock].

    0.0 where not even a request alone meets it, and for a mix of nothing.

    Raises:
        OutOfRangeError: input tokens, a TP degree or a clock outside the profile.
    """
    grid = grid_of(profile, mixes, tensor_parallel=tensor_parallel, clocks_mhz=clocks_mhz)
    found = capacities(grid.stream(), slo=slo, order=order, routers=routers)
    return found.shaped(-1, len(tensor_parallel), len(clocks_mhz))


def capacities(stream: Stream, *, slo: Slo, order: Order, routers: int = 1) -> Capacities:
    """Return the same of all cells of a grid, [cell]."""
    grid = stream.grid
    limits = limits_of(grid, slo, order)
    fullest = _fullest(stream, limits)
    rate = fullest.per_ms * 1e3 / margin(chunked=grid.chunked, order=order, rule=slo.rule)
    rate[grid.mixes.rate_per_s.sum(axis=1)[stream.mix_of] <= 0] = 0.0
    more, half_at = gain(
        fullest.batch,
        full=stream.at_batch(stream.full).per_ms / np.maximum(fullest.per_ms, _NO_RATE) - 1,
        chunked=grid.chunked,
        order=order,
        rule=slo.rule,
        routers=routers,
    )
    return Capacities(rate, more, half_at)


def _fullest(stream: Stream, limits: Limits) -> State:
    """Return the states at the largest rates that the closed form finds to keep the SLO, [cell]; rate 0.0: none."""
    many = stream.grid.shares.shape[0] > MANY
    found = largest(stream, limits, usual_guess(stream, limits) if many else None)
    state = stream.at_batch(stream.most * found.share)
    return replace(state, per_ms=np.where(found.never, 0.0, state.per_ms))


def power_table(
    profile: Profile, mixes: Mixes, *, tensor_parallel: Sequence[int], clocks_mhz: Sequence[int], rate_per_s: Floats
) -> Floats:
    """Return the watts of one instance, all its GPUs, at these total rates.

    Args:
        profile: the model.
        mixes: as for `capacity_table`.
        tensor_parallel: degrees.
        clocks_mhz: SM clocks.
        rate_per_s: [mix, TP, clock, …]; the result has its shape. Above what an instance can take, its watts are those
            of the largest batch.

    Raises:
        OutOfRangeError: input tokens, a TP degree or a clock outside the profile.
    """
    stream = grid_of(profile, mixes, tensor_parallel=tensor_parallel, clocks_mhz=clocks_mhz).stream()
    rates = rate_per_s.reshape(stream.mix_of.size, -1).T
    return powers_w(stream, rates).T.reshape(rate_per_s.shape)


def powers_w(stream: Stream, rate_per_s: Floats, *, newton: int = NEWTON) -> Floats:
    """Return the same of cells, [load, cell], with so many steps to the batch."""
    per_ms = rate_per_s / 1e3
    blocks = np.array_split(per_ms, min(len(per_ms), max(1, per_ms.size // _BLOCK)))
    return np.concatenate([stream.power_w(stream.at_rate(block, newton=newton)) for block in blocks])


def capacity_per_s(
    profile: Profile,
    *,
    load: Load,
    slo: Slo,
    tensor_parallel: int,
    clock_mhz: int,
    order: Order = Order.FIRST_COME_FIRST_SERVED,
) -> float:
    """Return the largest total rate of this mix, requests/s, that one instance alone carries within the SLO.

    0.0 where not even a request alone meets it, or nothing is asked for.

    Raises:
        OutOfRangeError: input tokens, the TP degree or the clock are outside the profile.
    """
    mixes = single_mix(load)
    if mixes is None:
        _check(profile, tensor_parallel, clock_mhz)
        return 0.0
    table = capacity_table(
        profile, mixes, slo=slo, order=order, tensor_parallel=(tensor_parallel,), clocks_mhz=(clock_mhz,)
    )
    return float(table.alone_per_s[0, 0, 0])


def operating_point(
    profile: Profile,
    *,
    load: Load,
    slo: Slo,
    tensor_parallel: int,
    clock_mhz: int,
    scale: float = 1.0,
    order: Order = Order.FIRST_COME_FIRST_SERVED,
    instances: int = 1,
    routers: int = 1,
    percentile: float | None = None,
) -> OperatingPoint:
    """Return how one instance, of so many in its pool behind so many routers, does that receives ``load`` × ``scale``.

    Latencies are told at the SLO's percentile, or at another.

    Raises:
        OutOfRangeError: input tokens, the TP degree or the clock are outside the profile.
    """
    mixes = single_mix(load)
    if mixes is None or scale <= 0:
        _check(profile, tensor_parallel, clock_mhz)
        return OperatingPoint(
            meets_slo=True, attainment=1.0, ttft_ms={}, tbt_ms={}, busy=0.0,
            power_w=profile.loaded_idle_w * tensor_parallel,
        )  # fmt: skip
    grid = grid_of(profile, mixes, tensor_parallel=(tensor_parallel,), clocks_mhz=(clock_mhz,))
    stream, limits = grid.stream(), limits_of(grid, slo, order)
    misses = Misses(stream, limits)
    per_ms = np.full(1, scale * float(mixes.rate_per_s.sum()) / 1e3)
    factor = margin(chunked=grid.chunked, order=order, rule=slo.rule)
    if instances > 1:
        # In a pool latencies are those of an instance alone at a lower rate.
        factor /= float(capacities(stream, slo=slo, order=order, routers=routers).times_alone(instances)[0])
    actual, judged = stream.at_rate(per_ms), stream.at_rate(per_ms * factor)
    power_w = float(stream.power_w(actual)[0])
    if _overloaded(stream, judged):
        never = dict.fromkeys(mixes.classes, math.inf)
        return OperatingPoint(meets_slo=False, attainment=0.0, ttft_ms=never, tbt_ms=never, busy=1.0, power_w=power_w)
    attainment = 1 - float(misses.missed(judged)[0])
    above = limits.allowed if percentile is None else 1 - percentile / 100
    ttft, tbt = misses.ttft_quantile_ms(judged, above), misses.tbt_quantile_ms(judged, above)
    return OperatingPoint(
        meets_slo=attainment >= 1 - limits.allowed,
        attainment=attainment,
        ttft_ms={c: float(ttft[k]) for k, c in enumerate(mixes.classes)},
        tbt_ms={c: float(tbt[k]) for k, c in enumerate(mixes.classes)},
        busy=float(stream.busy(actual)[0]),
        power_w=power_w,
    )


def single_mix(load: Load) -> Mixes | None:
    """Return a load as the only mix of its classes; None: nothing is asked for."""
    asked = {c: part for c, part in load.items() if part.rate_per_s > 0}
    if not asked:
        return None
    return mixes_of(asked, np.array([[part.rate_per_s for part in asked.values()]]))


def _overloaded(stream: Stream, state: State) -> bool:
    """Return whether a state is at the limit of what an instance takes: the queue grows."""
    return bool(state.batch[0] >= stream.most[0] or state.prompt_share[0] >= _OVERLOAD)


def grid_of(profile: Profile, mixes: Mixes, *, tensor_parallel: Sequence[int], clocks_mhz: Sequence[int]) -> Grid:
    """Return mixes and points that the profile holds for.

    Raises:
        OutOfRangeError: input tokens, a TP degree or a clock outside the profile.
    """
    asked = mixes.rate_per_s.sum(axis=0) > 0
    for request_class, tokens, used in zip(mixes.classes, mixes.input_tokens, asked, strict=True):
        if used and tokens > profile.max_input_tokens:
            raise OutOfRangeError(
                f"input tokens {tokens:.0f} of class {request_class} are outside profile {profile.name}: it holds up to "
                f"{profile.max_input_tokens}; shorten the prompts or measure the profile further"
            )
    return Grid(profile, mixes, tensor_parallel=tensor_parallel, clocks_mhz=clocks_mhz)


def _check(profile: Profile, tensor_parallel: int, clock_mhz: int) -> None:
    profile.coefficients(tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
