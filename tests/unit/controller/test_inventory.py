"""Which GPUs are free for a service."""

from typing import Any

import pytest

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.controller.budget import committed_gpus
from dynamollm.controller.inventory import held_gpus, node_gpus, pod_gpus
from dynamollm.core.records import Group, Instance, InstanceState, NodeGpus
from unit.controller.world import SAMPLE, node

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def spec(**template: Any) -> InferenceServiceSpec:
    body = {**SAMPLE["spec"], "engine": {"type": "Simulated", "podTemplate": template}}
    return InferenceServiceSpec.model_validate(body)


NODES = [
    (node("a"), {}, {"a": 3}, (NodeGpus("a", 8, 5),)),
    (node("a"), {}, {"a": 9}, (NodeGpus("a", 8, 0),)),
    (node("a", product="NVIDIA-A100"), {}, {}, ()),
    (node("a", unschedulable=True), {}, {}, (NodeGpus("a", 8, 0),)),
    (node("a", taints=[TAINT]), {}, {}, (NodeGpus("a", 8, 0),)),
    (node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}]), {}, {}, (NodeGpus("a", 8, 8),)),
    (
        node("a", taints=[TAINT]),
        {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
        {},
        (NodeGpus("a", 8, 8),),
    ),
    (
        node("a", taints=[TAINT]),
        {"tolerations": [{"key": "nvidia.com/gpu", "value": "absent"}]},
        {},
        (NodeGpus("a", 8, 0),),
    ),
    (node("a", taints=[TAINT]), {"tolerations": [{"operator": "Exists"}]}, {}, (NodeGpus("a", 8, 8),)),
    (node("a"), {"nodeSelector": {"pool": "llm"}}, {}, ()),
]


@pytest.mark.parametrize(("body", "template", "held", "found"), NODES)
def test_nodes(body: dict[str, Any], template: dict[str, Any], held: dict[str, int], found: Any) -> None:
    assert node_gpus([body], spec=spec(**template), held=held) == found


def test_a_node_that_is_not_ready_has_nothing_free() -> None:
    body = node("a")
    body["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert node_gpus([body], spec=spec(), held={}) == (NodeGpus("a", 8, 0),)


@pytest.mark.parametrize(
    ("containers", "init", "gpus"),
    [
        ([{"requests": {"g": "2"}}, {"requests": {"g": "1"}}], [], 3),
        ([{"limits": {"g": "4"}}], [], 4),
        ([{"requests": {"g": "1"}}], [{"requests": {"g": "8"}}], 8),
        ([{"requests": {"cpu": "1"}}], [], 0),
        ([{"requests": {"g": "2k"}}], [], 2000),
    ],
)
def test_gpus_of_a_pod(containers: list[Any], init: list[Any], gpus: int) -> None:
    body = {
        "spec": {
            "containers": [{"resources": resources} for resources in containers],
            "initContainers": [{"resources": resources} for resources in init],
        }
    }
    assert pod_gpus(body, resource="g") == gpus


def test_a_pod_holds_its_gpus_until_it_has_ended() -> None:
    def body(phase: str, node_name: str | None = "a") -> dict[str, Any]:
        container = {"resources": {"requests": {"g": "2"}}}
        return {"spec": {"nodeName": node_name, "containers": [container]}, "status": {"phase": phase}}

    pods = [body("Running"), body("Pending"), body("Succeeded"), body("Failed"), body("Pending", None)]
    assert held_gpus(pods, resource="g") == {"a": 4}


# ------------------------------------------------------------------ the budget
def test_committed_is_what_is_asked_for_or_still_there() -> None:
    groups = [Group("ll", 4, 1), Group("ss", 2, 3)]
    instances = [Instance(f"p{i}", "ll", 4, InstanceState.TERMINATING, 0.0) for i in range(2)]
    assert committed_gpus(groups, instances) == 2 * 4 + 3 * 2
