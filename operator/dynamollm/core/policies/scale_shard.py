"""The paper's ScaleShard: a pool per class, as many instances as its peak takes, their TP by load, the highest clock.

An instance of a smaller degree frees GPUs; the number of instances stays.
"""

from typing import Final

from dynamollm.core.policies.base import Policy
from dynamollm.core.policies.filling import Knobs
from dynamollm.core.policies.levels import Levels
from dynamollm.core.policies.pools import one_per_class

SCALE_SHARD: Final[Policy] = Levels(
    partitions=one_per_class, knobs=Knobs(instances=False, clocks=False), weighs_current=False
)
