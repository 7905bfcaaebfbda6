"""What reconfigurations cost in time: the paper's own figures, optimised and cold, and what is measured today."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dynamollm.core.profile import Profile


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that each change takes."""

    startup_s: float
    """From the creation of an instance to its first request; it draws idle power meanwhile."""
    reshard_s: float
    """The same where an instance replaces one of another TP degree in its pool."""
    clock_s: float
    """For which an instance begins no step after its clock was set."""


_PAPER: Final[Mapping[str, Overheads]] = {
    # Local weights and snapshots, started ahead of the peak; weights moved in place over NVLink; NVML.
    "optimised": Overheads(startup_s=10.0, reshard_s=0.1, clock_s=0.005),
    # 6-8 min, 1-2 min, nvidia-smi's 50-80 ms (DynamoLLM, HPCA 2025).
    "cold": Overheads(startup_s=420.0, reshard_s=90.0, clock_s=0.065),
}

SETTINGS: Final = ("measured", *_PAPER)
"""Names that `overheads` knows."""

_NVML_CLOCK_S: Final = 0.005
"""Of one call of NVML (DynamoLLM, HPCA 2025)."""


def overheads(name: str, profile: Profile) -> Overheads:
    """Return the overheads of a setting.

    ``measured`` is what the profile says; today's engines cannot re-shard in place: a new instance starts.
    """
    if name in _PAPER:
        return _PAPER[name]
    return Overheads(startup_s=profile.startup_s, reshard_s=profile.startup_s, clock_s=_NVML_CLOCK_S)
