"""What services share: by grants, by what is there, and by priority."""

import copy
from typing import Any

import pytest

from dynamollm.api import names
from dynamollm.controller.budget import GpuBook, Grant, Key
from dynamollm.controller.claims import budget_left, has_givers, holdings, nodes_left, watts_left
from dynamollm.controller.reconcile_service import Reconciler
from dynamollm.core.protocols import Reading
from dynamollm.core.records import Service
from unit.controller.world import FakeSource, World

A, B, C = ("n", "a"), ("n", "b"), ("n", "c")


def service(
    *, product: str = "H100", priority: int = 0, instances: int = 1, mode: str = "Enforce", watts: int | None = None
) -> dict[str, Any]:
    status = {} if watts is None else {"status": {"power": {"expectedWatts": watts}}}
    spec = {
        "gpu": {"product": product, "tensorParallel": [2, 4, 8]},
        "priority": priority,
        "limits": {"minInstances": instances},
        "mode": mode,
    }
    return {"spec": spec, **status}


def book(grants: dict[Key, Grant]) -> GpuBook:
    found = GpuBook()
    for key, grant in grants.items():
        found.grant(key, grant)
    return found


def test_what_others_were_granted_counts_before_their_pods_exist() -> None:
    services = {A: service(), B: service(), C: service(product="B200")}
    found = holdings(services, book=book({A: Grant(gpus=8, watts=2_000.0)}), held={A: 2, B: 4})
    assert budget_left(B, found, total_gpus=20) == 12
    assert budget_left(A, found, total_gpus=20) == 16
    assert nodes_left(B, found, own_gpus=4, free_gpus=10) == 4 + 10 - 6
    assert nodes_left(B, found, own_gpus=4, free_gpus=5) == 4  # six are promised, and five are there
    assert nodes_left(C, found, own_gpus=0, free_gpus=10) == 10


def test_watts_are_granted_ones_more_while_more_is_held_and_reported_ones_until_planned() -> None:
    services = {A: service(), B: service(watts=500), C: service(watts=300, mode="Advise")}
    assert watts_left(A, holdings(services, book=book({}), held={}), total_watts=10_000) == 9_500.0
    granted = book({B: Grant(gpus=8, watts=2_000.0)})
    assert watts_left(A, holdings(services, book=granted, held={B: 4}), total_watts=10_000) == 8_000.0
    assert watts_left(A, holdings(services, book=granted, held={B: 12}), total_watts=10_000) == 7_000.0
    assert watts_left(A, holdings(services, book=granted, held={B: 4}), total_watts=1_000) == 0.0


def test_a_higher_priority_wants_and_a_lower_one_gives_back_to_its_floor() -> None:
    services = {A: service(priority=1), B: service(instances=2)}
    grants = book({A: Grant(gpus=4, watts=1e3, wanted_gpus=16, wanted_watts=4e3), B: Grant(gpus=12, watts=3e3)})
    found = holdings(services, book=grants, held={A: 4, B: 12})
    assert budget_left(B, found, total_gpus=20) == 4  # eight of twelve wanted beyond the four that are free
    assert budget_left(A, found, total_gpus=20) == 8  # the rest once it has been given back
    assert nodes_left(B, found, own_gpus=12, free_gpus=0) == 4
    assert watts_left(B, found, total_watts=4_000) == 1_000.0  # two instances of TP2, of twelve GPUs
    assert (has_givers(A, found), has_givers(B, found)) == (True, False)


class AnySource(FakeSource):
    """Says the same of every service."""

    async def read(self, service: Service, *, created_s: float) -> Reading:  # noqa: ARG002 - as the source has it
        return self.reading


def drained(world: World) -> None:
    """Let what is being drained have been drained for long."""
    for pod in world.kube.of("Pod").values():
        annotations = pod["metadata"].get("annotations", {})
        if names.ANNOTATION_UNROUTED_AT in annotations:
            annotations[names.ANNOTATION_UNROUTED_AT] = "2026-01-01T00:00:00+00:00"


def replicas(world: World) -> dict[str, int]:
    found = world.kube.of("Deployment").items()
    return {name: body["spec"]["replicas"] for name, body in found if not name.endswith("-router")}


@pytest.mark.parametrize(
    ("priority", "expected"),
    [(5, {"chat-ll-tp8": 1, "code-ll-tp8": 1}), (0, {"chat-ll-tp8": 2})],
)
async def test_of_two_services_that_want_all_nodes_the_more_important_one_gets_its_part(
    priority: int, expected: dict[str, int]
) -> None:
    world = World(source=AnySource())
    fields = {
        "gpu": {"tensorParallel": [8]},
        "policy": "SinglePool",
        "behavior": {"drainTimeoutSeconds": 1},
        "intervals": {"scaleSeconds": 1, "shardSeconds": 1, "clockSeconds": 1},
    }
    world.put_service(**fields)
    world.load(50.0)
    await world.settle()
    assert world.status["gpus"]["desired"] == 16  # both nodes

    code = Reconciler(shared=world.shared, key=("llm", "code"))
    world.put_service("code", priority=priority, **fields)
    for _ in range(8):
        await code.cycle(copy.deepcopy(world.kube.of("InferenceService")["code"]))
        await world.cycle()
        drained(world)
        world.run_pods()
        world.load(50.0)
    assert replicas(world) == expected
