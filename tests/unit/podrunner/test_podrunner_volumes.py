import base64
from pathlib import Path
from typing import Any

import pytest

from lab.podrunner.environment import NotYetError, Place
from lab.podrunner.launcher import Mount
from lab.podrunner.volumes import Volumes, decoded

Json = dict[str, Any]


class World:
    """One pod's volumes, and all that they are made of."""

    def __init__(self, tmp_path: Path, *volumes: Json) -> None:
        self.values: dict[tuple[str, str], dict[str, bytes]] = {
            ("configmaps", "settings"): {"mode": b"old", "model": b"llama"},
            ("secrets", "keys"): {"api": b"\xff\x00"},
        }
        self.now_s = 0.0
        self.tokens: list[tuple[str, int]] = []
        self.pod: Json = {
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1"}},
            "spec": {"volumes": volumes, "containers": [{"name": "main", "resources": {"limits": {"cpu": "3"}}}]},
        }
        self.node_root = tmp_path / "node"
        self.volumes = Volumes(
            pod=self.pod,
            folder=tmp_path / "pod",
            node_root=self.node_root,
            authority="CA",
            place=Place(),
            read=self.read,
            token=self.token,
            clock=lambda: self.now_s,
        )

    async def read(self, kind: str, name: str) -> dict[str, bytes] | None:
        return self.values.get((kind, name))

    async def token(self, audience: str, seconds: int) -> str:
        self.tokens.append((audience, seconds))
        return f"token {len(self.tokens)}"

    async def make(self) -> None:
        await self.volumes.make(self.pod)

    def files(self, name: str = "v") -> dict[str, bytes]:
        folder = self.volumes.path(name)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def volume(**source: Any) -> Json:
    return {"name": "v", **source}


def items(*pairs: tuple[str, str]) -> list[Json]:
    return [{"key": key, "path": path} for key, path in pairs]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ({"configMap": {"name": "settings"}}, {"mode": b"old", "model": b"llama"}),
        ({"configMap": {"name": "settings", "items": items(("mode", "sub/this"))}}, {"sub/this": b"old"}),
        (
            {"configMap": {"name": "settings", "items": items(("no", "x"), ("mode", "y")), "optional": True}},
            {"y": b"old"},
        ),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        ({"configMap": {"name": "kube-root-ca.crt"}}, {"ca.crt": b"CA"}),
        ({"secret": {"secretName": "keys"}}, {"api": b"\xff\x00"}),
        ({"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}, {"name": b"p"}),
        (
            {
                "downwardAPI": {
                    "items": [{"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}}]
                }
            },
            {"cpu": b"3"},
        ),
        ({"emptyDir": {}}, {}),
        (
            {
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "token"}},
                        {"configMap": {"name": "kube-root-ca.crt", "items": items(("ca.crt", "authority"))}},
                        {"configMap": {"name": "settings"}},
                        {"secret": {"name": "keys"}},
                    ]
                }
            },
            {"token": b"token 1", "authority": b"CA", "mode": b"old", "model": b"llama", "api": b"\xff\x00"},
        ),
    ],
)
async def test_what_a_volume_holds(tmp_path: Path, source: Json, files: dict[str, bytes]) -> None:
    world = World(tmp_path, volume(**source))
    await world.make()
    assert world.files() == files
    await world.make()
    assert world.files() == files


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"configMap": {"name": "settings", "items": items(("no", "x"))}}, 'configmap "settings" has no key "no"'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"persistentVolumeClaim": {"claimName": "c"}}, "of kind persistentVolumeClaim is not supported"),
        ({"hostPath": {"path": "/none", "type": "Socket"}}, "hostPath /none is not there"),
    ],
)
async def test_what_is_missing_is_named_and_the_other_volumes_are_made(tmp_path: Path, source: Json, why: str) -> None:
    world = World(tmp_path, volume(**source), {"name": "other", "configMap": {"name": "settings"}})
    with pytest.raises(NotYetError, match=why):
        await world.make()
    assert world.files("other")


async def test_an_update_replaces_files_whole_and_removes_keys(tmp_path: Path) -> None:
    world = World(tmp_path, volume(configMap={"name": "settings"}))
    await world.make()
    file = world.volumes.path("v") / "mode"
    with file.open("rb") as reader:
        world.values["configmaps", "settings"] = {"mode": b"new", ".hidden": b"x"}
        await world.make()
        assert reader.read() == b"old"  # the file that was opened is whole, though not the newest
    assert world.files() == {"mode": b"new", ".hidden": b"x"}
    same = file.stat().st_ino
    world.values["configmaps", "settings"] = {"mode": b"new"}
    await world.make()
    assert world.files() == {"mode": b"new"}
    assert file.stat().st_ino == same  # what has not changed is not written


async def test_labels_follow_the_pod(tmp_path: Path) -> None:
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    world = World(tmp_path, volume(downwardAPI={"items": [labels]}))
    await world.make()
    world.pod = {**world.pod, "metadata": {**world.pod["metadata"], "labels": {"a": "2"}}}
    await world.make()
    assert world.files() == {"labels": b'a="2"'}


async def test_a_token_is_renewed_when_four_fifths_of_its_life_are_over(tmp_path: Path) -> None:
    source = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 1000}}
    world = World(tmp_path, volume(projected={"sources": [source]}))
    for now_s, token in ((0, b"token 1"), (799, b"token 1"), (800, b"token 2"), (1599, b"token 2"), (1600, b"token 3")):
        world.now_s = now_s
        await world.make()
        assert world.files() == {"token": token}
    assert world.tokens == [("vault", 1000)] * 3


async def test_host_paths_lie_in_the_nodes_own_folder(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        volume(hostPath={"path": "/var/lib/x"}),
        {"name": "file", "hostPath": {"path": "/etc/y", "type": "FileOrCreate"}},
    )
    await world.make()
    assert (world.node_root / "var/lib/x").is_dir()
    assert (world.node_root / "etc/y").is_file()


async def test_mounts_come_parents_first_and_sub_paths_are_made(tmp_path: Path) -> None:
    world = World(tmp_path, volume(emptyDir={}), {"name": "c", "configMap": {"name": "settings"}})
    await world.make()
    mounts: list[Json] = [
        {"name": "c", "mountPath": "/data/in/mode", "subPath": "mode", "readOnly": True},
        {"name": "v", "mountPath": "/data/", "subPath": "a/b"},
    ]
    scratch = world.volumes.path("v") / "a/b"
    assert world.volumes.mounts({"volumeMounts": mounts}) == [
        Mount(scratch, "/data"),
        Mount(world.volumes.path("c") / "mode", "/data/in/mode", read_only=True),
    ]
    assert scratch.is_dir()


def test_binary_data_of_config_maps_and_secrets() -> None:
    raw = base64.b64encode(b"\x00\xff").decode()
    assert decoded("configmaps", {"data": {"a": "ü"}, "binaryData": {"b": raw}}) == {
        "a": "ü".encode(),
        "b": b"\x00\xff",
    }
    assert decoded("secrets", {"data": {"a": raw}}) == {"a": b"\x00\xff"}
    assert decoded("configmaps", {}) == {}
