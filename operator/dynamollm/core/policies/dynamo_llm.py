"""The paper's policy (DynamoLLM, HPCA 2025, section IV): pools at the cluster level, TP degrees at the pool level.

Two differences, both because a request's class names one pool: the remainder that floor(load / capacity) leaves is not
moved request by request; a pool whose whole load is below one instance moves, and any other rounds up. And what
counts as "one instance" is tried for every TP degree: the cheapest outcome wins. Where GPUs or budgets do not suffice for the
cheapest mix of every pool, all pools' mixes are chosen together; the paper says nothing of that case.
"""

from typing import Final

from dynamollm.core.policies.base import Policy, Situation
from dynamollm.core.policies.coupled import couple
from dynamollm.core.policies.filling import Loads
from dynamollm.core.policies.levels import Considered, Levels
from dynamollm.core.policies.pools import merged_small, merged_to


def _partitions(s: Situation, loads: Loads) -> Considered:
    if s.service.pins.pools is not None:
        return Considered([merged_to(s, loads, pools=s.service.pins.pools)])
    return Considered([merged_small(s, loads, unit_tp=tp) for tp in s.service.tensor_parallel])


DYNAMO_LLM: Final[Policy] = Levels(partitions=_partitions, couple=couple)
