"""``python -m lab.podrunner``: plays the kubelets of the nodes that match a selector, until SIGTERM."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lab import nvml
from lab.paths import REPOSITORY
from lab.podrunner import orphans
from lab.podrunner.api import Api
from lab.podrunner.launcher import Isolation, ensure_launcher
from lab.podrunner.node import Node
from lab.podrunner.pod import PodRun, World
from lab.podrunner.timing import Timing
from lab.processes import MARK

IMAGE: Final = "dynamollm/dynamollm"
_SHUTDOWN_S: Final = 10.0
"""What pods get to end when the whole cluster goes: agents give their clocks back."""

_LOG = logging.getLogger(__name__)


class Runner:
    """All pods of our image on all nodes of the selector."""

    def __init__(self, world: World, *, selector: str, time_scale: float) -> None:
        self._world = world
        self._selector = selector
        self._time_scale = time_scale
        self._nodes: dict[str, Node] = {}
        self._runs: dict[str, PodRun] = {}
        self._early: dict[str, dict[str, Any]] = {}
        """Pods on nodes that the runner has not heard of yet."""
        self._over: set[str] = set()
        """Pods that have been deleted here, until the API server says so: what it says before is old."""
        self._servers: set[asyncio.Task[None]] = set()

    async def run(self, ready_file: Path, stop: asyncio.Event) -> None:
        """Play until ``stop``, then end every pod as a node's shutdown does.

        Raises:
            Exception: a watch has failed in a way that it cannot get over; nothing would be seen any more.
        """
        nodes = await self._world.api.get(f"/api/v1/nodes?labelSelector={quote(self._selector)}")
        for item in nodes["items"]:
            self._add_node(item)
        watches = [
            asyncio.create_task(
                self._world.api.watch("/api/v1/nodes", {"labelSelector": quote(self._selector)}, self._node_changed)
            ),
            asyncio.create_task(self._world.api.watch("/api/v1/pods", {}, self._pod_changed)),
        ]
        await asyncio.to_thread(ready_file.touch)
        print("ready", flush=True)
        told = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({told, *watches}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (told, *watches):
                task.cancel()
            runs = list(self._runs.values())
            for run in runs:
                run.gone(_SHUTDOWN_S)
            await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
            for server in self._servers:
                server.cancel()

    def _ended(self, uid: str) -> None:
        run = self._runs.pop(uid, None)
        if run and not run.silent:
            self._over.add(uid)

    def _add_node(self, item: dict[str, Any]) -> None:
        name = item["metadata"]["name"]
        if name in self._nodes or "podCIDR" not in item["spec"]:
            return
        node = self._nodes[name] = Node(item, state=self._world.state, time_scale=self._time_scale)
        self._servers.add(asyncio.create_task(node.serve()))

    def _node_changed(self, kind: str, item: dict[str, Any]) -> None:
        if kind != "DELETED":
            self._add_node(item)
            for uid in [uid for uid, pod in self._early.items() if pod["spec"]["nodeName"] in self._nodes]:
                self._pod_changed("ADDED", self._early.pop(uid))

    def _pod_changed(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._early.pop(uid, None)
            self._over.discard(uid)
            if run := self._runs.get(uid):
                run.gone()
            return
        if run := self._runs.get(uid):
            run.update(pod)
            return
        node_name = pod["spec"].get("nodeName")
        if (
            uid in self._over
            or not node_name
            or not _ours(pod)
            or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}
        ):
            return
        node = self._nodes.get(node_name)
        if node is None:
            self._early[uid] = pod
            return
        node.admit(pod)
        self._runs[uid] = PodRun(world=self._world, node=node, pod=pod, ended=self._ended)


def _ours(pod: dict[str, Any]) -> bool:
    return any(
        one["image"].partition("@")[0].rpartition(":")[0] == IMAGE or one["image"] == IMAGE
        for one in pod["spec"]["containers"]
    )


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if left := orphans.end(arguments.state_dir):
        _LOG.warning("ended %d processes of an earlier pod runner", left)
    launcher = ensure_launcher(arguments.state_dir / "podrunner")
    if launcher.isolation is Isolation.NONE:
        _LOG.warning("no namespaces here: mount paths in commands and variables are rewritten")
    library = nvml.ensure_library()
    async with Api(arguments.kubeconfig) as api:
        world = World(
            api=api,
            timing=Timing(arguments.time_scale),
            state=arguments.state_dir,
            entrypoint=arguments.entrypoint,
            nvml_library=library,
            launcher=launcher,
            mark={MARK: str(arguments.state_dir)},
        )
        runner = Runner(world, selector=arguments.nodes_selector, time_scale=arguments.time_scale)
        await runner.run(arguments.state_dir / "podrunner.ready", stop)


def main() -> None:
    """Run the pod runner that the command line asks for."""
    parser = argparse.ArgumentParser(prog="lab.podrunner", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--nodes-selector", required=True, help="label selector of the nodes to play")
    parser.add_argument("--time-scale", type=float, default=1.0, help="simulated seconds per wall second")
    parser.add_argument(
        "--entrypoint", type=Path, default=REPOSITORY / ".venv/bin/dynamollm", help="the image's entry point"
    )
    arguments = parser.parse_args()
    arguments.state_dir = arguments.state_dir.resolve()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if sys.version_info < (3, 12):
        # As later versions do by themselves: no thread for every process, and none of them between a fork and its exec.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    asyncio.run(_main(arguments))


if __name__ == "__main__":
    main()
