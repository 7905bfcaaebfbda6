"""The mixes of all pools of a partition at once, where limits couple them: what Joint does instead of one after the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dynamollm.core.coupling import ON_NODES, Coupling, coupling
from dynamollm.core.milp import solve
from dynamollm.core.mix import Choice, Mix, Switching, start_cost_per_gpu
from dynamollm.core.objective import weights
from dynamollm.core.options import Options, Subsets, least_options
from dynamollm.core.policies.base import Situation, pool_name
from dynamollm.core.policies.filled import mix_of
from dynamollm.core.policies.filling import Classes, Filler, Loads, Partition
from dynamollm.core.sizing import SizeTable


@dataclass(frozen=True, slots=True)
class Coupled:
    """What limits that pools share make of their mixes."""

    wishes: Mapping[Classes, Mix] = field(default_factory=dict)
    """Empty: each pool may have the cheapest mix, or not even all together find one."""
    binding: str = ""
    """The limits that the cheapest mixes would break."""


def couple(s: Situation, filler: Filler, partition: Partition, loads: Loads) -> Coupled:
    """Return the cheapest mixes for these pools within all limits together."""
    sizes = [filler.size(classes, loads(classes)) for classes in partition]
    if not all(any(size.capacity_by_tp.values()) for size in sizes):
        return Coupled()
    degrees = s.service.tensor_parallel
    subsets = Subsets(
        rate_per_s=np.array([size.rate_per_s for size in sizes]),
        degrees=degrees,
        table=SizeTable(
            capacity_per_s=np.array([[size.capacity_by_tp[tp] for tp in degrees] for size in sizes]),
            power_w=np.array([[size.power_by_tp_w[tp] for tp in degrees] for size in sizes]),
        ),
        have=np.array([[_current(filler, classes).get(tp, 0) for tp in degrees] for classes in partition]),
        start_w=start_w(s),
        weights=weights(s.service),
    )
    shared = coupling_of(s)
    cost, index, options = least_options(subsets)
    broken = broken_by(options, list(index.values()), shared) if np.isfinite(cost).all() else (s.gpu_limit,)
    if not broken:
        return Coupled()
    limited = replace(subsets, max_gpus=s.max_gpus, budget=s.budget)
    solved = solve(limited, 1 << np.arange(len(partition)), classes=len(partition), coupling=shared)
    if solved is None:
        return Coupled(binding=", ".join(broken))
    gap = f" (within {100 * solved.gap:.1f} % of the optimum)" if solved.gap > 0 else ""
    return Coupled(
        wishes={partition[row]: mix for row, mix in solved.pools},
        binding=", ".join(broken) + gap,
    )


def coupling_of(s: Situation) -> Coupling:
    """Return the limits that a service's pools share."""
    service = s.service
    return coupling(
        service.tensor_parallel,
        max_gpus=s.max_gpus,
        gpu_limit=s.gpu_limit,
        budget=s.budget,
        bins=s.bins,
        min_instances=service.limits.min_instances,
        instances=service.pins.instances,
    )


def broken_by(options: Options, chosen: list[int], shared: Coupling) -> tuple[str, ...]:
    """Return the limits that these options together break."""
    counts = options.counts[chosen].sum(axis=0)
    broken = shared.broken(counts, float(options.power_w[chosen].sum()))
    mix = {tp: int(n) for tp, n in zip(shared.degrees, counts, strict=True) if n > 0}
    return broken or (() if shared.fits(mix) else (ON_NODES,))


def broken_by_cheapest(s: Situation, filler: Filler, partition: Partition, loads: Loads) -> str:
    """Return the limits that the cheapest mixes of these pools would break, each chosen by itself; empty: none."""
    return broken_together(s, [filler.cheapest(classes, loads(classes)) for classes in partition])


def broken_together(s: Situation, choices: Sequence[Choice]) -> str:
    """Return the limits that these mixes together break, with what they would take of them; empty: none."""
    shared = coupling_of(s)
    mix: Counter[int] = Counter()
    for choice in choices:
        mix.update(choice.mix)
    counts = np.array([mix[tp] for tp in shared.degrees])
    broken = shared.broken(counts, sum(choice.power_w for choice in choices))
    return ", ".join(broken or (() if shared.fits(mix) else (ON_NODES,)))


def start_w(s: Situation) -> float:
    """Return equivalent watts of starting a GPU's worth of an instance; a first plan has to start everything anyway."""
    if s.current is None:
        return 0.0
    service = s.service
    switching = Switching(current={}, startup_s=s.sizing.startup_s, payback_s=service.intervals.scale_s, tolerance=0.0)
    return start_cost_per_gpu(s.sizing.idle_power_w, switching, weights(service))


def _current(filler: Filler, classes: Classes) -> Mix:
    old = filler.current.get(pool_name(classes))
    return mix_of(old) if old else {}
