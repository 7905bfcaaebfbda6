"""Runs the pure batch model in wall time.

The model knows when each step ends; the pacer begins steps at exact simulated instants and sleeps until something
must be written: a first token or an end at its time, the tokens between them a flush interval late at most, several in
one write. What metrics record are the model's instants, not those at which this process got the processor.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from dynamollm.adapters.clock import Clock
from dynamollm.core.batching import Batch, Step
from dynamollm.engine.gpus import Accelerators
from dynamollm.engine.metrics import EngineMetrics
from dynamollm.engine.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Hashable

_FLUSH_INTERVAL_S: Final = 0.02
"""Simulated and wall seconds for which tokens gather in real time: less than a step, so that each is written alone."""

_LONGEST_FLUSH_INTERVAL_S: Final = 0.1
"""Wall seconds for which tokens gather at most, however fast time runs."""

GPU_INTERVAL_S: Final = 0.1
"""Wall seconds between looks at the SM clock, and between updates of the power drawn."""

_TIMER_S: Final = 0.001
"""The event loop's timers go by milliseconds; less would spin."""


class Pacer:
    """Feeds requests to a batch and hands their tokens over in time.

    Args:
        batch: the model of one instance.
        clock: simulated time.
        gpus: give the clock, take the power.
        metrics: told everything.
        idle_w: draw of a GPU without work, W.
    """

    def __init__(
        self, *, batch: Batch, clock: Clock, gpus: Accelerators, metrics: EngineMetrics, idle_w: float
    ) -> None:
        self._batch = batch
        self._clock = clock
        self._gpus = gpus
        self._metrics = metrics
        # Seconds since here: the wall clock is corrected at times, and unix seconds leave floats few digits.
        self._origin = time.perf_counter()
        self._open: dict[Hashable, Stream] = {}
        self._step: Step | None = None
        self._step_start_s = 0.0
        self._step_end_s = 0.0
        self._woken: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._flushed_at = 0.0
        # In a faster time a token alone means nothing to anyone, and costs what it costs in real time.
        self._flush_interval_s = min(_FLUSH_INTERVAL_S * max(1.0, clock.scale), _LONGEST_FLUSH_INTERVAL_S)
        self._meter = _PowerMeter(idle_w=idle_w)
        self._looked_at = -GPU_INTERVAL_S

    # ------------------------------------------------------------------ for handlers
    def submit(
        self,
        *,
        request_id: int,
        input_tokens: int,
        output_tokens: int,
        priority: int,
        finish_reason: str,
        whole: bool,
    ) -> Stream:
        """Give a request to the batch at this instant; :meth:`close` must follow."""
        now_s = self._now_s()
        self._advance(now_s)
        stream = Stream(
            request_id=request_id,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            finish_reason=finish_reason,
            arrived_s=now_s,
            whole=whole,
        )
        self._open[request_id] = stream
        self._idle.clear()
        self._batch.submit(
            request_id,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            priority=priority,
            arrival_s=now_s,
        )
        if self._step is None:
            self._look_at_gpus(now_s)
            self._begin(now_s)
        self._wake()
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream; one that has not ended is cancelled in the batch."""
        del self._open[stream.request_id]
        if stream.remaining:
            self._advance(self._now_s())
            if stream.remaining:
                self._batch.cancel(stream.request_id)
                self._metrics.finished["abort"] += 1
        if not self._open:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until every stream is closed."""
        await self._idle.wait()

    def refresh(self) -> None:
        """Bring the model and the gauges of the metrics up to this instant."""
        self._advance(self._now_s())
        self._metrics.running = self._batch.running
        self._metrics.waiting = self._batch.waiting
        self._metrics.kv_usage = self._batch.kv_usage

    # ------------------------------------------------------------------ the loop
    async def run(self) -> None:
        """Produce tokens until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            now_s = self._now_s()
            self._advance(now_s)
            if self._at_work and time.perf_counter() >= self._looked_at + GPU_INTERVAL_S:
                self._look_at_gpus(now_s)
            self._flush()
            self._woken = loop.create_future()
            timer = loop.call_later(delay, self._wake) if (delay := self._delay_s()) is not None else None
            await self._woken
            if timer is not None:
                timer.cancel()

    @property
    def _at_work(self) -> bool:
        return self._step is not None or not self._meter.at_rest

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _now_s(self) -> float:
        return self._clock.sim(time.perf_counter() - self._origin)

    def _delay_s(self) -> float | None:
        """Return the wall seconds until something is to be done, None where only a request can bring it."""
        if not self._at_work:
            return None
        wall_s = time.perf_counter()
        delay = self._looked_at + GPU_INTERVAL_S - wall_s
        if self._step is not None:
            now_s = self._now_s()
            due = max(self._step_end_s - now_s, self._clock.sim(self._flushed_at + self._flush_interval_s - wall_s))
            delay = min(delay, self._clock.wall(min(due, self._next_instant_s(self._step) - now_s)))
        return max(delay, _TIMER_S)

    def _next_instant_s(self, step: Step) -> float:
        """Return when the next first or last token may be made: not before this simulated instant."""
        # Who has no token yet, or lost its place, may get one in the very next step; one that prefills, too.
        if self._batch.waiting or step.first_tokens or step.completions:
            return self._step_end_s
        # Steps grow longer with their contexts, and whatever shortens them wakes the pacer before.
        steps = min((stream.remaining if stream.made else 1 for stream in self._open.values()), default=1) - 1
        return self._step_end_s + steps * step.duration_s

    # ------------------------------------------------------------------ the model's time
    def _advance(self, now_s: float) -> None:
        while self._step is not None and self._step_end_s <= now_s:
            self._finish(self._step)
            self._begin(self._step_end_s)

    def _begin(self, start_s: float) -> None:
        step = self._step = self._batch.next_step()
        if step is None:
            self._meter.draws(None, since_s=start_s)
            return
        self._meter.draws(step.power_w, since_s=start_s)
        self._step_start_s = start_s
        self._step_end_s = start_s + step.duration_s
        for request_id in step.begun:
            stream = self._open.get(request_id)
            if stream is not None and stream.begun_s is None:
                stream.begun_s = start_s

    def _finish(self, step: Step) -> None:
        metrics = self._metrics
        ended_s = self._step_end_s
        in_step = 0
        for request_id in step.tokens:
            stream = self._open.get(request_id)
            if stream is None:
                continue  # cancelled while the step ran
            metrics.generation_tokens += 1
            stream.made += 1
            if stream.first_s is None:
                stream.first_s = ended_s
                metrics.ttft_s.observe(ended_s - stream.arrived_s)
                begun_s = self._step_start_s if stream.begun_s is None else stream.begun_s
                metrics.queue_s.observe(begun_s - stream.arrived_s)
                metrics.prompt_tokens += stream.input_tokens
            elif stream.last_s == self._step_start_s:
                in_step += 1
            else:
                # It had given way to others in between.
                metrics.gap_s.observe(ended_s - stream.last_s)
            stream.last_s = ended_s
            if stream.remaining == 0:
                self._end(stream)
        if in_step:
            metrics.gap_s.observe(step.duration_s, in_step)

    def _end(self, stream: Stream) -> None:
        metrics = self._metrics
        metrics.finished[stream.finish_reason] += 1
        metrics.e2e_s.observe(stream.last_s - stream.arrived_s)
        metrics.prompt_length.observe(stream.input_tokens)
        metrics.generation_length.observe(stream.output_tokens)
        if stream.first_s is not None and stream.output_tokens > 1:
            metrics.mean_gap_s.observe((stream.last_s - stream.first_s) / (stream.output_tokens - 1))

    def _flush(self) -> None:
        now = time.perf_counter()
        everything = now >= self._flushed_at + self._flush_interval_s
        if everything:
            self._flushed_at = now
        for stream in self._open.values():
            if everything or stream.urgent:
                stream.hand_over()

    def _look_at_gpus(self, now_s: float) -> None:
        self._looked_at = time.perf_counter()
        power_w, util_percent = self._meter.settle(now_s)
        self._gpus.publish(power_w=power_w, util_percent=util_percent)
        self._batch.clock_mhz = self._gpus.clock_mhz()


class _PowerMeter:
    """The mean power since the last look: publishing means keeps the energy exact, one interval late."""

    def __init__(self, *, idle_w: float) -> None:
        self._idle_w = idle_w
        self._power_w: float | None = None
        self._since_s = 0.0
        self._settled_s = 0.0
        self._busy_s = 0.0
        self._busy_j = 0.0
        self.at_rest = True
        """Whether the last published value was that of an idle GPU, and nothing has happened since."""

    def draws(self, power_w: float | None, *, since_s: float) -> None:
        """Take in the power from an instant on; None is idle."""
        self._integrate(since_s)
        self._power_w = power_w
        if self.at_rest:
            # Nothing was owed for the rest before.
            self._settled_s = since_s
            self.at_rest = False

    def settle(self, now_s: float) -> tuple[float, float]:
        """Return mean watts and busy percentage since the last call, and begin a new interval."""
        self._integrate(now_s)
        interval_s = now_s - self._settled_s
        busy_s, busy_j = self._busy_s, self._busy_j
        self._busy_s = self._busy_j = 0.0
        self._settled_s = now_s
        self.at_rest = self._power_w is None and busy_s == 0
        if interval_s <= 0 or self.at_rest:
            return self._idle_w, 0.0
        idle_s = max(0.0, interval_s - busy_s)
        return (busy_j + self._idle_w * idle_s) / interval_s, 100 * min(1.0, busy_s / interval_s)

    def _integrate(self, until_s: float) -> None:
        if self._power_w is not None and until_s > self._since_s:
            self._busy_s += until_s - self._since_s
            self._busy_j += (until_s - self._since_s) * self._power_w
        self._since_s = until_s
