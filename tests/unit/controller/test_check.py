"""What `helm test` finds, and what it says to do."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from dynamollm.adapters.promclient import PrometheusError, Sample
from dynamollm.api import names
from dynamollm.controller.check import Check, Finding, Level

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases/{names.OPERATOR_LEASE}"
AGENTS = f"/apis/apps/v1/namespaces/{names.SYSTEM_NAMESPACE}/daemonsets/{names.AGENT_DAEMONSET}"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"


def definition(*, version: str = names.VERSION, established: str = "True") -> dict[str, Any]:
    return {
        "spec": {"versions": [{"name": version, "served": True}]},
        "status": {"conditions": [{"type": "Established", "status": established}]},
    }


@dataclass
class Kube:
    """An installation that is whole, but for what a test changes. The lease is renewed at every look."""

    definitions: dict[str, Any] = field(default_factory=dict)
    holder: str = "operator-0_1"
    renews: bool = True
    desired: int = 2
    ready: int = 2
    labels: dict[str, str] = field(default_factory=lambda: {names.LABEL_GPU_PRODUCT: "H100"})
    _renewed: int = 0

    async def get(self, where: str) -> dict[str, Any] | None:
        if where.startswith(CRD):
            found: dict[str, Any] | None = self.definitions.get(where.removeprefix(CRD), definition())
            return found
        if where == LEASE:
            self._renewed += self.renews
            return {"spec": {"holderIdentity": self.holder, "renewTime": str(self._renewed)}}
        assert where == AGENTS
        status = {"observedGeneration": 1, "desiredNumberScheduled": self.desired, "numberReady": self.ready}
        return {"metadata": {"generation": 1}, "status": status}

    async def list(self, where: str) -> list[dict[str, Any]]:
        assert where == "/api/v1/nodes"
        return [{"metadata": {"labels": self.labels}}]


@dataclass
class Metrics:
    """A Prometheus that has these series."""

    series: tuple[str, ...] = ("dynamollm_operator_active", "dynamollm_agent_cycles_total")
    error: PrometheusError | None = None

    def vector(self, expression: str) -> list[Sample]:
        if self.error:
            raise self.error
        return [Sample(labels={}, value=1.0, time_s=0.0)] if expression[6:-1] in self.series else []


@dataclass
class LateMetrics:
    """A Prometheus that hears of its targets late."""

    known_after_s: float
    _now_s: float = 0.0

    async def sleep(self, seconds: float) -> None:
        self._now_s += seconds

    def vector(self, _expression: str) -> list[Sample]:
        return [Sample(labels={}, value=1.0, time_s=0.0)] if self._now_s >= self.known_after_s else []


async def no_sleep(_seconds: float) -> None:
    return


async def findings(kube: Kube, metrics: Metrics | None = None, *, agents: bool = True) -> list[Finding]:
    look = Check(
        kube=kube,  # type: ignore[arg-type]
        metrics=metrics or Metrics(),
        namespace=names.SYSTEM_NAMESPACE,
        scrape_interval_s=15.0,
        agents=agents,
        sleep=no_sleep,
    )
    return [finding async for finding in look.run()]


async def test_a_whole_installation_has_nothing_but_ok() -> None:
    found = await findings(Kube())
    assert {finding.level for finding in found} == {Level.OK}
    assert len(found) == 8


BAD = [
    (Kube(definitions={"clusterpolicies.dynamollm.io": None}), Level.PROBLEM, "crds.install"),
    (Kube(definitions={"clusterpolicies.dynamollm.io": definition(version="v1")}), Level.PROBLEM, "not established"),
    (
        Kube(definitions={"clusterpolicies.dynamollm.io": definition(established="False")}),
        Level.PROBLEM,
        "describe crd",
    ),
    (Kube(holder=""), Level.PROBLEM, "nobody renews lease dynamollm-operator"),
    (Kube(renews=False), Level.PROBLEM, "nobody renews lease dynamollm-operator"),
    (Kube(ready=1), Level.PROBLEM, "1 of 2 agents are ready"),
    (Kube(desired=0, ready=0), Level.WARNING, "no node matches agent.nodeSelector"),
    (Kube(labels={}), Level.WARNING, "no node has the label nvidia.com/gpu.product"),
]


@pytest.mark.parametrize(("kube", "level", "text"), BAD, ids=[text for _, _, text in BAD])
async def test_what_is_wrong_is_told_and_nothing_else(kube: Kube, level: Level, text: str) -> None:
    bad = [finding for finding in await findings(kube) if finding.level is not Level.OK]
    assert [finding.level for finding in bad] == [level]
    assert text in bad[0].text


async def test_without_agents_none_is_asked_for() -> None:
    metrics = Metrics(series=("dynamollm_operator_active",))
    found = await findings(Kube(desired=0, ready=0), metrics, agents=False)
    assert {finding.level for finding in found} == {Level.OK}


async def test_a_prometheus_that_does_not_answer_is_a_problem_once() -> None:
    error = PrometheusError("PrometheusUnreachable", "http://prometheus cannot be reached")
    bad = [finding for finding in await findings(Kube(), Metrics(error=error)) if finding.level is not Level.OK]
    assert bad == [
        Finding(Level.PROBLEM, "PrometheusUnreachable: http://prometheus cannot be reached (value prometheus.url)")
    ]


async def test_a_new_target_may_be_discovered_later_than_a_few_short_scrapes() -> None:
    late = LateMetrics(known_after_s=7.0)
    look = Check(
        kube=Kube(),  # type: ignore[arg-type]
        metrics=late,
        namespace=names.SYSTEM_NAMESPACE,
        scrape_interval_s=1.0,
        agents=False,
        sleep=late.sleep,
    )
    assert {finding.level async for finding in look.run()} == {Level.OK}


async def test_a_prometheus_that_scrapes_nothing_of_ours_is_a_problem() -> None:
    bad = [finding for finding in await findings(Kube(), Metrics(series=())) if finding.level is not Level.OK]
    assert [finding.level for finding in bad] == [Level.PROBLEM, Level.WARNING]
    assert all("monitoring.podMonitors.enabled" in finding.text for finding in bad)
