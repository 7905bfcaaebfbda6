"""What a user's podTemplate makes of the engines' pods: user, volumes, pull secrets, priority."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dynamollm.api.inferenceservice_engine import Engine
from dynamollm.api.inferenceservice_pods import OPERATORS_VOLUMES, TAKEN_PATHS, Volume
from dynamollm.controller.objects.engine import engine_deployment
from unit.controller.test_engine_start import PROFILE, owner
from unit.controller.world import World

TYPES = get_args(Engine.model_fields["type"].annotation)
OTHERS = tuple(name for name in TYPES if name != "Simulated")
CLAIM = {"name": "weights", "mountPath": "/weights", "persistentVolumeClaim": {"claimName": "llama"}}
CONFIG = {"name": "templates", "mountPath": "/opt/templates", "configMap": {"name": "chat"}}


def pod(engine_type: str, **template: Any) -> dict[str, Any]:
    who = owner(type=engine_type, podTemplate=template)
    body = engine_deployment(who, PROFILE, pool="ll", tensor_parallel=4, replicas=1)
    spec: dict[str, Any] = body["spec"]["template"]["spec"]
    return spec


def added(engine_type: str, **template: Any) -> tuple[list[Any], list[Any]]:
    """Return volumes and mounts besides the operator's own."""
    plain, found = pod(engine_type), pod(engine_type, **template)
    mounts, own = found["containers"][0]["volumeMounts"], plain["containers"][0]["volumeMounts"]
    assert found["volumes"][: len(plain["volumes"])] == plain["volumes"]
    assert mounts[: len(own)] == own
    return found["volumes"][len(plain["volumes"]) :], mounts[len(own) :]


# ------------------------------------------------------------------ user and groups
CONFINED = {"seccompProfile": {"type": "RuntimeDefault"}}
OURS = {**CONFINED, "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}
USERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, CONFINED) for name in OTHERS),
    *((name, {"runAsUser": 2000}, {**CONFINED, "runAsNonRoot": True, "runAsUser": 2000}) for name in OTHERS),
    (
        "VLLM",
        {"runAsUser": 2000, "runAsGroup": 0, "fsGroup": 0},
        {
            **CONFINED,
            "runAsNonRoot": True,
            "runAsUser": 2000,
            "runAsGroup": 0,
            "fsGroup": 0,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
    ),
    ("VLLM", {"fsGroup": 7}, {**CONFINED, "fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch"}),
    ("Simulated", {}, OURS),
    ("Simulated", {"fsGroup": 7}, {**OURS, "fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch"}),
]


@pytest.mark.parametrize(("engine_type", "template", "context"), USERS, ids=[f"{one[0]} {one[1]}" for one in USERS])
def test_an_engine_runs_as_the_user_that_was_asked_for(
    engine_type: str, template: dict[str, Any], context: dict[str, Any]
) -> None:
    found = pod(engine_type, **template)
    assert found["securityContext"] == context
    # Whoever it runs as, it may no more than before.
    assert found["containers"][0]["securityContext"] == pod(engine_type)["containers"][0]["securityContext"]


# ------------------------------------------------------------------ volumes
VOLUMES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        CLAIM,
        {"name": "weights", "persistentVolumeClaim": {"claimName": "llama", "readOnly": True}},
        {"name": "weights", "mountPath": "/weights", "readOnly": True},
    ),
    (
        {**CLAIM, "readOnly": False},
        {"name": "weights", "persistentVolumeClaim": {"claimName": "llama"}},
        {"name": "weights", "mountPath": "/weights"},
    ),
    (
        CONFIG,
        {"name": "templates", "configMap": {"name": "chat"}},
        {"name": "templates", "mountPath": "/opt/templates", "readOnly": True},
    ),
]


@pytest.mark.parametrize("engine_type", TYPES)
@pytest.mark.parametrize(("asked", "volume", "mount"), VOLUMES)
def test_a_volume_is_mounted_where_it_was_asked_for(
    engine_type: str, asked: dict[str, Any], volume: dict[str, Any], mount: dict[str, Any]
) -> None:
    assert added(engine_type, volumes=[asked]) == ([volume], [mount])


def test_volumes_come_in_the_users_order() -> None:
    volumes, mounts = added("TensorRTLLM", volumes=[CONFIG, CLAIM])
    assert [volume["name"] for volume in volumes] == [mount["name"] for mount in mounts] == ["templates", "weights"]


@pytest.mark.parametrize("engine_type", TYPES)
def test_the_operators_own_volumes_are_those_that_users_cannot_name(engine_type: str) -> None:
    found = pod(engine_type)
    assert {volume["name"] for volume in found["volumes"]} <= set(OPERATORS_VOLUMES)
    for mount in found["containers"][0]["volumeMounts"]:
        assert any(mount["mountPath"].startswith(f"{path}/") for path in TAKEN_PATHS)


PATHS = ["weights", "", "/", "/a/", "//a", "/a//b", "/.", "/..", "/a/.", "/a/../etc", "/a:b", "/a b", "/a\n", "/ä"]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_path_that_could_be_spelt_otherwise_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="mountPath"):
        Volume.model_validate({**CLAIM, "mountPath": path})


# ------------------------------------------------------------------ what is there only where it was asked for
ASKED: list[tuple[dict[str, Any], str, Any]] = [
    (
        {"imagePullSecrets": [{"name": "registry"}, {"name": "hub"}]},
        "imagePullSecrets",
        [{"name": "registry"}, {"name": "hub"}],
    ),
    ({"priorityClassName": "serving"}, "priorityClassName", "serving"),
]


@pytest.mark.parametrize("engine_type", TYPES)
@pytest.mark.parametrize(("template", "field", "value"), ASKED)
def test_a_field_is_there_only_where_it_was_asked_for(
    engine_type: str, template: dict[str, Any], field: str, value: Any
) -> None:
    assert pod(engine_type, **template) == {**pod(engine_type), field: value}
    # A new operator must not replace the pods of services that ask for nothing.
    assert field not in pod(engine_type)


# ------------------------------------------------------------------ a change
CHANGES: list[dict[str, Any]] = [
    {"runAsUser": 2000},
    {"runAsUser": 2000, "runAsGroup": 2000},
    {"fsGroup": 2000},
    {"imagePullSecrets": [{"name": "registry"}]},
    {"priorityClassName": "serving"},
    {"volumes": [CLAIM]},
    {"volumes": [{**CLAIM, "readOnly": False}]},
]


def templates(world: World) -> dict[str, Any]:
    """Return the pod templates of the engines, by Deployment."""
    deployments = world.kube.of("Deployment").items()
    return {name: body["spec"]["template"] for name, body in deployments if not name.endswith("-router")}


@pytest.mark.parametrize("template", CHANGES, ids=str)
async def test_a_change_reaches_the_pods_and_so_does_taking_it_back(template: dict[str, Any]) -> None:
    engine = {"type": "VLLM", "image": "engine:1"}
    world = World()
    world.put_service(engine=engine)
    await world.settle()
    before = templates(world)
    world.put_service(engine={**engine, "podTemplate": template})
    await world.settle(1)
    after = templates(world)
    assert before.keys() == after.keys() != set()
    assert [name for name in before if after[name] == before[name]] == []
    world.put_service(engine=engine)
    await world.settle(1)
    assert templates(world) == before
