"""The paper's ScaleInst: a pool per class, instances by load, the largest TP, the highest clock."""

from typing import Final

from dynamollm.core.policies.base import Policy
from dynamollm.core.policies.filling import Knobs
from dynamollm.core.policies.levels import Levels
from dynamollm.core.policies.pools import one_per_class

SCALE_INST: Final[Policy] = Levels(
    partitions=one_per_class, knobs=Knobs(degrees=False, clocks=False), weighs_current=False
)
