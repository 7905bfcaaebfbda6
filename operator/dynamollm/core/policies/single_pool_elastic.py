"""The strong baseline that the paper does not have: one pool for all classes; instances, TP and clock by load."""

from typing import Final

from dynamollm.core.policies.base import Policy
from dynamollm.core.policies.levels import Levels
from dynamollm.core.policies.pools import one_pool

SINGLE_POOL_ELASTIC: Final[Policy] = Levels(partitions=one_pool, weighs_current=False, within_grant=False)
