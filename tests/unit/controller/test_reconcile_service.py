"""One cycle: a state of the cluster in, calls and status out."""

import copy
from typing import Any

import pytest

from dynamollm.adapters.kube import KubeError
from dynamollm.api import names
from dynamollm.core.protocols import Reading
from dynamollm.router.routing import routing_from_config_map
from unit.controller.world import AGENTS, KEY, World


def kinds(world: World) -> set[str]:
    return {where.split("/")[-2] for verb, where in world.kube.writes if verb == "apply"}


def replicas(world: World) -> dict[str, int]:
    found = world.kube.of("Deployment").items()
    return {name: body["spec"]["replicas"] for name, body in found if not name.endswith("-router")}


async def test_a_new_service_gets_its_objects_with_itself_as_owner() -> None:
    world = World()
    assert await world.cycle() == "planned"
    assert kinds(world) == {
        "configmaps", "deployments", "poddisruptionbudgets", "rolebindings", "serviceaccounts", "services",
    }  # fmt: skip
    owners = {
        body["metadata"]["ownerReferences"][0]["uid"]
        for verb, where in world.kube.writes
        if verb == "apply"
        for body in [world.kube.objects[where]]
    }
    assert owners == {"uid-chat"}
    assert sum(replicas(world).values()) >= 1
    assert world.status["observedGeneration"] == 1
    assert world.condition("Planned") == ("True", "LoadUnknown")
    assert world.condition("Ready") == ("False", "RouterNotReady")


async def test_the_plan_is_written_down_before_anything_is_done_for_it() -> None:
    world = World()
    world.kube.failing = "deployments"
    with pytest.raises(KubeError):
        await world.cycle()
    assert world.status["plan"]["pools"]
    assert not replicas(world)
    world.kube.failing = ""
    planned = copy.deepcopy(world.status["plan"])
    await world.cycle()
    assert world.status["plan"] == planned
    assert replicas(world)


async def test_a_service_that_is_as_planned_is_left_alone() -> None:
    world = World()
    await world.settle()
    world.load(2.0)
    await world.settle()
    world.load(2.0)
    await world.cycle()
    assert world.condition("Converged") == ("True", "AsPlanned")
    assert world.condition("Ready") == ("True", "Serving")
    await world.cycle()
    assert world.kube.writes == []


async def test_load_that_is_unknown_takes_nothing_away_and_sets_safe_clocks() -> None:
    world = World()
    await world.settle()
    world.load(40.0)
    await world.settle()
    before = replicas(world)
    assert sum(before.values()) >= 2
    world.source.reading = Reading(load=None, reason="PrometheusUnreachable", problem="It is gone.")
    await world.settle(3)
    assert replicas(world) == before
    assert world.condition("MetricsAvailable") == ("False", "PrometheusUnreachable")
    await world.shared.clock_plan.publish()
    plan = world.kube.objects[AGENTS]["metadata"]["annotations"][names.ANNOTATION_CLOCK_PLAN]
    assert '"ladder":[]' in plan
    assert '"maxTokensPerSecond"' not in plan


async def test_where_no_node_holds_an_instance_none_is_made_and_the_first_place_is_taken() -> None:
    world = World()
    for name in ("node-a", "node-b"):
        world.put_node(name, gpus=1)
    await world.settle()
    assert not replicas(world)
    # Load is unknown yet; then there is some, and still no place.
    assert world.condition("CapacityUnavailable") == ("True", "GPUsUnavailable")
    world.load(2.0)
    await world.settle()
    assert not replicas(world)
    assert world.condition("CapacityUnavailable") == ("True", "GPULimit")
    assert world.condition("Ready")[0] == "False"
    await world.cycle()
    assert world.kube.writes == []
    world.put_node("node-b", gpus=8)
    await world.settle()
    assert sum(replicas(world).values()) >= 1
    assert world.condition("CapacityUnavailable") == ("False", "EnoughGPUs")


async def test_more_load_scales_up_and_less_scales_down_one_drained_instance_at_a_time() -> None:
    world = World()
    world.put_service(
        behavior={"scaleDownStabilizationSeconds": 0, "drainTimeoutSeconds": 1},
        intervals={"scaleSeconds": 1, "shardSeconds": 1, "clockSeconds": 1},
        gpu={"tensorParallel": [8]},
    )
    await world.settle()
    world.load(30.0)
    await world.settle()
    assert sum(replicas(world).values()) == 2  # all that two nodes take
    engines = [n for n in world.kube.of("Pod") if "-tp8-" in n]
    world.load(0.5)
    plan = world.status["plan"]
    for key in ("scaleDecidedS", "shardDecidedS"):
        plan[key] = 0.0  # epochs are over
    await world.cycle()
    unrouted = [
        name
        for name, body in world.kube.of("Pod").items()
        if names.ANNOTATION_UNROUTED_AT in body["metadata"].get("annotations", {})
    ]
    assert len(unrouted) == 1
    assert unrouted[0] in engines
    assert sum(replicas(world).values()) == 2  # drained first
    pod = next(body for name, body in world.kube.of("Pod").items() if name == unrouted[0])
    pod["metadata"]["annotations"][names.ANNOTATION_UNROUTED_AT] = "2026-01-01T00:00:00+00:00"
    await world.cycle()
    assert sum(replicas(world).values()) == 1
    assert pod["metadata"]["annotations"] != world.kube.of("Pod")[unrouted[0]]["metadata"]["annotations"]
    world.run_pods()
    assert unrouted[0] not in world.kube.of("Pod")


async def test_the_router_is_told_how_many_requests_make_planned_instances_full() -> None:
    world = World()
    world.load(2.0)
    await world.settle()
    (config_map,) = (body for name, body in world.kube.of("ConfigMap").items() if name == "chat-routing")
    told = routing_from_config_map(config_map).full_in_flight
    planned = {
        pool["name"]: {group["tensorParallel"]: group["fullInFlight"] for group in pool["groups"]}
        for pool in world.status["plan"]["pools"]
    }
    assert told == {name: pytest.approx(groups, abs=0.051) for name, groups in planned.items()}
    assert all(full > 1 for groups in told.values() for full in groups.values())


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ('persistentvolumeclaim "weights" not found', """says 'persistentvolumeclaim "weights" not found' of chat-"""),
        (None, "kubectl describe pod chat-"),
    ],
)
async def test_a_pod_that_gets_no_node_is_told_of_in_the_schedulers_words(told: str | None, shown: str) -> None:
    world = World()
    world.load(5.0)
    await world.cycle()
    world.run_pods()
    for body in world.kube.of("Pod").values():
        body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        del body["spec"]["nodeName"]
        waits = {"type": "PodScheduled", "status": "False", **({"message": told} if told else {})}
        body["status"] = {"phase": "Pending", "conditions": [waits]}
    await world.cycle()
    assert world.condition("CapacityUnavailable") == ("True", "PodsPending")
    message = next(one["message"] for one in world.status["conditions"] if one["type"] == "CapacityUnavailable")
    assert shown in message


async def test_advise_plans_and_touches_nothing() -> None:
    world = World()
    world.put_service(mode="Advise")
    assert await world.cycle() == "planned"
    assert {where for _, where in world.kube.writes if "/events/" not in where} == {
        "/apis/dynamollm.io/v1alpha1/namespaces/llm/inferenceservices/chat/status"
    }
    assert world.status["advice"]["pools"]
    assert "plan" not in world.status
    assert world.condition("Converged") == ("Unknown", "AdviceOnly")
    await world.shared.clock_plan.publish()
    assert "annotations" not in world.kube.objects[AGENTS]["metadata"]


async def test_paused_touches_nothing_says_so_and_keeps_its_clocks() -> None:
    world = World()
    await world.settle()
    await world.shared.clock_plan.publish()
    world.put_service(paused=True)
    await world.settle(1)
    before = dict(world.kube.objects)
    assert await world.cycle() == "paused"
    assert world.condition("Paused") == ("True", "SpecPaused")
    assert replicas(world) == {n: b["spec"]["replicas"] for n, b in World_of(before).items()}
    await world.shared.clock_plan.publish()
    assert "llm/chat/" in world.kube.objects[AGENTS]["metadata"]["annotations"][names.ANNOTATION_CLOCK_PLAN]


def World_of(objects: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - reads as a projection
    return {
        body["metadata"]["name"]: body
        for body in objects.values()
        if body["kind"] == "Deployment" and not body["metadata"]["name"].endswith("-router")
    }


UNFIT = [
    ({"profileRef": {"name": "nobody"}}, "ProfileValid", "ProfileNotFound", "nobody"),
    ({"model": {"name": "other"}}, "ProfileValid", "ProfileMismatch", "other"),
    ({"gpu": {"product": "NVIDIA-B200"}}, "ProfileValid", "ProfileMismatch", "NVIDIA-B200"),
    ({"gpu": {"tensorParallel": [1, 8]}}, "ProfileValid", "TensorParallelNotProfiled", "tensorParallel has 1"),
    ({"surprise": 1}, "Planned", "SpecInvalid", "surprise"),
]


@pytest.mark.parametrize(("spec", "condition", "reason", "word"), UNFIT)
async def test_a_service_that_cannot_be_planned_says_why_and_is_left_alone(
    spec: dict[str, Any], condition: str, reason: str, word: str
) -> None:
    world = World()
    world.put_service(**spec)
    assert await world.cycle() == "unfit"
    assert world.condition(condition) == ("False", reason)
    found = next(one for one in world.status["conditions"] if one["type"] == condition)
    assert word in found["message"]
    assert not replicas(world)
    assert reason in world.events()
    await world.cycle()
    assert world.kube.writes == []


async def test_a_profile_that_appears_makes_the_service_go_on() -> None:
    world = World()
    world.put_service(profileRef={"name": "later"})
    assert await world.cycle() == "unfit"
    profile = copy.deepcopy(world.kube.of("PerformanceProfile")["h100-llama2-70b-vllm"])
    profile["metadata"]["name"] = "later"
    world.kube.put(profile)
    assert await world.cycle() == "planned"
    assert world.condition("ProfileValid") == ("True", "ProfileFits")


async def test_the_cluster_policy_bounds_all_services_together() -> None:
    world = World()
    world.kube.put(
        {
            "apiVersion": "dynamollm.io/v1alpha1",
            "kind": "ClusterPolicy",
            "metadata": {"name": "default"},
            "spec": {"maxGPUs": 6},
        }
    )
    world.load(50.0)
    await world.settle()
    held = sum(int(name.rsplit("tp", 1)[1]) * count for name, count in replicas(world).items())
    assert 0 < held <= 6
    assert world.status["gpus"]["limit"] == 6


async def test_pods_of_others_leave_fewer_gpus() -> None:
    world = World()
    world.put_service(policy="SinglePool", gpu={"tensorParallel": [8]})
    world.kube.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "stranger", "namespace": "other"},
            "spec": {
                "nodeName": "node-a",
                "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            },
            "status": {"phase": "Running"},
        }
    )
    world.load(50.0)
    await world.settle()
    assert sum(replicas(world).values()) == 1


async def test_a_deployment_that_somebody_scaled_is_put_right() -> None:
    world = World()
    await world.settle()
    before = replicas(world)
    world.kube.of("Deployment")[next(iter(before))]["spec"]["replicas"] = 0
    world.run_pods()
    await world.cycle()
    assert replicas(world) == before


async def test_a_changed_image_reaches_what_is_there() -> None:
    world = World()
    await world.settle()
    world.put_service(engine={"type": "VLLM", "image": "vllm/vllm-openai:other"})
    await world.settle(1)
    images = {
        body["spec"]["template"]["spec"]["containers"][0]["image"]
        for name, body in world.kube.of("Deployment").items()
        if not name.endswith("-router")
    }
    assert images == {"vllm/vllm-openai:other"}


async def test_a_cycle_goes_on_from_its_own_last_write_where_the_watch_is_behind() -> None:
    world = World()
    old = copy.deepcopy(world.service)
    await world.cycle()
    decided = copy.deepcopy(world.status["plan"])
    await world.reconciler.cycle(old)  # the watch still shows the service without a status
    assert world.status["plan"] == decided
    assert world.reconciler.key == KEY
