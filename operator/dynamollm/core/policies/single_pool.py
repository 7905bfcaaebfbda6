"""The paper's baseline: one pool for all classes, the largest TP, the highest clock, as many instances as the peak needs.

It never shrinks: "fixed at the peak" is the highest peak that was ever forecast for these settings.
"""

from typing import Final

from dynamollm.core.policies.base import Policy
from dynamollm.core.policies.filling import Knobs
from dynamollm.core.policies.levels import Levels
from dynamollm.core.policies.pools import one_pool

SINGLE_POOL: Final[Policy] = Levels(
    partitions=one_pool, knobs=Knobs(degrees=False, instances=False, clocks=False), weighs_current=False
)
