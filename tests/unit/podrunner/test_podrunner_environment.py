import os
from typing import Any

import pytest

from lab.podrunner.environment import NotYetError, Place, environment, expand, field_value, resource_value

Json = dict[str, Any]

PLACE = Place(pod_ip="127.64.3.9", host_ip="127.64.254.4", allocatable={"cpu": "224", "memory": "2Ti"})
POD: Json = {
    "metadata": {
        "name": "chat-0",
        "namespace": "llm",
        "uid": "u-1",
        "labels": {"dynamollm.io/pool": "ll", "app": "chat"},
        "annotations": {"note": "a b"},
    },
    "spec": {
        "nodeName": "gpu-node-03",
        "serviceAccountName": "router",
        "initContainers": [{"name": "first", "resources": {"limits": {"cpu": "2"}}}],
        "containers": [
            {"name": "main", "resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}, "requests": {"cpu": "100m"}}},
            {"name": "bare"},
        ],
    },
}
VALUES: dict[tuple[str, str], dict[str, bytes]] = {
    ("configmaps", "settings"): {"model": b"llama", "mode": b"fast"},
    ("secrets", "keys"): {"api": b"s3cret", "raw": b"\xff\x00"[:1]},
}


async def read(kind: str, name: str) -> dict[str, bytes] | None:
    return VALUES.get((kind, name))


async def env_of(*env: Json, env_from: tuple[Json, ...] = ()) -> dict[str, str]:
    return await environment(POD, {"name": "main", "env": env, "envFrom": env_from}, read=read, place=PLACE)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("--host=$(HOST)", "--host=h"),
        ("$(HOST)$(HOST)", "hh"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$HOST ${HOST}", "$HOST ${HOST}"),
        ("$$(HOST)", "$(HOST)"),
        ("$$$(HOST)", "$h"),
        ("$$", "$"),
        ("$(HOST", "$(HOST"),
        ("$(NOT-SHELL.1)", "yes"),
        ("$()", "$()"),
    ],
)
def test_references_in_commands(text: str, expanded: str) -> None:
    assert expand(text, {"HOST": "h", "NOT-SHELL.1": "yes"}) == expanded


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "chat-0"),
        ("metadata.namespace", "llm"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['dynamollm.io/pool']", "ll"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "a b"),
        ("metadata.labels", 'app="chat"\ndynamollm.io/pool="ll"'),
        ("spec.nodeName", "gpu-node-03"),
        ("spec.serviceAccountName", "router"),
        ("status.podIP", "127.64.3.9"),
        ("status.podIPs", "127.64.3.9"),
        ("status.hostIP", "127.64.254.4"),
    ],
)
def test_fields(path: str, value: str) -> None:
    assert field_value(POD, path, PLACE) == value


def test_a_field_that_is_not_known_is_named() -> None:
    with pytest.raises(NotYetError, match=r"field status\.phase is not supported"):
        field_value(POD, "status.phase", PLACE)


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ({"resource": "limits.cpu"}, "2"),  # rounded up
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "limits.cpu", "divisor": "0"}, "2"),  # how the API server writes the default
        ({"resource": "limits.memory"}, str(2 * 1024**3)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "2048"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "100"),
        ({"resource": "requests.memory"}, "0"),
        ({"resource": "limits.cpu", "containerName": "bare"}, "224"),  # what the node has
        ({"resource": "limits.memory", "containerName": "bare", "divisor": "1Ti"}, "2"),
        ({"resource": "limits.cpu", "containerName": "first"}, "2"),
    ],
)
def test_resources(reference: Json, value: str) -> None:
    assert resource_value(POD, "main", reference, PLACE) == value


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ({"resource": "limits.cpu", "containerName": "none"}, "no such container"),
        ({"resource": "limits.cpu", "divisor": "many"}, "'many' cannot be read"),
    ],
)
def test_resources_that_cannot_be_told(reference: Json, why: str) -> None:
    with pytest.raises(NotYetError, match=why):
        resource_value(POD, "main", reference, PLACE)


def ref(kind: str, name: str, key: str, *, optional: bool = False) -> Json:
    return {"name": "X", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        (ref("configMapKeyRef", "settings", "model"), {"X": "llama"}),
        (ref("secretKeyRef", "keys", "api"), {"X": "s3cret"}),
        (ref("configMapKeyRef", "settings", "none", optional=True), {}),
        (ref("configMapKeyRef", "none", "model", optional=True), {}),
        (ref("secretKeyRef", "none", "api", optional=True), {}),
    ],
)
async def test_values_of_config_maps_and_secrets(variable: Json, found: dict[str, str]) -> None:
    assert await env_of(variable) == found


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        (ref("configMapKeyRef", "none", "model"), 'configmap "none" not found'),
        (ref("configMapKeyRef", "settings", "none"), 'configmap "settings" has no key "none"'),
        (ref("secretKeyRef", "none", "api"), 'secret "none" not found'),
        (ref("secretKeyRef", "keys", "none"), 'secret "keys" has no key "none"'),
        ({"name": "X", "valueFrom": {"fileKeyRef": {}}}, "not supported"),
    ],
)
async def test_what_is_missing_is_named(variable: Json, why: str) -> None:
    with pytest.raises(NotYetError, match=why):
        await env_of(variable)


async def test_all_of_a_config_map_with_a_prefix_and_a_later_variable_wins() -> None:
    sources = (
        {"configMapRef": {"name": "settings"}, "prefix": "SET_"},
        {"secretRef": {"name": "no", "optional": True}},
    )
    found = await env_of({"name": "SET_mode", "value": "slow"}, env_from=sources)
    assert found == {"SET_model": "llama", "SET_mode": "slow"}


async def test_variables_refer_to_earlier_ones_only() -> None:
    found = await env_of(
        {"name": "EARLY", "value": "$(LATE)"},
        {"name": "LATE", "value": "x"},
        {"name": "END", "value": "$(LATE)$$(LATE)"},
    )
    assert found == {"EARLY": "$(LATE)", "LATE": "x", "END": "x$(LATE)"}


async def test_a_secret_that_is_no_text_reaches_the_process_unchanged() -> None:
    found = await env_of(ref("secretKeyRef", "keys", "raw"))
    assert os.fsencode(found["X"]) == b"\xff"
