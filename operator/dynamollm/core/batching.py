"""Continuous batching of one instance, iteration by iteration: what the simulated engine and the simulator run.

A modern engine decodes every running sequence in each step and fills the rest of the step's token budget with chunks
of prompts; an engine of the paper's time prefills whole prompts in steps of their own, while decoding waits. Requests
wait until the KV cache holds their prompt; where it fills up nevertheless, the youngest sequence gives way and is
prefilled again later.

Pure and deterministic: the caller owns the clock. ``next_step`` has taken the step by the time it returns, the caller
lets its duration pass. ``decode_run`` takes many steps at once where nothing but decoding happens.
"""

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.profile import Profile


@dataclass(frozen=True, slots=True)
class Step:
    """One iteration: a token each for ``tokens``, at its end."""

    duration_s: float
    power_w: float
    """Of each GPU."""
    tokens: tuple[Hashable, ...]
    first_tokens: tuple[Hashable, ...]
    """Those of ``tokens`` that are their request's first."""
    completions: tuple[Hashable, ...]
    """Those of ``tokens`` that are their request's last."""
    begun: tuple[Hashable, ...]
    """Requests whose prompt this step is the first to work on, after a preemption again."""


@dataclass(frozen=True, slots=True)
class Run:
    """Several decode steps of the same sequences in a row."""

    duration_s: float
    energy_j: float
    """Of each GPU."""
    steps: int
    completions: tuple[Hashable, ...]


@dataclass(slots=True)
class _Sequence:
    request_id: Hashable
    input_tokens: int
    output_tokens: int
    rank: tuple[float, float, int]
    """Order of service: priority, arrival, submission."""
    prefilled: int = 0
    to_prefill: int = 0
    """Prompt tokens, and after a preemption those generated so far."""
    made: int = 0
    cancelled: bool = field(default=False)


class Batch:
    """The requests inside one instance.

    Args:
        profile: times and power.
        tensor_parallel: GPUs of the instance.
        clock_mhz: SM clock to begin with.
        by_priority: serve by priority (lower first), then arrival; else by arrival alone.
    """

    def __init__(self, profile: Profile, *, tensor_parallel: int, clock_mhz: int, by_priority: bool = False) -> None:
        self._profile = profile
        self._tensor_parallel = tensor_parallel
        self._by_priority = by_priority
        self._kv_capacity = profile.kv_capacity_tokens(tensor_parallel)
        self._kv_used = 0
        self._context = 0
        """Tokens that the decoding sequences hold."""
        self._waiting: list[tuple[tuple[float, float, int], _Sequence]] = []
        self._waiting_count = 0
        self._prefilling: list[_Sequence] = []
        """Those begun, in order of service."""
        self._decoding: dict[Hashable, _Sequence] = {}
        self._all: dict[Hashable, _Sequence] = {}
        self._submitted = 0
        self._clock_mhz = 0
        self.clock_mhz = clock_mhz

    # ------------------------------------------------------------------ state
    @property
    def clock_mhz(self) -> int:
        """SM clock; takes effect with the next step. Set to one outside the profile's range, the nearest applies."""
        return self._clock_mhz

    @clock_mhz.setter
    def clock_mhz(self, value: int) -> None:
        self._clock_mhz = min(max(value, self._profile.min_clock_mhz), self._profile.max_clock_mhz)

    @property
    def running(self) -> int:
        """Requests that hold KV memory: prefilling or decoding."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def waiting(self) -> int:
        """Requests that wait to be prefilled."""
        return self._waiting_count

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self._kv_used / self._kv_capacity if self._kv_capacity else 0.0

    # ------------------------------------------------------------------ requests
    def submit(
        self, request_id: Hashable, *, input_tokens: int, output_tokens: int, priority: float = 0, arrival_s: float
    ) -> None:
        """Add a request.

        Raises:
            InvalidInputError: it has no tokens, its id is in use, or it can never fit into the KV cache.
        """
        if input_tokens < 1 or output_tokens < 1:
            raise InvalidInputError(f"{input_tokens} input and {output_tokens} output tokens: both must be 1 or more")
        if request_id in self._all:
            raise InvalidInputError(f"request {request_id!r} is already in the batch: give each its own id")
        if input_tokens + output_tokens > self._kv_capacity:
            raise InvalidInputError(
                f"{input_tokens} + {output_tokens} tokens do not fit into a KV cache of {self._kv_capacity}: use a "
                "higher tensor parallelism or a shorter request"
            )
        rank = (priority if self._by_priority else 0.0, arrival_s, self._submitted)
        self._submitted += 1
        sequence = _Sequence(request_id, input_tokens, output_tokens, rank, to_prefill=input_tokens)
        self._all[request_id] = sequence
        self._wait(sequence)

    def cancel(self, request_id: Hashable) -> None:
        """Take a request out; one that is not there (any more) is no error."""
        sequence = self._all.pop(request_id, None)
        if sequence is None:
            return
        if request_id in self._decoding:
            del self._decoding[request_id]
            self._context -= sequence.input_tokens + sequence.made
            self._kv_used -= sequence.input_tokens + sequence.made
        elif sequence in self._prefilling:
            self._prefilling.remove(sequence)
            self._kv_used -= sequence.to_prefill
        else:
            sequence.cancelled = True  # it leaves the heap when it comes up
            self._waiting_count -= 1

    def _wait(self, sequence: _Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.rank, sequence))
        self._waiting_count += 1

    # ------------------------------------------------------------------ steps
    def next_step(self) -> Step | None:
        """Take one iteration; None where there is nothing to do."""
        self._make_room()
        decoding = self._decoding
        chunks = self._prompt_chunks()
        if not chunks and not decoding:
            return None
        if chunks and not self._profile.interleaves_prefill:
            decoding = {}
        prompt_tokens = squared = 0
        for sequence, count in chunks:
            prompt_tokens += count
            squared += (sequence.prefilled + count) ** 2 - sequence.prefilled**2
        cost = self._profile.step(
            prompt_tokens=prompt_tokens,
            prompt_squared_tokens=squared,
            batch=len(decoding),
            context_tokens=self._context if decoding else 0,
            tensor_parallel=self._tensor_parallel,
            clock_mhz=self._clock_mhz,
        )
        tokens = list(decoding)
        completions = self._decoded(decoding, steps=1)
        first_tokens = []
        begun = tuple(sequence.request_id for sequence, _ in chunks if sequence.prefilled == 0)
        for sequence, count in chunks:
            sequence.prefilled += count
            if sequence.prefilled < sequence.to_prefill:
                continue
            self._prefilling.remove(sequence)
            tokens.append(sequence.request_id)
            if sequence.made == 0:
                first_tokens.append(sequence.request_id)
            self._to_decoding(sequence, completions)
        return Step(cost.duration_ms / 1e3, cost.power_w, tuple(tokens), tuple(first_tokens), tuple(completions), begun)

    def decode_run(self, limit_s: float) -> Run | None:
        """Take decode steps until one ends at or after ``limit_s``, a sequence ends, or memory runs short.

        None where the next step is not of decoding alone. Each step's time grows with the contexts by a constant, so
        the run has a closed form.
        """
        batch = len(self._decoding)
        if not batch or self._prefilling or self._waiting_count:
            return None
        steps = min(sequence.output_tokens - sequence.made for sequence in self._decoding.values())
        steps = min(steps, (self._kv_capacity - self._kv_used) // batch)
        if steps < 1:
            return None
        first_ms, last_ms = self._decode_ms(0), self._decode_ms(steps - 1)
        slope_ms = (last_ms - first_ms) / (steps - 1) if steps > 1 else 0.0
        steps = min(steps, _steps_until(limit_s * 1e3, first_ms, slope_ms))
        duration_s = (steps * first_ms + slope_ms * steps * (steps - 1) / 2) / 1e3
        power_w = self._profile.step(
            prompt_tokens=0,
            prompt_squared_tokens=0,
            batch=batch,
            context_tokens=self._context + batch * (steps - 1) / 2,
            tensor_parallel=self._tensor_parallel,
            clock_mhz=self._clock_mhz,
        ).power_w
        completions = self._decoded(self._decoding, steps=steps)
        return Run(duration_s, power_w * duration_s, steps, tuple(completions))

    def _decode_ms(self, step: int) -> float:
        batch = len(self._decoding)
        return self._profile.decode_ms(
            batch=batch,
            context_tokens=self._context + batch * step,
            tensor_parallel=self._tensor_parallel,
            clock_mhz=self._clock_mhz,
        )

    def _decoded(self, decoding: dict[Hashable, _Sequence], *, steps: int) -> list[Hashable]:
        completions = []
        for sequence in decoding.values():
            sequence.made += steps
            if sequence.made >= sequence.output_tokens:
                completions.append(sequence.request_id)
        self._context += steps * len(decoding)
        self._kv_used += steps * len(decoding)
        for request_id in completions:
            sequence = self._decoding.pop(request_id)
            del self._all[request_id]
            self._context -= sequence.input_tokens + sequence.made
            self._kv_used -= sequence.input_tokens + sequence.made
        return completions

    def _to_decoding(self, sequence: _Sequence, completions: list[Hashable]) -> None:
        """Prefill gives a token too: the first, or the next after a preemption."""
        sequence.made += 1
        if sequence.made >= sequence.output_tokens:
            completions.append(sequence.request_id)
            del self._all[sequence.request_id]
            self._kv_used -= sequence.to_prefill
            return
        self._decoding[sequence.request_id] = sequence
        self._kv_used += sequence.input_tokens + sequence.made - sequence.to_prefill
        self._context += sequence.input_tokens + sequence.made

    def _prompt_chunks(self) -> list[tuple[_Sequence, int]]:
        """Return the prompt tokens of the next step, in order of service, begun or not.

        What is begun holds its memory, so it may go on where the first of the queue does not fit.
        """
        whole = not self._profile.interleaves_prefill
        budget = self._profile.max_batched_tokens - (0 if whole else len(self._decoding))
        chunks: list[tuple[_Sequence, int]] = []
        while budget > 0:
            begun = self._prefilling[len(chunks)] if len(chunks) < len(self._prefilling) else None
            first = self._first_waiting()
            if first is not None and not self._may_begin(first, alone=not chunks or not whole, budget=budget):
                first = None
            if begun is not None and (first is None or begun.rank < first.rank):
                sequence = begun
            elif first is not None:
                heapq.heappop(self._waiting)
                self._waiting_count -= 1
                self._kv_used += first.to_prefill
                self._prefilling.insert(len(chunks), first)
                sequence = first
            else:
                break
            left = sequence.to_prefill - sequence.prefilled
            count = left if whole else min(budget, left)
            chunks.append((sequence, count))
            budget -= count
        return chunks

    def _may_begin(self, first: _Sequence, *, alone: bool, budget: int) -> bool:
        if self.running >= self._profile.max_sequences:
            return False
        # One more token for each that decodes must fit too, or the newcomer would give way at once.
        if self._kv_used + first.to_prefill + 1 + len(self._decoding) > self._kv_capacity:
            return False
        return alone or first.to_prefill <= budget

    def _first_waiting(self) -> _Sequence | None:
        while self._waiting and self._waiting[0][1].cancelled:
            heapq.heappop(self._waiting)
        return self._waiting[0][1] if self._waiting else None

    def _make_room(self) -> None:
        """Let the last in order of service wait again until every decoding sequence has room for a token."""
        while len(self._decoding) > 1 and self._kv_used + len(self._decoding) > self._kv_capacity:
            last = max(self._decoding.values(), key=lambda sequence: sequence.rank)
            del self._decoding[last.request_id]
            self._context -= last.input_tokens + last.made
            self._kv_used -= last.input_tokens + last.made
            last.prefilled, last.to_prefill = 0, last.input_tokens + last.made
            self._wait(last)


def _steps_until(limit_ms: float, first_ms: float, slope_ms: float) -> int:
    """Return how many steps it takes until one ends at or after the limit: n·first + slope·n(n-1)/2 ≥ limit."""
    if limit_ms <= first_ms:
        return 1
    if slope_ms < 1e-9 * first_ms:
        return math.ceil(limit_ms / first_ms) if math.isfinite(limit_ms) else 2**31
    if not math.isfinite(limit_ms):
        return 2**31
    b = first_ms - slope_ms / 2
    return math.ceil((-b + math.sqrt(b * b + 2 * slope_ms * limit_ms)) / slope_ms)
