"""One pod from its binding to its end: address, devices, volumes, containers, status, deletion."""

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from dynamollm.adapters.address import HOST_ENV
from lab.errors import LabError
from lab.paths import REPOSITORY, nvml_state
from lab.podrunner.api import Api, ConflictError, persist
from lab.podrunner.container import Container
from lab.podrunner.devices import NoDevicesError
from lab.podrunner.environment import NotYetError, Place, environment, expand
from lab.podrunner.launcher import Isolation, Launcher, Mount, Program, rewritten
from lab.podrunner.node import Node
from lab.podrunner.orphans import POD
from lab.podrunner.state import now
from lab.podrunner.timing import Timing
from lab.podrunner.volumes import Volumes, decoded

_LOG = logging.getLogger(__name__)
_REFRESH_S: Final = 5.0
"""Wall seconds between two looks at ConfigMaps and tokens: a kubelet takes up to a minute."""

_SETTLE_S: Final = 5.0
"""Wall seconds from the end of a pod's last process to the end of its bookkeeping."""
_GRACE_S: Final = 30
"""The API's default."""


@dataclass(frozen=True, slots=True)
class World:
    """What all pods share."""

    api: Api
    timing: Timing
    state: Path
    """The cluster's state folder."""
    entrypoint: Path
    """What an image of ours runs when a container names no command."""
    nvml_library: Path
    """Folder of the stand-in for libnvidia-ml.so.1."""
    launcher: Launcher
    """Starts containers."""
    mark: dict[str, str]
    """Variables by which the cluster finds its processes again."""


class PodRun:
    """Plays the kubelet for one pod."""

    def __init__(self, *, world: World, node: Node, pod: dict[str, Any], ended: Callable[[str], None]) -> None:
        self._world = world
        self._node = node
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self._namespace: str = pod["metadata"]["namespace"]
        self._name: str = pod["metadata"]["name"]
        self._path = f"/api/v1/namespaces/{self._namespace}/pods/{self._name}"
        self._folder = node.folder / "pods" / self.uid
        self._ip = ""
        self._failed: tuple[str, str] | None = None
        self._volumes: Volumes | None = None
        self._containers: list[Container] = []
        self._inits: list[Container] = []
        self._initialized = False
        self.silent = False
        """Whether the object is gone, so that nothing may be told."""
        self._place = Place()
        self._hastening: asyncio.Task[None] | None = None
        self._dirty = asyncio.Event()
        self._deleted = asyncio.Event()
        self._since: dict[str, tuple[str, str]] = {}
        self._on_ended = ended
        self.task = asyncio.create_task(self._run(), name=f"{self._namespace}/{self._name}")

    def update(self, pod: dict[str, Any]) -> None:
        """Take in a newer version of the object."""
        if self.silent:
            return
        before, self.pod = self.pod, pod
        if not pod["metadata"].get("deletionTimestamp"):
            return
        if self._deleted.is_set() and _grace_s(pod) < _grace_s(before):
            self._hasten()
        self._deleted.set()

    def gone(self, grace_s: float = 0.0) -> None:
        """End the pod without a word to the API server: its object, or the whole cluster, is not there any more."""
        self.pod["metadata"]["deletionGracePeriodSeconds"] = grace_s
        self.silent = True
        if self._deleted.is_set():
            self._hasten()
        self._deleted.set()

    # ------------------------------------------------------------------ life
    async def _run(self) -> None:
        publisher = asyncio.create_task(self._publish())
        living = asyncio.create_task(self._live())
        deleted = asyncio.create_task(self._deleted.wait())
        self.update(self.pod)
        try:
            await asyncio.wait({living, deleted}, return_when=asyncio.FIRST_COMPLETED)
            await self._stop()
            await self._over(living)
            self._give_back()
            if not self._deleted.is_set():
                # Completed or failed: the pod stays until it is deleted, its status told.
                self._dirty.set()
                await self._deleted.wait()
            if not self.silent:
                await persist(f"deleting pod {self._namespace}/{self._name}", self._delete)
        except Exception:
            _LOG.exception("pod %s/%s", self._namespace, self._name)
            raise
        finally:
            deleted.cancel()
            living.cancel()
            self._give_back()
            publisher.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._on_ended(self.uid)

    async def _over(self, living: asyncio.Task[None]) -> None:
        """Wait for the end of what runs the containers, none of which has a process any more."""
        await asyncio.wait({living}, timeout=_SETTLE_S)
        living.cancel()
        try:
            await living
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, one pod's fault is not the others'
            # A fault of the runner's own: the pod says so instead of hanging.
            _LOG.exception("pod %s/%s", self._namespace, self._name)
            self._failed = ("PodRunnerError", repr(error))

    async def _live(self) -> None:
        if self._deleted.is_set():
            return
        spec = self.pod["spec"]
        try:
            self._node.devices.allocate(self.pod)
        except NoDevicesError as error:
            self._failed = ("UnexpectedAdmissionError", f"Allocate failed: {error}")
            self._dirty.set()
            return
        if sidecars := [one["name"] for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]:
            self._failed = ("UnexpectedAdmissionError", f"the pod runner does not play sidecar containers: {sidecars}")
            self._dirty.set()
            return
        self._ip = self._node.address()
        self._place = Place(pod_ip=self._ip, host_ip=self._node.host_ip, allocatable=self._node.allocatable)
        self._volumes = Volumes(
            pod=self.pod,
            folder=self._folder,
            node_root=self._node.root,
            authority=self._world.api.authority,
            place=self._place,
            read=self._read,
            token=self._token,
        )
        restart = spec.get("restartPolicy", "Always")
        once = "OnFailure" if restart == "Always" else restart
        self._inits = [self._container(one, once) for one in spec.get("initContainers", [])]
        self._containers = [self._container(one, restart) for one in spec["containers"]]
        for waiting in (*self._inits[1:], *(self._containers if self._inits else [])):
            waiting.state.waiting = "PodInitializing"
        self._dirty.set()
        refresher = asyncio.create_task(self._refresh())
        try:
            for container in self._inits:
                await container.run()
                if container.state.exit_code != 0:
                    return
            self._initialized = True
            self._dirty.set()
            await asyncio.gather(*(container.run() for container in self._containers))
        finally:
            refresher.cancel()

    async def _stop(self) -> None:
        grace_s = _grace_s(self.pod)
        await asyncio.gather(*(container.stop(grace_s) for container in (*self._inits, *self._containers)))

    def _hasten(self) -> None:
        """Stop again, with less grace than before."""
        self._hastening = asyncio.create_task(self._stop())

    def _give_back(self) -> None:
        self._node.release(self.uid, self._ip)

    async def _delete(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with suppress(ConflictError):  # another pod has the name by now: this one is gone
            await self._world.api.request("DELETE", self._path, body=body)

    async def _refresh(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                if self._volumes:
                    await self._volumes.make(self.pod)
            except (NotYetError, LabError, aiohttp.ClientError, TimeoutError, OSError) as error:
                if str(error) != told:
                    _LOG.warning("pod %s/%s keeps its old volumes: %r", self._namespace, self._name, error)
                told = str(error)

    # ------------------------------------------------------------------ what containers are made of
    def _container(self, spec: dict[str, Any], restart: str) -> Container:
        return Container(
            spec=spec,
            pod_ip=self._ip,
            log_folder=self._node.root / "var/log/pods" / f"{self._namespace}_{self._name}_{self.uid}" / spec["name"],
            restart=restart,
            grace_s=float(self.pod["spec"].get("terminationGracePeriodSeconds", _GRACE_S)),
            launcher=self._world.launcher,
            program=lambda: self._program(spec),
            changed=self._dirty.set,
            cleared=lambda: self._node.cleared(self.uid, spec["name"]),
            timing=self._world.timing,
        )

    async def _program(self, spec: dict[str, Any]) -> Program:
        assert self._volumes  # noqa: S101 - made before any container
        try:
            await self._volumes.make(self.pod)
            own = await environment(self.pod, spec, read=self._read, place=self._place)
        except (LabError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotYetError(f"what the container needs cannot be read: {error!r}") from error
        env = self._base_environment() | own | self._gpu_environment(spec, own)
        command = [expand(part, env) for part in spec.get("command", [str(self._world.entrypoint)])]
        argv = [*command, *(expand(part, env) for part in spec.get("args", []))]
        if argv[0] == self._world.entrypoint.name:
            argv[0] = str(self._world.entrypoint)
        mounts = self._volumes.mounts(spec)
        if self._world.launcher.isolation is Isolation.NONE:
            argv = [rewritten(part, mounts) for part in argv]
            env |= {key: rewritten(env[key], mounts) for key in own}
        else:
            mounts += self._hidden(mounts)
        root = self._folder / "roots" / spec["name"]
        root.mkdir(parents=True, exist_ok=True)
        return Program(argv, env, mounts, root, spec.get("workingDir", "/"))

    def _base_environment(self) -> dict[str, str]:
        host, _, port = self._world.api.server.removeprefix("https://").rpartition(":")
        return {
            "PATH": f"{REPOSITORY / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', '/usr/bin:/bin')}",
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "HOSTNAME": self._name,
            "PYTHONUNBUFFERED": "1",
            # All pods share one network: ours listen at the pod's address alone.
            HOST_ENV: self._ip,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "KUBERNETES_SERVICE_PORT_HTTPS": port,
            **self._world.mark,
            POD: self.uid,
        }

    def _gpu_environment(self, spec: dict[str, Any], own: dict[str, str]) -> dict[str, str]:
        """Return what the NVIDIA container toolkit does: the library, and which GPUs may be seen."""
        held = self._node.devices.held(self.uid).get(spec["name"], ())
        if not held and own.get("NVIDIA_VISIBLE_DEVICES") != "all":
            return {}
        return {
            "LD_LIBRARY_PATH": str(self._world.nvml_library),
            "DYNAMOLLM_NVML_STATE": str(nvml_state(self._world.state, self._node.name)),
            "NVIDIA_VISIBLE_DEVICES": ",".join(held) if held else "all",
        }

    def _hidden(self, mounts: list[Mount]) -> list[Mount]:
        """Return what programs here need and a volume, at /tmp say, would hide: this checkout, Python, the GPUs."""
        needed = (
            *(REPOSITORY, Path(sys.base_prefix), self._world.entrypoint),
            *(self._world.nvml_library, nvml_state(self._world.state, self._node.name)),
        )
        covers = {Path(mount.target).resolve() for mount in mounts}
        return [Mount(path, str(path)) for path in needed if path.exists() and not covers.isdisjoint(path.parents)]

    async def _read(self, kind: str, name: str) -> dict[str, bytes] | None:
        item = await self._world.api.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        return None if item is None else decoded(kind, item)

    async def _token(self, audience: str, seconds: int) -> str:
        account = self.pod["spec"].get("serviceAccountName", "default")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": self._name, "uid": self.uid},
            },
        }
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        answer = await self._world.api.request("POST", path, body=body)
        if answer is None:
            raise NotYetError(f'serviceaccount "{account}" not found')
        return str(answer["status"]["token"])

    # ------------------------------------------------------------------ status
    async def _publish(self) -> None:
        last: dict[str, Any] = {}
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            status = self._status()
            if status == last:
                continue
            body = {"metadata": {"uid": self.uid}, "status": status}
            await persist(f"status of pod {self._namespace}/{self._name}", lambda body=body: self._patch(body))  # type: ignore[misc] # mypy does not see the default
            last = status

    async def _patch(self, body: dict[str, Any]) -> None:
        await self._world.api.request(
            "PATCH", f"{self._path}/status", body=body, content_type="application/merge-patch+json"
        )

    def _status(self) -> dict[str, Any]:
        ready = bool(self._containers) and all(container.state.ready for container in self._containers)
        conditions = [
            condition
            for condition in self.pod.get("status", {}).get("conditions", [])
            if condition["type"] not in {"Initialized", "ContainersReady", "Ready"}
        ]
        for kind, value in (
            ("Initialized", self._initialized),
            ("ContainersReady", ready),
            ("Ready", ready and not self._failed),
        ):
            conditions.append({"type": kind, "status": str(value), "lastTransitionTime": self._changed_at(kind, value)})
        status: dict[str, Any] = {
            "phase": self._phase(),
            "hostIP": self._node.host_ip,
            "hostIPs": [{"ip": self._node.host_ip}],
            "startTime": self._changed_at("start", value=True),
            "conditions": conditions,
            "containerStatuses": [container.state.as_status(container.spec) for container in self._containers],
            "initContainerStatuses": [container.state.as_status(container.spec) for container in self._inits],
        }
        if self._ip:
            status |= {"podIP": self._ip, "podIPs": [{"ip": self._ip}]}
        if self._failed:
            status |= {"reason": self._failed[0], "message": self._failed[1]}
        return status

    def _phase(self) -> str:
        if self._failed or any(container.state.ended and container.state.exit_code for container in self._inits):
            return "Failed"
        states = [container.state for container in self._containers]
        if states and all(state.ended for state in states):
            return "Failed" if any(state.exit_code for state in states) else "Succeeded"
        begun = any(state.begun for state in states)
        return "Running" if begun else "Pending"

    def _changed_at(self, kind: str, value: bool) -> str:  # noqa: FBT001 - the value is what changes
        before = self._since.get(kind)
        if before is None or before[0] != str(value):
            self._since[kind] = (str(value), now())
        return self._since[kind][1]


def _grace_s(pod: dict[str, Any]) -> float:
    given = pod["spec"].get("terminationGracePeriodSeconds", _GRACE_S)
    return float(pod["metadata"].get("deletionGracePeriodSeconds", given))
