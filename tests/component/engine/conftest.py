import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from component.addresses import fresh_ip

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "manifests/profiles/h100-llama2-70b-vllm.yaml"
MODEL = "llama"
SCALE = 20.0


async def eventually(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 60.0) -> None:
    """Wait until the condition holds: it is about another process, which has no event to give."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


@dataclass
class EngineProcess:
    """A real engine process and a client of it."""

    process: asyncio.subprocess.Process
    client: aiohttp.ClientSession

    def post(
        self, *, path: str = "/v1/completions", tokens: int | None = None, timing: bool = False, **fields: Any
    ) -> Any:
        headers = {} if tokens is None else {"X-Simulated-Output-Tokens": str(tokens)}
        headers |= {"X-Simulated-Timing": "1"} if timing else {}
        body = {"model": MODEL, "prompt": [1] * 300, "stream": True} | fields
        return self.client.post(path, json=body, headers=headers)

    async def metrics(self) -> dict[str, float]:
        """Return the samples without buckets, by name."""
        async with self.client.get("/metrics") as response:
            text = await response.text()
        return {
            sample.name
            + "".join(
                f"{{{reason}}}" for name, reason in sample.labels.items() if name == "finished_reason"
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "le" not in sample.labels
        }

    async def healthy(self) -> bool:
        try:
            async with self.client.get("/health") as response:
                return response.status == 200
        except aiohttp.ClientConnectorError:
            assert self.process.returncode is None, "the engine has ended"
            return False


StartEngine = Callable[..., Awaitable[EngineProcess]]


@pytest.fixture(scope="session")
def profile_spec() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())["spec"]
    return spec


@pytest.fixture
async def start_engine(tmp_path: Path, profile_spec: dict[str, Any]) -> AsyncIterator[StartEngine]:
    """Start engines that run 20 times faster than real time, at once healthy unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def start(
            *arguments: str,
            tensor_parallel: int = 2,
            startup_s: float = 0.0,
            scale: float = SCALE,
            env: dict[str, str] | None = None,
            engine: dict[str, Any] | None = None,
            wait: bool = True,
        ) -> EngineProcess:
            file = tmp_path / "profile.json"
            file.write_text(json.dumps(profile_spec | {"engine": profile_spec.get("engine", {}) | (engine or {})}))
            ip = fresh_ip()
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("dynamollm")),
                *("engine", "--model", MODEL, "--profile-file", str(file), "--host", ip),
                *("--tensor-parallel-size", str(tensor_parallel), "--startup-seconds", str(startup_s), *arguments),
                env=os.environ | {"DYNAMOLLM_TIME_SCALE": str(scale)} | (env or {}),
            )
            stack.push_async_callback(_end, process)
            client = await stack.enter_async_context(aiohttp.ClientSession(f"http://{ip}:8000"))
            running = EngineProcess(process, client)
            if wait:
                await eventually(running.healthy)
            return running

        yield start


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
