"""The order in which an uninstall takes things away, and what it never touches."""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

from dynamollm.adapters.kube import CONFLICT, KubeError, path
from dynamollm.api import names
from dynamollm.controller.uninstall import STOP_S, Services, Uninstall

SYSTEM = names.SYSTEM_NAMESPACE
OPERATOR = path("apps/v1", "Deployment", namespace=SYSTEM, name=names.OPERATOR_DEPLOYMENT)
AGENTS = path("apps/v1", "DaemonSet", namespace=SYSTEM, name=names.AGENT_DAEMONSET)
PODS = path("v1", "Pod", namespace=SYSTEM)
CHECK = path("v1", "Pod", namespace=SYSTEM, name=names.CHECK_POD)
SERVICES = path("dynamollm.io/v1alpha1", "InferenceService")
CHAT = path("dynamollm.io/v1alpha1", "InferenceService", namespace="llm", name="chat")


def service(*finalizers: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "llm",
            "name": "chat",
            "uid": "u",
            "resourceVersion": "7",
            "finalizers": list(finalizers),
        }
    }


@dataclass
class Kube:
    """A cluster with one service, an operator and an agent; pods end some polls after what made them."""

    services: list[dict[str, Any]]
    operator_works: bool = True
    """It takes its finalizer off a service that is deleted."""
    polls: int = 3
    conflicts: int = 0
    requests: list[str] = field(default_factory=list)
    _left: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._left = {names.OPERATOR_DEPLOYMENT: -1, names.AGENT_DAEMONSET: -1}

    async def list(self, where: str, *, label_selector: str = "") -> list[dict[str, Any]]:
        if where == SERVICES:
            return copy.deepcopy(self.services)
        assert where == PODS
        name = label_selector.removeprefix("app.kubernetes.io/name=")
        if self._left[name] == 0:
            return []
        self._left[name] -= 1 if self._left[name] > 0 else 0
        return [{"metadata": {"namespace": SYSTEM, "name": f"{name}-0"}}]

    async def delete(self, where: str, *, uid: str | None = None) -> bool:
        self.requests.append(f"delete {where}")
        for deployed, name in ((OPERATOR, names.OPERATOR_DEPLOYMENT), (AGENTS, names.AGENT_DAEMONSET)):
            if where == deployed:
                self._left[name] = self.polls
        if where == CHAT:
            assert uid == "u"
            if self.operator_works:
                self.services.clear()
        return True

    async def patch(self, where: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(f"patch {where}")
        if self.conflicts:
            self.conflicts -= 1
            raise KubeError("changed", status=CONFLICT)
        assert where == CHAT
        assert body["metadata"].pop("resourceVersion") == "7"
        self.services[0]["metadata"] |= body["metadata"]
        return self.services[0]


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    slept_s: float = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


async def uninstall(kube: Kube, services: Services, *, timeout_s: float = 10.0) -> Clock:
    clock = Clock()
    job = Uninstall(kube=kube, namespace=SYSTEM, services=services, timeout_s=timeout_s, sleep=clock.sleep)  # type: ignore[arg-type]
    await job.run()
    return clock


async def test_kept_services_lose_our_finalizer_alone_once_nobody_can_put_it_back() -> None:
    kube = Kube([service("a.user/s", names.FINALIZER, "another.user/s")])
    await uninstall(kube, Services.KEEP)
    assert kube.requests == [f"delete {OPERATOR}", f"delete {AGENTS}", f"patch {CHAT}", f"delete {CHECK}"]
    assert kube.services[0]["metadata"]["finalizers"] == ["a.user/s", "another.user/s"]


async def test_services_that_go_are_seen_out_by_the_operator() -> None:
    kube = Kube([service(names.FINALIZER)])
    await uninstall(kube, Services.DELETE)
    assert kube.requests == [f"delete {CHAT}", f"delete {OPERATOR}", f"delete {AGENTS}", f"delete {CHECK}"]


async def test_a_dead_operator_hangs_no_finalizer() -> None:
    kube = Kube([service(names.FINALIZER)], operator_works=False)
    clock = await uninstall(kube, Services.DELETE, timeout_s=10.0)
    assert kube.services[0]["metadata"]["finalizers"] == []
    assert clock.slept_s >= 10.0


async def test_pods_on_a_node_that_is_gone_are_not_waited_for_for_ever() -> None:
    kube = Kube([service(names.FINALIZER)], polls=10**6)
    clock = await uninstall(kube, Services.KEEP)
    assert clock.slept_s == 2 * STOP_S
    assert kube.services[0]["metadata"]["finalizers"] == []


async def test_a_service_that_changes_meanwhile_is_looked_at_again() -> None:
    kube = Kube([service(names.FINALIZER)], conflicts=3)
    await uninstall(kube, Services.KEEP)
    assert kube.services[0]["metadata"]["finalizers"] == []


@pytest.mark.parametrize("services", Services)
async def test_again_is_no_error(services: Services) -> None:
    kube = Kube([service(names.FINALIZER)])
    await uninstall(kube, services)
    await uninstall(kube, services)


async def test_nothing_is_patched_where_nothing_waits() -> None:
    kube = Kube([service("a.user/s")])
    await uninstall(kube, Services.KEEP)
    assert f"patch {CHAT}" not in kube.requests
