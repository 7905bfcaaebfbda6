"""What capacities are divided by: for what the closed form finds too much, and for what no steady stream shows.

Each margin makes planned rates that are over the simulated ones by more than a tenth rare, on mixes that ``hack/bench_capacity.py
--fit`` simulates; what is left on mixes that were not used is in docs/model.md and printed by ``make bench-capacity``.
"""

from collections.abc import Mapping
from typing import Final

from dynamollm.core.records import Order, SloRule

_FCFS, _EDF = Order.FIRST_COME_FIRST_SERVED, Order.EARLIEST_DEADLINE_FIRST
_ATT, _P99, _X5 = SloRule.PER_REQUEST, SloRule.PER_CLASS_PERCENTILE, SloRule.FIVE_TIMES_ALONE

_CHUNKED: Final[Mapping[tuple[Order, SloRule], float]] = {
    (_FCFS, _ATT): 1.03,
    (_FCFS, _P99): 1.27,
    (_FCFS, _X5): 1.18,
    (_EDF, _ATT): 1.03,
    (_EDF, _P99): 1.12,
    (_EDF, _X5): 1.18,
}
_WHOLE: Final[Mapping[tuple[Order, SloRule], float]] = {
    (_FCFS, _ATT): 1.18,
    (_FCFS, _P99): 1.40,
    (_FCFS, _X5): 1.20,
    (_EDF, _ATT): 1.18,
    (_EDF, _P99): 1.40,
    (_EDF, _X5): 1.20,
}


_RESERVE_CHUNKED: Final[Mapping[Order, float]] = {_FCFS: 1.2, _EDF: 1.1}
_RESERVE_WHOLE: Final = 1.3
"""The least, in steps of a tenth, with which Joint and DynamoLLM keep the SLO over the hour of 2023 (docs/model.md): with a tenth
less 1 to 2 % of the requests miss it. Served by deadline, what comes too much at once costs those first that can wait."""


def reserve(*, chunked: bool, order: Order) -> float:
    """Return how many times its load a plan's instance carries within the SLO.

    Requests come in longer bursts than a Poisson stream's, one output class in five is predicted wrong, and load goes on
    growing between two decisions.
    """
    return _RESERVE_CHUNKED[order] if chunked else _RESERVE_WHOLE


def margin(*, chunked: bool, order: Order, rule: SloRule) -> float:
    """Return at which multiple of a rate latencies are judged.

    Args:
        chunked: whether prompts are made in chunks.
        order: of service.
        rule: of the SLO.
    """
    return (_CHUNKED if chunked else _WHOLE)[order, rule]
