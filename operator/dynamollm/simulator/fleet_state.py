"""The router's state as arrays that compiled code works on: who serves what, who waits, and the counts."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamollm.simulator.state import GAP_BINS, NONE

MAX_IN_FLIGHT_PER_GPU: Final = 32
MAX_WAITING: Final = 1000
WAIT_S: Final = 10.0
"""The router's own settings (`router.fleet`): slots of an instance, requests that wait for one, and for how long."""

RATIO_LIMIT: Final = 5.0
"""Of the rule x5."""

ARRIVAL: Final = np.dtype(
    [
        ("arrival_s", np.float64),
        ("input_tokens", np.int32),
        ("output_tokens", np.int32),
        ("request_class", np.int32),
        ("predicted", np.int32),  # the class that the router takes it for
        ("counted", np.int32),  # 0: of the warm-up
    ]
)

CLASS_TALLY: Final = np.dtype(
    [
        ("requests", np.int64),
        ("failed", np.int64),  # refused, or inside an instance that went
        ("met", np.int64),  # own TTFT and own mean TBT within the SLO
        ("met_ratio", np.int64),  # end to end within five times the same request alone
        ("input_tokens", np.int64),  # of those that were served
        ("output_tokens", np.int64),
    ]
)

PREDICTED_TALLY: Final = np.dtype(
    [
        ("arrivals", np.int64),
        ("input_tokens", np.int64),
        ("completions", np.int64),
        ("output_tokens", np.int64),
        ("brief", np.int64),  # completions with few tokens (core.classes.is_brief)
        ("judged", np.int64),  # by the class that requests are of: ended or failed
        ("met", np.int64),  # those of them within TTFT and TBT
    ]
)

FLEET_TALLY: Final = np.dtype(
    [
        ("chosen", np.int64),  # sequence number of the latest choice
        ("first", np.int64),  # of the waiting requests' ring
        ("waiting", np.int64),
        ("looked_s", np.float64),  # until when the ring has been looked after
        ("resteered", np.int64),
        ("squashed", np.int64),
    ]
)

FLEET_SETTINGS: Final = np.dtype(
    [
        ("by_deadline", np.int64),  # 1: earliest deadline first
        ("alone_row", np.int64),  # of the step table, for a request alone: the largest TP degree, the highest clock
        ("alone_chunk", np.int64),  # prompt tokens of a step then; 0: whole prompts
    ]
)

PREDICTED_BITS: Final = 4
COUNTED_BIT: Final = 1 << PREDICTED_BITS


class Fleet(NamedTuple):
    """Who serves what, who waits, and the counts; written in place."""

    members: NDArray[np.int32]
    """[pool, position]: instances that take new requests."""
    n_members: NDArray[np.int32]
    """[pool]."""
    order: NDArray[np.int32]
    """[class, position]: pools in the order they are tried; −1 ends it."""
    larger: NDArray[np.int32]
    """[class]: how many of the first of those serve the class or larger ones."""
    full_in_flight: NDArray[np.float64]
    """[instance]: requests inside one that carries all it can within the SLO; infinite: not known."""
    last_chosen: NDArray[np.int64]
    """[instance]."""
    queue: NDArray[Any]
    """[position] of ``ARRIVAL``: a ring of requests that wait for a slot."""
    totals: NDArray[Any]
    """[1] of ``FLEET_TALLY``."""
    by_class: NDArray[Any]
    """[class] of ``CLASS_TALLY``: by the class that a request is of."""
    by_predicted: NDArray[Any]
    """[class] of ``PREDICTED_TALLY``: by the class that the router took it for, as its metrics count."""
    ttft: NDArray[np.int64]
    """[class, bin] of TTFT; bins as of the gaps between tokens (`state.GAP_BINS`)."""
    tbt: NDArray[np.int64]
    """[class, bin] of a request's mean TBT."""
    ttft_slo_ms: NDArray[np.float64]
    """[class]."""
    tbt_slo_ms: NDArray[np.float64]
    """[class]."""
    settings: NDArray[Any]
    """[1] of ``FLEET_SETTINGS``."""


def new_fleet(
    *,
    instances: int,
    pools: int,
    ttft_slo_ms: NDArray[np.float64],
    tbt_slo_ms: NDArray[np.float64],
    by_deadline: bool,
    alone_row: int,
    alone_chunk: int,
) -> Fleet:
    """Return a fleet without members for this many instances and pools."""
    classes = ttft_slo_ms.size
    return Fleet(
        members=np.full((pools, instances), NONE, np.int32),
        n_members=np.zeros(pools, np.int32),
        order=np.full((classes, pools), NONE, np.int32),
        larger=np.zeros(classes, np.int32),
        full_in_flight=np.full(instances, np.inf),
        last_chosen=np.zeros(instances, np.int64),
        queue=np.zeros(MAX_WAITING, ARRIVAL),
        totals=np.zeros(1, FLEET_TALLY),
        by_class=np.zeros(classes, CLASS_TALLY),
        by_predicted=np.zeros(classes, PREDICTED_TALLY),
        ttft=np.zeros((classes, GAP_BINS), np.int64),
        tbt=np.zeros((classes, GAP_BINS), np.int64),
        ttft_slo_ms=ttft_slo_ms,
        tbt_slo_ms=tbt_slo_ms,
        settings=np.array([(int(by_deadline), alone_row, alone_chunk)], FLEET_SETTINGS),
    )
