"""The state of many engine instances as arrays that compiled code works on, and its making.

``Engines`` holds only what is inside the instances: requests that have ended leave for ``done``, which the caller
empties. Requests live in a pool of slots shared by all instances; a slot is free or belongs to one request.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.profile import Profile
from dynamollm.simulator.steps import StepTable

NONE: Final = -1
"""No slot."""

WAITING: Final = 1
BEGUN: Final = 2
DECODING: Final = 3
"""Where a request is: in the queue, prefilled in part (it holds KV memory), decoding. 0: the slot is free."""

RESTING: Final = 0
DECODE_STEP: Final = 1
PROMPT_STEP: Final = 2
MIXED_STEP: Final = 3
"""What step an instance is in the middle of."""

GAP_LOWEST_MS: Final = 1.0
GAP_RATIO: Final = 1.02
GAP_BINS: Final = 600
"""Bins of the gaps between tokens: each 2 % wider than the one before, from 1 ms to 145 s."""

REQUEST: Final = np.dtype(
    [
        ("tag", np.int64),  # the caller's
        ("sequence", np.int64),  # of submission: equal ranks are served in this order
        ("rank", np.float64),  # lower is served first: arrival, or deadline
        ("arrival_s", np.float64),
        ("first_s", np.float64),
        ("last_s", np.float64),  # its latest token, kept only until its first decode step
        ("ends_at", np.int64),  # the instance's count of decode steps at which its last token is made
        ("instance", np.int32),
        ("request_class", np.int32),
        ("input_tokens", np.int32),
        ("output_tokens", np.int32),
        ("made", np.int32),  # tokens; of a decoding request as of its latest prefill
        ("to_prefill", np.int32),  # the prompt, and after a preemption what was generated
        ("prefilled", np.int32),
        ("chunk", np.int32),  # prompt tokens of it in the step that is under way
        ("preemptions", np.int32),
        ("left", np.int32),  # children in the queue, a skew heap; ``left`` of a free slot is the next free one
        ("right", np.int32),
        ("stage", np.int32),
    ]
)

INSTANCE: Final = np.dtype(
    [
        ("in_use", np.int32),
        ("tensor_parallel", np.int32),
        ("clock_row", np.int32),  # of the StepTable, from the next step on
        ("whole_prompts", np.int32),  # prefill-first: prompts in steps of their own, never in part
        ("max_sequences", np.int32),
        ("token_budget", np.int32),  # of a step
        ("kv_capacity", np.int64),  # tokens
        ("idle_w", np.float64),  # of each GPU
        ("now_s", np.float64),  # the last step boundary
        ("ready_s", np.float64),  # no step begins before
        ("wake_s", np.float64),  # no request ends before
        ("step_kind", np.int32),
        ("step_end_s", np.float64),
        ("step_j", np.float64),  # of all GPUs
        ("step_decode_share", np.float64),  # of its energy
        ("in_flight", np.int32),
        ("n_decoding", np.int32),
        ("n_begun", np.int32),
        ("n_waiting", np.int32),
        ("n_fresh", np.int32),
        ("queue", np.int32),  # root of the waiting requests' heap
        ("kv_used", np.int64),
        ("context", np.int64),  # tokens that the decoding requests hold
        ("decoded", np.int64),  # decode steps so far
        ("last_token_s", np.float64),  # end of the latest decode step
        ("prompt_tokens", np.int64),  # counters since the start, as the engine's metrics count
        ("generated_tokens", np.int64),
        ("energy_j", np.float64),  # of all GPUs
        ("busy_s", np.float64),
    ]
)

DONE: Final = np.dtype(
    [
        ("tag", np.int64),
        ("instance", np.int32),
        ("request_class", np.int32),
        ("input_tokens", np.int32),
        ("output_tokens", np.int32),
        ("preemptions", np.int32),
        ("arrival_s", np.float64),
        ("first_s", np.float64),
        ("end_s", np.float64),
    ]
)

TOTALS: Final = np.dtype([("free", np.int64), ("n_free", np.int64), ("n_done", np.int64), ("submitted", np.int64)])


class Engines(NamedTuple):
    """Instances, the requests inside them, and what has come out. All arrays are written in place by the kernel."""

    rows: NDArray[Any]
    """[TP × clock] coefficients of the `StepTable`."""
    instances: NDArray[Any]
    """[instance] of ``INSTANCE``."""
    requests: NDArray[Any]
    """[slot] of ``REQUEST``."""
    done: NDArray[Any]
    """[slot] of ``DONE``: requests that have ended, the first ``n_done``; as many as there are slots."""
    totals: NDArray[Any]
    """[1] of ``TOTALS``."""
    decoding: NDArray[np.int32]
    """[instance, position]: slots, a binary heap on ``ends_at``."""
    begun: NDArray[np.int32]
    """[instance, position]: slots of requests that are prefilled in part, in order of service."""
    fresh: NDArray[np.int32]
    """[instance, position]: slots that began to decode since the latest decode step."""
    class_decoding: NDArray[np.int32]
    """[instance, class]: how many of the decoding requests are of a class."""
    gaps: NDArray[np.int64]
    """[class, bin]: how many gaps between two tokens were this long; see `gap_quantile_ms`."""
    class_j: NDArray[np.float64]
    """[class + 1]: energy that steps spent on requests of a class, all GPUs; last, that of instances at rest."""


def new_engines(table: StepTable, *, instances: int, batch: int, slots: int = 4096, classes: int = 9) -> Engines:
    """Return state with room for this many instances, none of them started.

    Args:
        table: step costs of the profile.
        instances: how many there may be at once.
        batch: the most requests that one may run at once.
        slots: how many requests there may be inside all of them, those done and not yet collected included.
        classes: how many request classes there are.
    """
    engines = Engines(
        rows=table.rows,
        instances=np.zeros(instances, INSTANCE),
        requests=np.zeros(slots, REQUEST),
        done=np.zeros(slots, DONE),
        totals=np.zeros(1, TOTALS),
        decoding=np.full((instances, batch), NONE, np.int32),
        begun=np.full((instances, batch), NONE, np.int32),
        fresh=np.full((instances, batch), NONE, np.int32),
        class_decoding=np.zeros((instances, classes), np.int32),
        gaps=np.zeros((classes, GAP_BINS), np.int64),
        class_j=np.zeros(classes + 1, np.float64),
    )
    engines.requests["left"] = np.arange(1, slots + 1)
    engines.requests["left"][-1] = NONE
    engines.totals["n_free"] = slots
    return engines


def grown(engines: Engines, *, slots: int) -> Engines:
    """Return the same state with room for this many more requests inside; the old one must not be used any more."""
    old = engines.requests.size
    requests, done = np.zeros(old + slots, REQUEST), np.zeros(old + slots, DONE)
    requests[:old], done[:old] = engines.requests, engines.done
    totals = engines.totals
    requests["left"][old:] = np.arange(old + 1, old + slots + 1)
    requests["left"][-1] = totals["free"][0]
    totals["free"] = old
    totals["n_free"] += slots
    return engines._replace(requests=requests, done=done)


class InstanceSettings(NamedTuple):
    """What tells the instances of one engine apart; `of` takes it from a profile."""

    whole_prompts: bool
    """Prompts run in steps of their own while decoding waits (2023); else chunks of them ride along (today)."""
    max_sequences: int
    max_batched_tokens: int
    idle_w: float
    """Of each GPU while nothing runs."""
    kv_capacity_tokens: int

    @classmethod
    def of(cls, profile: Profile, *, tensor_parallel: int) -> "InstanceSettings":
        """Return a profile's settings at one TP degree."""
        return cls(
            whole_prompts=not profile.interleaves_prefill,
            max_sequences=profile.max_sequences,
            max_batched_tokens=profile.max_batched_tokens,
            idle_w=profile.loaded_idle_w,
            kv_capacity_tokens=profile.kv_capacity_tokens(tensor_parallel),
        )


def gap_quantile_ms(gaps: NDArray[np.int64], share: float) -> float:
    """Return the gap that this share of the gaps is at most, ms; 0.0 without any. ``gaps``: [bin] of one class."""
    total = int(gaps.sum())
    if total == 0:
        return 0.0
    index = int(np.searchsorted(np.cumsum(gaps), share * total))
    # The middle of the bin: an error of 1 % at most.
    return float(GAP_LOWEST_MS * GAP_RATIO ** (min(index, GAP_BINS - 1) + 0.5))
