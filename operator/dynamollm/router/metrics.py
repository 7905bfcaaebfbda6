"""The router's metrics: what the operator's forecast is fed with. Names and labels are a contract (docs/router.md).

Every child is created at zero, so that ``rate()`` sees the first increment.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dynamollm.core.classes import RequestClass, is_brief
from dynamollm.core.selection import Candidate
from dynamollm.router.fleet import Fleet

_TTFT_BUCKETS_S: Final = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_TBT_BUCKETS_S: Final = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 5)


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REJECTED = "rejected"  # refused with an answer: no room, no instance, or the engine found fault with it
    ERROR = "error"  # an instance failed it
    ABORTED = "aborted"  # the client went away


class RouterMetrics:
    """Counters and histograms by request class; seconds are simulated ones.

    Args:
        namespace: label of every sample.
        service: label of every sample.
        fleet: asked for instances and requests in flight whenever metrics are read.
    """

    def __init__(self, *, namespace: str, service: str, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        self._fixed = {"namespace": namespace, "service": service}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("namespace", "service", *labels), registry=self._registry)

        def by_class(metric: Counter) -> dict[RequestClass, Counter]:
            return {each: metric.labels(**self._fixed, **{"class": each.value}) for each in RequestClass}

        arrivals = counter("dynamollm_router_arrivals_total", "Requests by predicted class, at arrival.", "class")
        inputs = counter("dynamollm_router_input_tokens_total", "Prompt tokens by predicted class.", "class")
        outputs = counter("dynamollm_router_output_tokens_total", "Generated tokens by predicted class.", "class")
        ends = counter("dynamollm_router_completions_total", "Complete answers by predicted class.", "class")
        brief = counter("dynamollm_router_brief_answers_total", "Complete answers of 2 to 8 tokens.", "class")
        self._brief = by_class(brief)
        self._arrivals, self._inputs = by_class(arrivals), by_class(inputs)
        self._outputs, self._completions = by_class(outputs), by_class(ends)
        self._requests = counter(
            "dynamollm_router_requests_total", "Ended requests by actual class.", "class", "pool", "outcome"
        )
        slo = counter("dynamollm_router_slo_requests_total", "Requests by SLO met, actual class.", "class", "met")
        self._slo = {
            (each, met): slo.labels(**self._fixed, **{"class": each.value}, met=str(met).lower())
            for each in RequestClass
            for met in (True, False)
        }
        self._ttft_s = self._histogram("dynamollm_router_ttft_seconds", "Time to first token.", _TTFT_BUCKETS_S)
        self._tbt_s = self._histogram("dynamollm_router_tbt_seconds", "Mean time between tokens.", _TBT_BUCKETS_S)
        self._pools: set[str] = set()
        self._registry.register(_FleetCollector(fleet, namespace=namespace, service=service))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> dict[RequestClass, Histogram]:
        labels = ("namespace", "service", "class")
        metric = Histogram(name, text, labels, buckets=buckets, registry=self._registry)
        return {each: metric.labels(**self._fixed, **{"class": each.value}) for each in RequestClass}

    def create_pools(self, pools: Iterable[str]) -> None:
        """Create the children of pools that now exist, at zero."""
        for pool in set(pools) - self._pools:
            self._pools.add(pool)
            for each in RequestClass:
                for outcome in Outcome:
                    self._child(each, pool, outcome)

    def arrived(self, predicted: RequestClass, *, input_tokens: int) -> None:
        """Count an arrival."""
        self._arrivals[predicted].inc()
        self._inputs[predicted].inc(input_tokens)

    def completed(self, predicted: RequestClass, *, output_tokens: int) -> None:
        """Count a complete answer."""
        self._completions[predicted].inc()
        self._outputs[predicted].inc(output_tokens)
        if is_brief(output_tokens):
            self._brief[predicted].inc()

    def ended(self, actual: RequestClass, *, pool: str, outcome: Outcome) -> None:
        """Count the end of a request; ``pool`` is empty where none took it."""
        self._child(actual, pool, outcome).inc()

    def judged(self, actual: RequestClass, *, met: bool) -> None:
        """Count a request inside or outside its SLO."""
        self._slo[actual, met].inc()

    def timed(self, actual: RequestClass, *, ttft_s: float, tbt_s: float | None) -> None:
        """Record a stream's latencies; ``tbt_s`` is None where it had one token."""
        self._ttft_s[actual].observe(ttft_s)
        if tbt_s is not None:
            self._tbt_s[actual].observe(tbt_s)

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self._registry)

    def _child(self, each: RequestClass, pool: str, outcome: Outcome) -> Counter:
        return self._requests.labels(**self._fixed, **{"class": each.value}, pool=pool, outcome=outcome.value)


class _FleetCollector(Collector):
    """Reads the fleet when asked, so that a gauge is never stale and an instance that is gone has none."""

    def __init__(self, fleet: Fleet, *, namespace: str, service: str) -> None:
        self._fleet = fleet
        self._fixed = (namespace, service)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ("namespace", "service", "pool")
        in_flight = GaugeMetricFamily(
            "dynamollm_router_in_flight", "Requests inside an instance.", labels=(*labels, "instance")
        )
        instances = GaugeMetricFamily("dynamollm_router_instances", "Instances that take requests.", labels=labels)
        for candidate in self._fleet.known():
            in_flight.add_metric((*self._fixed, candidate.pool, candidate.name), candidate.in_flight)
        for pool, serving in self._fleet.pools().items():
            instances.add_metric((*self._fixed, pool), _count(serving))
        yield in_flight
        yield instances


def _count(candidates: Iterable[Candidate]) -> int:
    return sum(1 for _ in candidates)
