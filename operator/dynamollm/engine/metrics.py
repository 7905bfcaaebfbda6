"""vLLM's metrics of one engine, kept in plain numbers and written out by hand.

An engine is scraped several times a second by Prometheus and by the agent, and observes thousands of tokens in
between: no locks, no objects per sample.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's own buckets (v1/metrics/loggers.py), so that dashboards and rules made for vLLM fit.
_TTFT_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_GAP_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
_TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class Histogram:
    """Counts per bucket; a value on a bound belongs to that bound's bucket.

    Args:
        name: of the metric.
        help_text: one line.
        bounds: upper bounds, ascending.
    """

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._head = f"# HELP {name} {help_text}\n# TYPE {name} histogram\n"
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Record a value that occurred this many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def render(self, labels: str) -> str:
        """Return the samples in the text format; ``labels`` without braces."""
        lines = [self._head]
        running = 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            running += count
            lines.append(f'{self._name}_bucket{{{labels},le="{float(bound)}"}} {running}\n')
        running += self._counts[-1]
        lines.append(f'{self._name}_bucket{{{labels},le="+Inf"}} {running}\n')
        lines.append(f"{self._name}_sum{{{labels}}} {self.total}\n{self._name}_count{{{labels}}} {running}\n")
        return "".join(lines)


class EngineMetrics:
    """Everything that ``/metrics`` says, seconds being simulated ones.

    Args:
        model: the label ``model_name``.
    """

    def __init__(self, *, model: str) -> None:
        escaped = model.replace("\\", "\\\\").replace('"', '\\"')
        self._labels = f'model_name="{escaped}",engine="0"'
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        """Share of the KV cache in use, 0 to 1."""
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        self.ttft_s = Histogram("vllm:time_to_first_token_seconds", "Time to first token in seconds.", _TTFT_S)
        self.gap_s = Histogram("vllm:inter_token_latency_seconds", "Inter-token latency in seconds.", _GAP_S)
        self.mean_gap_s = Histogram(
            "vllm:request_time_per_output_token_seconds", "Time per output token of a request in seconds.", _GAP_S
        )
        self.queue_s = Histogram("vllm:request_queue_time_seconds", "Time spent waiting in seconds.", _REQUEST_S)
        self.e2e_s = Histogram("vllm:e2e_request_latency_seconds", "End-to-end latency in seconds.", _REQUEST_S)
        self.prompt_length = Histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.generation_length = Histogram("vllm:request_generation_tokens", "Tokens generated for a request.", _TOKENS)

    def render(self) -> str:
        """Return the exposition in Prometheus' text format."""
        labels = self._labels
        parts = [
            _sample("vllm:num_requests_running", "gauge", "Requests in execution.", labels, self.running),
            _sample("vllm:num_requests_waiting", "gauge", "Requests waiting.", labels, self.waiting),
            _sample("vllm:kv_cache_usage_perc", "gauge", "KV cache in use, 1 is full.", labels, self.kv_usage),
            _sample("vllm:prompt_tokens_total", "counter", "Prompt tokens processed.", labels, self.prompt_tokens),
            _sample("vllm:generation_tokens_total", "counter", "Tokens generated.", labels, self.generation_tokens),
            "# HELP vllm:request_success_total Finished requests.\n# TYPE vllm:request_success_total counter\n",
            *(
                f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count}\n'
                for reason, count in self.finished.items()
            ),
        ]
        histograms = (self.ttft_s, self.gap_s, self.mean_gap_s, self.queue_s, self.e2e_s, self.prompt_length)
        parts += [histogram.render(labels) for histogram in (*histograms, self.generation_length)]
        return "".join(parts)


def _sample(name: str, kind: str, help_text: str, labels: str, value: float) -> str:
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}\n"
