"""An agent's world: stand-in GPUs, a kubelet's PodResources, the part of the Kubernetes API it watches, engines.

The agent is a process of its own, on the real pynvml; everything around it lives in the test's event loop.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from component.addresses import fresh_ip
from component.agent.agent_fakes import SCALE, FakeApi, FakeEngine, FakeKubelet
from dynamollm.adapters.nvml import Gpus, SimulatedGpuLoad
from lab import nvml as standin

NODE = "gpu-node-03"

LAUNCH = """
import asyncio, json, sys
from pathlib import Path
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.adapters.jsonlog import log_json
from dynamollm.agent.run import AgentSettings, run_agent
log_json()
host, api, state_dir, socket = sys.argv[1:]
settings = AgentSettings(node="gpu-node-03", namespace="dynamollm-system", host=host, port=9400,
                         state_dir=Path(state_dir), pod_resources_socket=Path(socket))
asyncio.run(run_agent(settings, api=ApiAccess(url=api), clock=Clock.from_env()))
"""


class World:
    """Everything around one agent, and the agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = fresh_ip()
        self.state_file = folder / "gpus"
        self.uuids = standin.create(state_file=self.state_file, node=NODE, gpus=8, time_scale=SCALE)
        self.api = FakeApi()
        self.kubelet = FakeKubelet(folder / "kubelet.sock")
        self.engines: dict[str, FakeEngine] = {}
        self.agent: asyncio.subprocess.Process | None = None
        self.log = folder / "agent.log"
        self._session: aiohttp.ClientSession | None = None
        self._gpus: Gpus | None = None
        self._load: SimulatedGpuLoad | None = None

    async def start(self) -> None:
        await self.api.start(self.host)
        await self.kubelet.start()
        self._session = aiohttp.ClientSession()
        # The engines' side of the GPUs is this process: loaded once, then attached to each world's state by nvmlInit.
        ctypes.CDLL(str(standin.ensure_library() / standin.LIBRARY_NAME))
        os.environ["DYNAMOLLM_NVML_STATE"] = str(self.state_file)
        self._gpus = Gpus()
        self._load = SimulatedGpuLoad.open()

    async def stop(self) -> None:
        if self._gpus is not None:
            self._gpus.close()
            del os.environ["DYNAMOLLM_NVML_STATE"]
        if self.agent is not None and self.agent.returncode is None:
            self.agent.kill()
            await self.agent.wait()
        for engine in self.engines.values():
            await engine.stop()
        await self.kubelet.stop()
        await self.api.stop()
        if self._session is not None:
            await self._session.close()

    # ------------------------------------------------------------ the cluster
    async def pod(
        self, name: str, *slots: int, service: str = "chat", node: str = NODE, serving: bool = True
    ) -> FakeEngine:
        """An engine pod that holds these GPUs, with a context on each."""
        engine = self.engines[name] = FakeEngine(fresh_ip())
        if serving:
            await engine.start()
        self.kubelet.devices["llm", name] = [self.uuids[slot] for slot in slots]
        for slot in slots:
            self.load(slot, power_w=400)
        labels = {
            "dynamollm.io/service": service,
            "dynamollm.io/component": "engine",
            "dynamollm.io/pool": "ll",
            "dynamollm.io/tensor-parallel": str(len(slots)),
        }
        self.api.put(
            "pods",
            {
                "metadata": {"name": name, "namespace": "llm", "labels": labels},
                "spec": {"nodeName": node},
                "status": {"podIP": engine.host},
            },
        )
        return engine

    async def remove_pod(self, name: str) -> None:
        uuids = self.kubelet.devices.pop(("llm", name))
        standin.release(state_file=self.state_file, uuids=uuids)
        self.api.delete("pods", name)
        await self.engines[name].stop()

    def plan(self, *, lease_s: float = 3600.0, age_s: float = 0.0, tensor_parallel: int = 2, **limits: int) -> None:
        """Up to 1000 tokens/s 900 MHz, up to 2000 tokens/s 1200 MHz, 1600 MHz above and where load is unknown."""
        group = {
            "minMHz": limits.get("min_mhz", 210),
            "maxMHz": limits.get("max_mhz", 1980),
            "safeMHz": 1605,
            "ladder": [
                {"maxTokensPerSecond": 1000.0, "clockMHz": 900},
                {"maxTokensPerSecond": 2000.0, "clockMHz": 1200},
            ],
        }
        self.annotate(
            json.dumps(
                {
                    "version": 1,
                    "issuedAt": (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(),
                    "leaseSeconds": lease_s,
                    "groups": {f"llm/chat/ll/{tensor_parallel}": group},
                }
            )
        )

    def annotate(self, plan: str | None) -> None:
        annotations = {} if plan is None else {"dynamollm.io/clock-plan": plan}
        self.api.put("daemonsets", {"metadata": {"name": "dynamollm-agent", "annotations": annotations}})

    # ------------------------------------------------------------ the GPUs
    def load(self, slot: int, *, power_w: float) -> None:
        """What an engine's work on a GPU draws."""
        assert self._load is not None
        self._load.publish(self.uuids[slot], power_w=power_w, util_percent=90, context=True)

    def reset_by_somebody(self, slot: int) -> None:
        """``nvidia-smi -rgc`` by an admin."""
        assert self._gpus is not None
        self._gpus.reset_clock(self.uuids[slot])

    def gpu(self, slot: int) -> standin.GpuState:
        return standin.read(state_file=self.state_file).gpu(self.uuids[slot])

    def fault(self, slot: int, fault: standin.Fault, *, on: bool = True, mhz: int = 0) -> None:
        standin.set_fault(state_file=self.state_file, uuid=self.uuids[slot], fault=fault, on=on, mhz=mhz)

    def clocks(self) -> list[int | None]:
        """The lock of each GPU, MHz; None: no lock."""
        gpus = standin.read(state_file=self.state_file).gpus
        return [gpu.lock_mhz[1] if gpu.lock_mhz else None for gpu in gpus]

    def locked(self, **clocks: int) -> Callable[[], bool]:
        """Whether exactly these slots (``gpu0=900``) are locked, to these clocks."""
        wanted = [clocks.get(f"gpu{slot}") for slot in range(len(self.uuids))]
        return lambda: self.clocks() == wanted

    # ------------------------------------------------------------ the agent
    async def start_agent(self) -> None:
        env = os.environ | {
            "LD_LIBRARY_PATH": str(standin.ensure_library()),
            "DYNAMOLLM_NVML_STATE": str(self.state_file),
            "NVIDIA_VISIBLE_DEVICES": "all",
            "DYNAMOLLM_TIME_SCALE": str(SCALE),
        }
        with self.log.open("a") as log:
            self.agent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LAUNCH, self.host, self.api.url),
                *(str(self.folder / "state"), str(self.kubelet.socket)),
                env=env,
                stderr=log,
            )

    async def end_agent(self, number: signal.Signals) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        return await asyncio.wait_for(self.agent.wait(), 60)

    async def get(self, path: str) -> tuple[int, str]:
        assert self._session is not None
        async with self._session.get(f"http://{self.host}:9400{path}") as response:
            return response.status, await response.text()

    async def metrics(self) -> "Metrics":
        status, text = await self.get("/metrics")
        assert status == 200
        return Metrics(text)

    def journal(self) -> Mapping[str, int]:
        locks: Mapping[str, int] = json.loads((self.folder / "state" / "locks.json").read_text())["locks"]
        return locks

    async def eventually(self, condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Wait until it holds, while the agent lives."""
        deadline = time.monotonic() + within_s
        while not condition():
            ended = self.agent is not None and self.agent.returncode is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s} s: clocks {self.clocks()}\n{self.log.read_text()}")
            await asyncio.sleep(0.02)

    async def cycles(self, count: int) -> "Metrics":
        """Wait for that many whole cycles, and return the metrics then."""
        first = (await self.metrics()).value("dynamollm_agent_cycles_total", node=NODE)
        assert first is not None
        deadline = time.monotonic() + 60
        while True:
            metrics = await self.metrics()
            # One more: the cycle that was under way saw half of the world before.
            if (metrics.value("dynamollm_agent_cycles_total", node=NODE) or 0) >= first + count + 1:
                return metrics
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.02)


class Metrics:
    """A scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of a series, or None."""
        found = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def series(self, name: str) -> list[dict[str, str]]:
        return [sample.labels for sample in self.samples if sample.name == name]
