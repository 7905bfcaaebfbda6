"""Is the installation whole? Looks at what each part needs of the others, and says what to do where it is not there.

Only looks. What takes a moment after an install (a first lease, a first scrape) is waited for. Wall seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from dynamollm.adapters.kube import Kube, path
from dynamollm.adapters.lease import DURATION_S
from dynamollm.adapters.promclient import PrometheusError, Sample
from dynamollm.api import names

_POLL_S: Final = 0.5
DISCOVERY_S: Final = 20.0
"""How long Prometheus may take to hear of a new target: it gathers what discovery tells for 5 s, however often it scrapes."""
SCRAPES: Final = 3
"""Scrapes of a known target after which there must be a sample: the first comes at a random point of the interval."""
AGENTS_S: Final = 60.0
"""How long agents may take to be ready: a first pull of the image."""


class Metrics(Protocol):
    """Prometheus, as far as it is asked here."""

    def vector(self, expression: str) -> list[Sample]:
        """Return the result of an instant query; PrometheusError where there is none."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and not all of it."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """One look at an installation."""

    kube: Kube
    metrics: Metrics
    namespace: str
    """Of operator and agents."""
    scrape_interval_s: float
    agents: bool
    """Whether there should be any."""
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)

    async def run(self) -> AsyncIterator[Finding]:
        """Yield the findings as they come.

        Raises:
            KubeError: the API server refuses or does not answer.
        """
        for plural in (names.SERVICES, names.PROFILES, names.POLICIES):
            yield await self._definition(f"{plural}.{names.GROUP}")
        yield await self._operator()
        yield await self._nodes()
        if self.agents:
            yield await self._agents()
        async for finding in self._prometheus():
            yield finding

    async def _definition(self, name: str) -> Finding:
        found = await self.kube.get(path("apiextensions.k8s.io/v1", "CustomResourceDefinition", name=name))
        if found is None:
            return Finding(Level.PROBLEM, f"{name} is not defined: install the chart with crds.install, or apply crds/")
        served = [version["name"] for version in found["spec"]["versions"] if version["served"]]
        conditions = found.get("status", {}).get("conditions", [])
        established = any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
        if not established or names.VERSION not in served:
            return Finding(Level.PROBLEM, f"{name} is not established in {names.VERSION}: kubectl describe crd {name}")
        return Finding(Level.OK, f"{name} is defined")

    async def _operator(self) -> Finding:
        where = path("coordination.k8s.io/v1", "Lease", namespace=self.namespace, name=names.OPERATOR_LEASE)

        async def lease() -> dict[str, Any]:
            found = await self.kube.get(where)
            return found["spec"] if found else {}

        before = await lease()

        async def renewed() -> str:
            now = await lease()
            holder: str = now.get("holderIdentity") or ""
            return holder if holder and now.get("renewTime") != before.get("renewTime") else ""

        if holder := await self._until(renewed, 2 * DURATION_S):
            return Finding(Level.OK, f"the operator acts: {holder}")
        return Finding(
            Level.PROBLEM,
            f"nobody renews lease {names.OPERATOR_LEASE}: kubectl logs -n {self.namespace} deployment/{names.OPERATOR_DEPLOYMENT}",
        )

    async def _nodes(self) -> Finding:
        nodes = await self.kube.list(path("v1", "Node"))
        labelled = sum(1 for node in nodes if names.LABEL_GPU_PRODUCT in node["metadata"].get("labels", {}))
        if labelled:
            return Finding(Level.OK, f"{labelled} of {len(nodes)} nodes say what GPUs they have")
        return Finding(
            Level.WARNING,
            f"no node has the label {names.LABEL_GPU_PRODUCT}, so no service can be planned: install GPU feature discovery",
        )

    async def _agents(self) -> Finding:
        where = path("apps/v1", "DaemonSet", namespace=self.namespace, name=names.AGENT_DAEMONSET)
        last: dict[str, Any] = {}

        async def ready() -> str:
            found = await self.kube.get(where)
            status = found.get("status", {}) if found else {}
            last.update(status)
            wanted: int = status.get("desiredNumberScheduled", 0)
            seen: bool = found is not None and status.get("observedGeneration") == found["metadata"]["generation"]
            return f"{wanted} agents are ready" if seen and status.get("numberReady", 0) >= wanted else ""

        if text := await self._until(ready, AGENTS_S):
            if not last.get("desiredNumberScheduled"):
                return Finding(
                    Level.WARNING,
                    "no node matches agent.nodeSelector, so no agent runs: no clock is set, no joules are measured",
                )
            return Finding(Level.OK, text)
        return Finding(
            Level.PROBLEM,
            f"{last.get('numberReady', 0)} of {last.get('desiredNumberScheduled', 0)} agents are ready: "
            f"kubectl describe pods -n {self.namespace} -l {names.LABEL_NAME}={names.AGENT_DAEMONSET}",
        )

    async def _prometheus(self) -> AsyncIterator[Finding]:
        series = {"operator": "dynamollm_operator_active"}
        if self.agents:
            series["agents"] = "dynamollm_agent_cycles_total"
        for part, metric in series.items():

            async def scraped(metric: str = metric) -> str:
                samples = await asyncio.to_thread(self.metrics.vector, f"count({metric})")
                return f"{samples[0].value:g}" if samples else ""

            try:
                count = await self._until(scraped, DISCOVERY_S + SCRAPES * self.scrape_interval_s)
            except PrometheusError as error:
                yield Finding(Level.PROBLEM, f"{error.reason}: {error} (value prometheus.url)")
                return
            if count:
                yield Finding(Level.OK, f"Prometheus scrapes {count} of the {part}")
            elif part == "agents":
                # Where no node has a GPU there is none to be scraped.
                yield Finding(Level.WARNING, f"Prometheus has no {metric}: {_SCRAPING}")
            else:
                yield Finding(Level.PROBLEM, f"Prometheus has no {metric}, and will not see load either: {_SCRAPING}")

    async def _until(self, look: Callable[[], Awaitable[str]], timeout_s: float) -> str:
        waited_s = 0.0
        while not (answer := await look()) and waited_s < timeout_s:
            await self.sleep(_POLL_S)
            waited_s += _POLL_S
        return answer


_SCRAPING: Final = (
    "let it scrape pods by their prometheus.io annotations, or set monitoring.podMonitors.enabled and the labels "
    "by which it selects PodMonitors"
)
