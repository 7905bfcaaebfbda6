"""The volumes of a pod, made below the pod's own folder, and kept up to date while it runs.

Files of ConfigMaps, Secrets, tokens and the downward API are written beside and renamed, so a reader sees the old or the
new content, never half of one.
"""

import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from lab.podrunner.environment import NotYetError, Place, Read, field_value, resource_value
from lab.podrunner.launcher import Mount

_TOKEN_S: Final = 3600
_RENEW_SHARE: Final = 0.8
"""A token is renewed when this share of its life is over, as the kubelet does."""
_BESIDE: Final = ".."
"""How the names of files start that are being written: no key of a ConfigMap or Secret may."""

Token = Callable[[str, int], Awaitable[str]]
"""(audience, seconds) → a token of the pod's service account."""


class Volumes:
    """The volumes of one pod.

    Args:
        pod: the pod as it was bound.
        folder: the pod's own folder on the host.
        node_root: what hostPath volumes see as the node's file system.
        authority: the API server's certificate authority, for kube-root-ca.crt.
        place: for the downward API.
        read: values of ConfigMaps and Secrets in the pod's namespace.
        token: tokens of the pod's service account.
        clock: monotonic seconds, by which tokens are renewed.
    """

    def __init__(
        self,
        *,
        pod: dict[str, Any],
        folder: Path,
        node_root: Path,
        authority: str,
        place: Place,
        read: Read,
        token: Token,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._volumes: list[dict[str, Any]] = pod["spec"].get("volumes", [])
        self._folder = folder / "volumes"
        self._node_root = node_root
        self._authority = authority
        self._place = place
        self._read = read
        self._token = token
        self._clock = clock
        self._renew_at: dict[str, float] = {}

    async def make(self, pod: dict[str, Any]) -> None:
        """Make every volume, or bring what can change up to date with the pod as it is now.

        Raises:
            NotYetError: something that a volume needs is not there yet; the other volumes are made all the same.
        """
        missing: list[NotYetError] = []
        for volume in self._volumes:
            try:
                await self._one(volume, pod)
            except NotYetError as why:
                missing.append(why)
        if missing:
            raise missing[0]

    def path(self, name: str) -> Path:
        """Return where a volume lies on the host."""
        for volume in self._volumes:
            if volume["name"] == name and "hostPath" in volume:
                return self._node_root.joinpath(volume["hostPath"]["path"].lstrip("/"))
        return self._folder / name

    def mounts(self, container: dict[str, Any]) -> list[Mount]:
        """Return a container's mounts, parents before what is mounted below them."""
        mounts = []
        for mount in container.get("volumeMounts", []):
            source = self.path(mount["name"])
            if mount.get("subPath"):
                source /= mount["subPath"]
                if not source.exists() and self._writable(mount["name"]):
                    source.mkdir(parents=True)
            mounts.append(Mount(source, mount["mountPath"].rstrip("/"), read_only=bool(mount.get("readOnly"))))
        return sorted(mounts, key=lambda mount: mount.target.count("/"))

    def _writable(self, name: str) -> bool:
        return any(one["name"] == name and ("emptyDir" in one or "hostPath" in one) for one in self._volumes)

    async def _one(self, volume: dict[str, Any], pod: dict[str, Any]) -> None:
        folder = self.path(volume["name"])
        if "hostPath" in volume:
            self._host_path(folder, volume["hostPath"])
            return
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            return
        if "projected" in volume:
            files: dict[str, bytes] = {}
            for source in volume["projected"].get("sources", []):
                files |= await self._source(source, folder, pod)
        else:
            files = await self._source(volume, folder, pod)
        _bring(folder, files)

    def _host_path(self, path: Path, source: dict[str, Any]) -> None:
        kind = source.get("type", "")
        if kind in {"", "DirectoryOrCreate"}:
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif not path.exists():
            raise NotYetError(f"hostPath {source['path']} is not there")

    async def _source(self, source: dict[str, Any], folder: Path, pod: dict[str, Any]) -> dict[str, bytes]:
        """Return the files that a volume, or one source of a projected volume, has: path → content."""
        if "configMap" in source:
            wanted = source["configMap"]
            if wanted["name"] == "kube-root-ca.crt":
                # Published by a controller a moment after the namespace: the content is known anyway.
                return _items(wanted, {"ca.crt": self._authority.encode()}, wanted["name"])
            return await self._values("configmaps", wanted["name"], wanted)
        if "secret" in source:
            wanted = source["secret"]
            return await self._values("secrets", wanted.get("secretName") or wanted["name"], wanted)
        if "downwardAPI" in source:
            return {item["path"]: self._downward(item, pod) for item in source["downwardAPI"].get("items", [])}
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            return {wanted["path"]: await self._renewed(folder / wanted["path"], wanted)}
        kind = ", ".join(key for key in source if key != "name")
        raise NotYetError(f"a volume of kind {kind} is not supported by the pod runner")

    async def _values(self, kind: str, name: str, source: dict[str, Any]) -> dict[str, bytes]:
        values = await self._read(kind, name)
        if values is None:
            if source.get("optional"):
                return {}
            raise NotYetError(f'{kind[:-1]} "{name}" not found')
        return _items(source, values, f'{kind[:-1]} "{name}"')

    def _downward(self, item: dict[str, Any], pod: dict[str, Any]) -> bytes:
        if "fieldRef" in item:
            return field_value(pod, item["fieldRef"]["fieldPath"], self._place).encode()
        return resource_value(pod, "", item["resourceFieldRef"], self._place).encode()

    async def _renewed(self, file: Path, wanted: dict[str, Any]) -> bytes:
        if self._clock() < self._renew_at.get(str(file), float("-inf")):
            return file.read_bytes()  # noqa: ASYNC240 - a small local file, as all of them here
        seconds = int(wanted.get("expirationSeconds", _TOKEN_S))
        token = await self._token(wanted.get("audience", ""), seconds)
        self._renew_at[str(file)] = self._clock() + _RENEW_SHARE * seconds
        return token.encode()


def decoded(kind: str, item: dict[str, Any]) -> dict[str, bytes]:
    """Return the values of a ConfigMap or a Secret."""
    if kind == "secrets":
        return {key: base64.b64decode(value) for key, value in item.get("data", {}).items()}
    text = {key: value.encode() for key, value in item.get("data", {}).items()}
    return text | {key: base64.b64decode(value) for key, value in item.get("binaryData", {}).items()}


def _items(source: dict[str, Any], values: dict[str, bytes], what: str) -> dict[str, bytes]:
    if not source.get("items"):
        return values
    files = {}
    for item in source["items"]:
        if item["key"] in values:
            files[item["path"]] = values[item["key"]]
        elif not source.get("optional"):
            raise NotYetError(f'{what} has no key "{item["key"]}"')
    return files


def _bring(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder hold these files and no others."""
    for path, content in files.items():
        _write(folder / path, content)
    wanted = {folder / path for path in files}
    for file in folder.rglob("*"):
        if file.is_file() and file not in wanted:
            file.unlink()


def _write(file: Path, content: bytes) -> None:
    if file.exists() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{_BESIDE}{file.name}.new")
    beside.write_bytes(content)
    beside.rename(file)
