"""Reading the plan in force: what ``dynamollm plan --output json`` printed, or ``status.plan``."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dynamollm.adapters.manifests import read_value
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.plan_codec import REMEDY, decode
from dynamollm.core.profile import Profile
from dynamollm.core.records import Plan

_MOST_INSTANCES: Final = 100_000
"""Of a plan: a typing error beyond it."""


def read_plan(path: Path, profile: Profile) -> Plan:
    """Return the plan in a file.

    Raises:
        InvalidInputError: it is none, or none that instances of this profile could be running by; names the field and its value.
    """
    body = read_value(path).body
    for key in ("status", "plan"):
        if isinstance(body, Mapping) and isinstance(body.get(key), Mapping):
            body = body[key]
    try:
        plan = decode(body)
    except InvalidInputError as error:
        raise _no_plan(path, str(error).removesuffix(REMEDY)) from None
    if wrong := next(_contradictions(plan, profile), None):
        raise _no_plan(path, wrong)
    return plan


def _no_plan(path: Path, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"--current {path} is no plan ({why}): give what dynamollm plan --output json printed, or status.plan"
    )


def _contradictions(plan: Plan, profile: Profile) -> Iterator[str]:
    names = Counter(pool.name for pool in plan.pools)
    yield from (f"two pools have the name {name}" for name, count in names.items() if count > 1)
    classes = Counter(c for pool in plan.pools for c in pool.classes)
    yield from (f"class {c} is in two pools" for c, count in classes.items() if count > 1)
    for pool in plan.pools:
        for index, group in enumerate(pool.groups):
            where = f"groups[{index}] of pool {pool.name}"
            if group.tensor_parallel not in profile.tensor_parallel:
                known = ", ".join(map(str, profile.tensor_parallel))
                yield f"tensorParallel of {where} is {group.tensor_parallel}, and profile {profile.name} has {known}"
            if not profile.min_clock_mhz <= group.clock_mhz <= profile.max_clock_mhz:
                yield (
                    f"clockMhz of {where} is {group.clock_mhz}, and profile {profile.name} has "
                    f"{profile.min_clock_mhz} to {profile.max_clock_mhz}"
                )
        degrees = Counter(group.tensor_parallel for group in pool.groups)
        yield from (f"pool {pool.name} has two groups of TP{tp}" for tp, count in degrees.items() if count > 1)
    instances = sum(pool.instances for pool in plan.pools)
    if instances > _MOST_INSTANCES:
        yield f"it has {instances} instances, and {_MOST_INSTANCES} are the most"
