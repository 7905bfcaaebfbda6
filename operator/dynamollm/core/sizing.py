"""What one instance is worth: the capacity, ladder and watts that the policies weigh, bound to one service.

``Sizing`` is the whole of what planning asks of a performance model. ``ProfileSizing`` answers from a
PerformanceProfile and remembers its answers for as long as one decision takes: a policy asks for the same mix often.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from dynamollm.core.capacity import capacity_table, grid_of, power_table, single_mix
from dynamollm.core.classes import RequestClass
from dynamollm.core.ladder import build_ladder, ladder_clocks
from dynamollm.core.margins import NO_RESERVE, Reserve
from dynamollm.core.pooling import Capacities
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Ladder, Load, Order, Slo
from dynamollm.core.sizetable import UTILISATION_STEPS, SizeTable, size_table
from dynamollm.core.stream import Mixes, Stream

_FEW: Final = 16
"""Mixes that are worked out at all clocks at once: they may be pools, and pools get ladders."""

_DIGITS: Final = 9
"""Of the shares by which mixes are told apart."""

_NO_RATE: Final = 1e-300
_ROUNDING: Final = 1e-9
"""Relative error of loads that are compared."""

__all__ = [
    "UTILISATION_STEPS",
    "Mixes",
    "ProfileSizing",
    "SizeTable",
    "Sizing",
    "at_rate",
    "ladder_clock",
    "merge",
    "rate_per_s",
    "staircase",
    "tokens_per_s",
]


class Sizing(Protocol):
    """What instances of one service carry and draw."""

    @property
    def startup_s(self) -> float:
        """From a pod's creation to Ready, s."""

    @property
    def max_clock_mhz(self) -> int:
        """The safe clock."""

    @property
    def idle_power_w(self) -> float:
        """Watts of one GPU whose engine is loaded and idle."""

    @property
    def reserve(self) -> float:
        """How many times what ``capacity_per_s`` promises an instance really carries."""

    def capacity_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests/s within the SLO, at the highest clock, of each instance of the smallest pool that carries this load; 0.0: none."""

    def in_pool_per_s(self, *, load: Load, tensor_parallel: int, instances: int) -> float:
        """Requests/s within the SLO, at the highest clock, of each of so many instances under this mix; 0.0: none."""

    def table(self, mixes: Mixes, *, tensor_parallel: Sequence[int]) -> SizeTable:
        """Return what instances carry and draw for many mixes: the same answers as one by one, to within 3 %."""

    def ladder(self, *, load: Load, tensor_parallel: int) -> Ladder:
        """Return the clocks of least energy for this mix."""

    def full_in_flight(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests inside an instance that carries all it can of this mix within the SLO, on average; 0.0: it carries none."""

    def throughput_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests/s of this mix that an instance serves at the highest clock, in time or not: of more, ever more wait; 0.0: none."""

    def power_w(self, *, load: Load, tensor_parallel: int, clock_mhz: int, scale: float) -> float:
        """Watts of one instance, all its GPUs, that receives ``load`` × ``scale``."""


def staircase(sizing: Sizing, *, load: Load, tensor_parallel: int, ladder: Ladder | None = None) -> tuple[float, ...]:
    """Return the watts of one instance at 0, 1/20, …, 20/20 of its capacity, at the ladder's clock there."""
    idle_w = tensor_parallel * sizing.idle_power_w
    capacity = sizing.capacity_per_s(load=load, tensor_parallel=tensor_parallel)
    if capacity <= 0:
        return (idle_w,) * (UTILISATION_STEPS + 1)
    ladder = ladder or sizing.ladder(load=load, tensor_parallel=tensor_parallel)
    total, tokens = rate_per_s(load), tokens_per_s(load)
    watts = [idle_w]
    for step in range(1, UTILISATION_STEPS + 1):
        scale = capacity * step / UTILISATION_STEPS / total
        clock = ladder_clock(ladder, tokens_per_s_of_instance=tokens * scale)
        watts.append(sizing.power_w(load=load, tensor_parallel=tensor_parallel, clock_mhz=clock, scale=scale))
    return tuple(watts)


class ProfileSizing:
    """``Sizing`` from a measured profile."""

    def __init__(
        self,
        *,
        profile: Profile,
        slo: Slo,
        order: Order = Order.FIRST_COME_FIRST_SERVED,
        clock_mhz: int | None = None,
        routers: int = 1,
        reserve: Reserve = NO_RESERVE,
        correction: float = 1.0,
    ) -> None:
        """Bind a profile to a service's SLO, order of service and routers.

        ``clock_mhz``: the only clock that may be used. Capacities are divided by reserve and correction: the reserve is there when it
        is needed, what is corrected is not.
        """
        self._profile = profile
        self._slo = slo
        self._order = order
        self._clock_mhz = clock_mhz
        self._routers = routers
        # Less than 1 is of pools alone (`pooling.Capacities.less`).
        self._reserve = max(1.0, reserve.instances)
        self._divisor = reserve.times(correction)
        self._capacity: dict[tuple[object, ...], Capacities] = {}
        self._ladder: dict[tuple[object, ...], Ladder] = {}

    @property
    def startup_s(self) -> float:
        """From a pod's creation to Ready, s."""
        return self._profile.startup_s

    @property
    def max_clock_mhz(self) -> int:
        """The safe clock."""
        return self._clock_mhz or self._profile.max_clock_mhz

    @property
    def idle_power_w(self) -> float:
        """Watts of one GPU whose engine is loaded and idle."""
        return self._profile.loaded_idle_w

    @property
    def reserve(self) -> float:
        """How many times what ``capacity_per_s`` promises an instance really carries."""
        return self._reserve

    def table(self, mixes: Mixes, *, tensor_parallel: Sequence[int]) -> SizeTable:
        """Return what instances carry and draw for many mixes."""
        return size_table(
            self._profile,
            mixes,
            slo=self._slo,
            order=self._order,
            tensor_parallel=tensor_parallel,
            clock_mhz=self._clock_mhz,
            routers=self._routers,
            reserve=self._divisor,
            known=self._remembered(mixes, tensor_parallel) if len(mixes.rate_per_s) <= _FEW else None,
        )

    def capacity_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests/s within the SLO, at the highest clock, of each instance of the smallest pool that carries this load."""
        found = self._capacities(load, tensor_parallel)
        return 0.0 if found is None else float(found.at(-1).less(self._divisor.instances).carrying(rate_per_s(load)))

    def in_pool_per_s(self, *, load: Load, tensor_parallel: int, instances: int) -> float:
        """Requests/s within the SLO, at the highest clock, of each of so many instances under this mix."""
        found = self._capacities(load, tensor_parallel)
        return 0.0 if found is None else float(found.at(-1).less(self._divisor.instances).in_pool(instances))

    def ladder(self, *, load: Load, tensor_parallel: int) -> Ladder:
        """Return the clocks of least energy for this mix, in the smallest pool that carries the load."""
        found = self._capacities(load, tensor_parallel)
        if self._clock_mhz is not None or found is None:
            return Ladder(steps=(), safe_mhz=self.max_clock_mhz)
        fewest = float(found.at(-1).less(self._divisor.instances).fewest(rate_per_s(load)))
        instances = int(fewest) if math.isfinite(fewest) else 1
        key = (_mix(load), tensor_parallel, instances)
        if key not in self._ladder:
            self._ladder[key] = build_ladder(
                self._profile,
                load=load,
                slo=self._slo,
                tensor_parallel=tensor_parallel,
                order=self._order,
                instances=instances,
                routers=self._routers,
                reserve=self._divisor,
                known=found,
            )
        return self._ladder[key]

    def full_in_flight(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests inside an instance that carries all it can of this mix within the SLO, on average; 0.0: it carries none."""
        stream = self._stream(load, tensor_parallel)
        rate = self.capacity_per_s(load=load, tensor_parallel=tensor_parallel) * self._reserve
        if stream is None or rate <= 0:
            return 0.0
        # Those that decode, and one whose prompt is made.
        return 1.0 + float(stream.at_rate(np.array([rate / 1e3])).batch[0])

    def throughput_per_s(self, *, load: Load, tensor_parallel: int) -> float:
        """Requests/s of this mix that an instance serves at the highest clock, in time or not: those of its largest batch."""
        stream = self._stream(load, tensor_parallel)
        return 0.0 if stream is None else 1e3 * float(stream.at_batch(stream.most).per_ms[0])

    def _stream(self, load: Load, tensor_parallel: int) -> Stream | None:
        """Return an instance at the highest clock under this mix; None: nothing is asked for."""
        mix = single_mix(load)
        if mix is None:
            return None
        grid = grid_of(self._profile, mix, tensor_parallel=(tensor_parallel,), clocks_mhz=(self.max_clock_mhz,))
        return grid.stream()

    def _capacities(self, load: Load, tensor_parallel: int) -> Capacities | None:
        """Return what an instance carries of a mix, alone and in pools, at all clocks, [clock]; None: nothing is asked for."""
        mix = single_mix(load)
        if mix is None:
            return None
        key = (_mix(load), tensor_parallel)
        if key not in self._capacity:
            self._remembered(mix, sorted({tensor_parallel, *self._profile.tensor_parallel}))
        return self._capacity[key]

    def _remembered(self, mixes: Mixes, tensor_parallel: Sequence[int]) -> Capacities:
        """Work out what instances carry at all clocks, [mix, TP, clock], and remember it: ladders ask for it next.

        For few mixes all clocks take hardly longer than one. Only the shares count, and only as exactly as they are told
        apart: so the answer is the same whoever asked first.
        """
        total = mixes.rate_per_s.sum(axis=1, keepdims=True)
        found = capacity_table(
            self._profile,
            replace(mixes, rate_per_s=np.round(mixes.rate_per_s / np.maximum(total, _NO_RATE), _DIGITS)),
            slo=self._slo,
            order=self._order,
            tensor_parallel=tensor_parallel,
            clocks_mhz=ladder_clocks(self._profile) if self._clock_mhz is None else (self._clock_mhz,),
            routers=self._routers,
        )
        for index in range(len(mixes.rate_per_s)):
            mix = _mix(mixes.load(index))
            for place, degree in enumerate(tensor_parallel):
                self._capacity[mix, degree] = found.at((index, place))
        return found

    def power_w(self, *, load: Load, tensor_parallel: int, clock_mhz: int, scale: float) -> float:
        """Watts of one instance, all its GPUs, that receives ``load`` × ``scale``."""
        mix = single_mix(load)
        if mix is None or scale <= 0:
            return self._profile.loaded_idle_w * tensor_parallel
        watts = power_table(
            self._profile,
            mix,
            tensor_parallel=(tensor_parallel,),
            clocks_mhz=(clock_mhz,),
            rate_per_s=np.full((1, 1, 1), scale * rate_per_s(load)),
        )
        return float(watts[0, 0, 0])


def _mix(load: Load) -> tuple[object, ...]:
    """Key of a mix: shares and lengths, not the total rate."""
    total = rate_per_s(load)
    return tuple(
        (
            request_class,
            round(part.rate_per_s / total, _DIGITS),
            part.input_tokens,
            part.output_tokens,
            part.brief_share,
        )
        for request_class, part in sorted(load.items())
        if part.rate_per_s > 0
    )


def rate_per_s(load: Load) -> float:
    """Return the total requests/s of a load."""
    return sum(part.rate_per_s for part in load.values())


def tokens_per_s(load: Load) -> float:
    """Return the prompt and generated tokens/s of a load."""
    return sum(part.rate_per_s * (part.input_tokens + part.output_tokens) for part in load.values())


def at_rate(load: Load, *, rate_per_s_wanted: float) -> dict[RequestClass, ClassLoad]:
    """Return the same mix at another total rate, requests/s; the load must not be zero."""
    factor = rate_per_s_wanted / rate_per_s(load)
    return {request_class: replace(part, rate_per_s=part.rate_per_s * factor) for request_class, part in load.items()}


def merge(*loads: Load) -> Mapping[RequestClass, ClassLoad]:
    """Return the sum of loads of different classes."""
    return {request_class: part for load in loads for request_class, part in load.items()}


def ladder_clock(ladder: Ladder, *, tokens_per_s_of_instance: float) -> int:
    """Return the clock in MHz that a ladder gives an instance at this load."""
    # What was computed to be just at a step is on it.
    tokens = tokens_per_s_of_instance * (1 - _ROUNDING)
    return next((step.clock_mhz for step in ladder.steps if tokens <= step.max_tokens_per_s), ladder.safe_mhz)
