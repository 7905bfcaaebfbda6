"""One request from arrival to end: what is measured on the way, and what is counted when it is over."""

import time
from typing import Final

import orjson

from dynamollm.adapters.clock import Clock
from dynamollm.core.classes import RequestClass
from dynamollm.core.outputlength import OutputLengthModel
from dynamollm.core.selection import Candidate
from dynamollm.router.metrics import Outcome, RouterMetrics
from dynamollm.router.parse import ClientRequest, with_priority
from dynamollm.router.routing import Routing
from dynamollm.router.tokens import InputEstimate, StreamCounter, Usage, usage_of

_MAX_ANSWER_BYTES: Final = 8 << 20
"""A whole (not streamed) answer is kept up to this size to read its usage."""


class Exchange:
    """Measures one request.

    Args:
        request: what the client asked.
        routing: in force when it arrived.
        arrived_s: ``time.perf_counter()`` at its arrival.
        clock: simulated time.
        lengths: predicts the class now, and learns at the end.
        estimate: counts the prompt now, and is calibrated at the end.
        metrics: where everything is counted.
    """

    def __init__(
        self,
        request: ClientRequest,
        *,
        routing: Routing,
        arrived_s: float,
        clock: Clock,
        lengths: OutputLengthModel,
        estimate: InputEstimate,
        metrics: RouterMetrics,
    ) -> None:
        self.request = request
        self._routing = routing
        self._arrived_s = arrived_s
        self._clock = clock
        self._lengths = lengths
        self._estimate = estimate
        self._metrics = metrics
        self._input_tokens = estimate.tokens(request.size)
        expected = lengths.predict(input_tokens=self._input_tokens, max_tokens=request.max_tokens)
        self.predicted = routing.boundaries.classify(input_tokens=self._input_tokens, output_tokens=expected)
        waited_s = clock.sim(time.perf_counter() - arrived_s)
        self.deadline_ms = (clock.now_s() - waited_s) * 1e3 + routing.slo.ttft_ms[self.predicted]
        """When its first token is due, simulated unix ms."""
        self._first_s: float | None = None
        self._last_s = 0.0
        self._counter = StreamCounter(chat=request.chat)
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        metrics.arrived(self.predicted, input_tokens=self._input_tokens)

    def body_for(self, candidate: Candidate, body: bytes) -> bytes:
        """Return the body that an instance is sent: with its deadline as priority, where it serves by priority.

        The client's own priority wins. All routers count from the same moment, so that the deadlines of requests that
        came by different ones compare.
        """
        if not candidate.by_priority or self.request.has_priority:
            return body
        return with_priority(body, round(self.deadline_ms))

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of a successful answer."""
        self._last_s = time.perf_counter()
        if self._first_s is None:
            self._first_s = self._last_s
        if self.request.stream:
            self._counter.feed(chunk)
        elif self._whole_bytes <= _MAX_ANSWER_BYTES:
            self._whole.append(chunk)
            self._whole_bytes += len(chunk)

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, now that the instance has closed it."""
        return self._counter.complete if self.request.stream else self._whole_bytes > 0

    def failed(self, outcome: Outcome, *, pool: str, blame_client: bool = False) -> None:
        """Count the end of a request that was not served.

        It has no actual class and is counted in the predicted one; outside its SLO, unless the client is to blame.

        Args:
            outcome: any but ok.
            pool: of the instance, empty where none took it.
            blame_client: it went away, or the engine found fault with what it asked.
        """
        self._metrics.ended(self.predicted, pool=pool, outcome=outcome)
        if not blame_client:
            self._metrics.judged(self.predicted, met=False)

    def served(self, *, pool: str) -> None:
        """Count the end of a request whose answer is complete, and learn from it."""
        usage = self._counter.usage() if self.request.stream else self._whole_usage()
        output_tokens = max(1, usage.completion_tokens if usage else self._counter.tokens())
        input_tokens = usage.prompt_tokens if usage else self._input_tokens
        if usage:
            self._estimate.calibrate(self.request.size, usage.prompt_tokens)
        self._lengths.learn(
            input_tokens=self._input_tokens, output_tokens=output_tokens, max_tokens=self.request.max_tokens
        )
        actual = self._routing.boundaries.classify(input_tokens=input_tokens, output_tokens=output_tokens)
        self._metrics.completed(self.predicted, output_tokens=output_tokens)
        self._metrics.ended(actual, pool=pool, outcome=Outcome.OK)
        self._judge(actual, output_tokens)

    def _judge(self, actual: RequestClass, output_tokens: int) -> None:
        assert self._first_s is not None  # noqa: S101 - a complete answer has a first byte
        gaps = output_tokens - 1
        total_s = self._clock.sim(self._last_s - self._arrived_s)
        slo = self._routing.slo
        if not self.request.stream:
            # Its client sees the end alone: in time is what a stream at the limits of its SLO would have been.
            allowed_ms = slo.ttft_ms[actual] + gaps * slo.tbt_ms[actual]
            self._metrics.judged(actual, met=total_s * 1e3 <= allowed_ms)
            return
        ttft_s = self._clock.sim(self._first_s - self._arrived_s)
        tbt_s = (total_s - ttft_s) / gaps if gaps else None
        self._metrics.timed(actual, ttft_s=ttft_s, tbt_s=tbt_s)
        self._metrics.judged(actual, met=slo.met(actual, ttft_ms=ttft_s * 1e3, tbt_ms=(tbt_s or 0.0) * 1e3))

    def _whole_usage(self) -> Usage | None:
        try:
            return usage_of(orjson.loads(b"".join(self._whole)))
        except orjson.JSONDecodeError:
            return None
