"""The agent's metrics, made from what its last cycle saw: a GPU that is gone leaves no stale series behind.

Watts, joules and clocks of every GPU; watts and joules of every shard group whose pods hold GPUs here alone. A GPU that
is shared or partitioned has no joules of a service: unknown is not exported, and ``dynamollm_agent_refused`` says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from dynamollm.agent.cycle import Agent
from dynamollm.agent.energy import Consumer

_GPU: Final = ("node", "gpu")
_SERVICE: Final = ("node", "namespace", "service", "pool", "tensor_parallel")


class AgentCollector(Collector):
    """Shows one agent to Prometheus."""

    def __init__(self, agent: Agent, *, node: str) -> None:
        self._agent = agent
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._gpus()
        yield from self._services()
        yield from self._own()

    def _gpus(self) -> Iterator[Metric]:
        view, totals = self._agent.view, self._agent.totals
        readings = view.readings
        yield self._gauge(
            "dynamollm_gpu_power_watts", "Power draw.", _GPU, (((u,), r.power_w) for u, r in readings.items())
        )
        yield self._counter(
            "dynamollm_gpu_energy_joules",
            "Energy since the driver was loaded.",
            _GPU,
            (((u,), r.energy_j) for u, r in readings.items()),
        )
        yield self._gauge(
            "dynamollm_gpu_sm_clock_mhz", "SM clock.", _GPU, (((u,), r.sm_clock_mhz) for u, r in readings.items())
        )
        yield self._gauge(
            "dynamollm_gpu_clock_limit_mhz",
            "The lock in force; absent when there is none.",
            _GPU,
            (((u,), mhz) for u, mhz in view.locks_mhz.items()),
        )
        yield self._gauge(
            "dynamollm_gpu_clock_unreached",
            "1 while a working GPU runs below its lock, by reason.",
            (*_GPU, "reason"),
            (((u, reason), 1) for u, reason in view.unreached.items()),
        )
        yield self._gauge(
            "dynamollm_agent_refused",
            "1 while a GPU of an engine is neither clocked nor counted, by reason.",
            (*_GPU, "reason"),
            (((u, reason), 1) for u, reason in view.refused.items()),
        )
        # A series of changes starts at 0 with the first look, so that its first change is a change to Prometheus.
        changes = dict.fromkeys(readings, 0) | totals.clock_changes
        yield self._counter(
            "dynamollm_gpu_clock_changes",
            "Times that locked clocks were set or reset.",
            _GPU,
            (((u,), n) for u, n in changes.items()),
        )
        yield self._counter(
            "dynamollm_gpu_locks_lost",
            "Locks that were found gone, after a reload of the driver for instance.",
            _GPU,
            (((u,), n) for u, n in totals.locks_lost.items()),
        )
        yield self._counter(
            "dynamollm_agent_errors",
            "What was refused or unknown, by GPU (empty: no particular one) and reason.",
            (*_GPU, "reason"),
            ((key, n) for key, n in totals.errors.items()),
        )

    def _services(self) -> Iterator[Metric]:
        view = self._agent.view
        watts: dict[Consumer, float] = {}
        for uuid, consumer in view.consumers.items():
            watts[consumer] = watts.get(consumer, 0.0) + view.readings[uuid].power_w
        # To join what a GPU does to whom it does it for: * on (gpu) group_left (pool) dynamollm_gpu_held.
        yield self._gauge(
            "dynamollm_gpu_held",
            "1 for the shard group whose pod holds the GPU.",
            ("node", "gpu", *_SERVICE[1:]),
            (((uuid, *_labels(consumer)), 1) for uuid, consumer in view.consumers.items()),
        )
        yield self._gauge(
            "dynamollm_service_power_watts",
            "Power of the GPUs that pods of the service hold on this node.",
            _SERVICE,
            ((_labels(consumer), value) for consumer, value in watts.items()),
        )
        yield self._counter(
            "dynamollm_service_energy_joules",
            "Energy of the GPUs that pods of the service held on this node, since this agent started.",
            _SERVICE,
            ((_labels(consumer), value) for consumer, value in self._agent.account.joules.items()),
        )

    def _own(self) -> Iterator[Metric]:
        ends_s = self._agent.view.plan_ends_s
        yield self._gauge(
            "dynamollm_agent_plan_ends_timestamp_seconds",
            "When the lease of the clock plan in force ends (wall time); absent when none is in force.",
            ("node",),
            (((), ends_s),) if ends_s is not None else (),
        )
        yield self._counter("dynamollm_agent_cycles", "Cycles.", ("node",), (((), self._agent.totals.cycles),))
        yield self._counter(
            "dynamollm_agent_cycle_seconds",
            "Wall time spent in cycles.",
            ("node",),
            (((), self._agent.totals.seconds),),
        )

    def _gauge(
        self, name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], float]]
    ) -> Metric:
        family = GaugeMetricFamily(name, text, labels=labels)
        for values, value in samples:
            family.add_metric((self._node, *values), value)
        return family

    def _counter(
        self, name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], float]]
    ) -> Metric:
        family = CounterMetricFamily(name, text, labels=labels)
        for values, value in samples:
            family.add_metric((self._node, *values), value)
        return family


def registry(agent: Agent, *, node: str) -> CollectorRegistry:
    """Return the registry that /metrics shows."""
    own = CollectorRegistry()
    own.register(AgentCollector(agent, node=node))
    return own


def _labels(consumer: Consumer) -> tuple[str, ...]:
    return consumer.namespace, consumer.service, consumer.pool, str(consumer.tensor_parallel)
