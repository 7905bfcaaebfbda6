"""The next best plans, as policies note them in ``Plan.runner_up`` and as whoever explains a plan reads them again."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dynamollm.core.classes import RequestClass
from dynamollm.core.mix import Mix
from dynamollm.core.policies.base import describe_mix

_POOLS: Final = re.compile(r"pools (?P<pools>[A-Z |]+): (?P<more>[+-]\d+) W")
_MIX: Final = re.compile(r"(?P<pool>[a-z]+): (?P<mix>\d+×TP\d+(?: \+ \d+×TP\d+)*) at (?P<watts>\d+) W")
_GROUP: Final = re.compile(r"(\d+)×TP(\d+)")


@dataclass(frozen=True, slots=True)
class OtherPools:
    """The classes parted otherwise."""

    pools: tuple[tuple[RequestClass, ...], ...]
    """Those that are asked for."""
    more_w: float
    """Equivalent watts beyond the plan's."""


@dataclass(frozen=True, slots=True)
class OtherMix:
    """Other instances in one of the plan's pools."""

    pool: str
    mix: Mix
    power_w: float
    """Of that pool."""


def note_pools(pools: Iterable[Sequence[RequestClass]], *, more_w: float) -> str:
    """Return the note of other pools."""
    return f"pools {' | '.join(' '.join(classes) for classes in pools)}: {more_w:+.0f} W"


def note_mix(pool: str, other: tuple[Mix, float] | None) -> str:
    """Return the note of other instances in a pool and of the watts that it would draw with them; empty: there are none."""
    return f"{pool}: {describe_mix(other[0])} at {other[1]:.0f} W" if other else ""


def noted(text: str) -> list[OtherPools | OtherMix]:
    """Return what a plan's ``runner_up`` notes; what is no note, such as another version's, is passed over."""
    found: list[OtherPools | OtherMix] = []
    for part in text.split("; "):
        if pools := _POOLS.fullmatch(part):
            classes = [tuple(RequestClass(c) for c in pool.split()) for pool in pools["pools"].split(" | ")]
            found.append(OtherPools(tuple(classes), float(pools["more"])))
        elif mix := _MIX.fullmatch(part):
            counts = {int(tp): int(count) for count, tp in _GROUP.findall(mix["mix"])}
            found.append(OtherMix(mix["pool"], counts, float(mix["watts"])))
    return found
