"""Puts the agent together, turns its loop, and gives every lock back when it is told to stop."""

import asyncio
import contextlib
import ctypes
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.nodewatch import NodeWatch
from dynamollm.adapters.nvml import Gpus
from dynamollm.adapters.podresources import PodResources
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.agent.clocks import ClockControl
from dynamollm.agent.cycle import Agent
from dynamollm.agent.journal import LockJournal
from dynamollm.agent.load import EngineMetrics
from dynamollm.agent.server import Heartbeat, start_server
from dynamollm.agent.telemetry import registry
from dynamollm.core.errors import InvalidInputError

_LOG: Final = logging.getLogger(__name__)

SYNC_S: Final = 10.0
"""Wall seconds that the first cycle waits for the clock plan and the pods: without them it would give back locks that a
predecessor's plan still wants. Default clocks are always safe, so it does not wait for ever."""

STALLED_S: Final = 20.0
"""Wall seconds without a cycle after which the agent calls itself unhealthy: NVML hangs where a driver does."""

RELEASE_S: Final = 5.0
"""Wall seconds for giving locks back at the end; the journal tells the next agent what was not done."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Where an agent runs and listens."""

    node: str
    namespace: str
    host: str
    port: int
    state_dir: Path
    pod_resources_socket: Path
    interval_s: float = 5.0
    """Simulated seconds between two cycles: the paper's instance manager decides every 5 s."""


async def run_agent(settings: AgentSettings, *, api: ApiAccess, clock: Clock) -> None:
    """Run until SIGTERM or SIGINT; all locks are given back before this returns.

    Raises:
        GpuError: NVML cannot be initialised.
        InvalidInputError: the state directory is not writable, or the address is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = NodeWatch(api, node=settings.node, namespace=settings.namespace)
    pod_resources = PodResources(settings.pod_resources_socket)
    # One thread for everything NVML: its calls block, and are ordered.
    thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
    try:
        gpus = await loop.run_in_executor(thread, Gpus)
        journal = LockJournal(settings.state_dir)
        control = await loop.run_in_executor(thread, lambda: ClockControl(gpus=gpus, journal=journal))
        async with aiohttp.ClientSession() as session:
            agent = Agent(
                gpus=gpus,
                control=control,
                watch=watch,
                pod_resources=pod_resources,
                metrics=EngineMetrics(session),
                clock=clock,
                nvml_thread=thread,
            )
            await _serve(agent, settings, watch=watch, clock=clock, stop=stop)
    finally:
        await pod_resources.close()
        # Nothing is left to do for it; one that hangs in the driver ends with the process, when the kubelet kills it.
        thread.shutdown(wait=False, cancel_futures=True)


async def _serve(agent: Agent, settings: AgentSettings, *, watch: NodeWatch, clock: Clock, stop: asyncio.Event) -> None:
    heartbeat = Heartbeat(longest_s=max(STALLED_S, 3 * clock.wall(settings.interval_s)))
    try:
        server = await start_server(
            registry=registry(agent, node=settings.node), heartbeat=heartbeat, host=settings.host, port=settings.port
        )
    except OSError as error:
        raise InvalidInputError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    _LOG.info("agent started", extra={"fields": {"node": settings.node, "port": settings.port}})
    tasks = {
        asyncio.create_task(watch.run(), name="watch"),
        asyncio.create_task(_turn(agent, settings, watch=watch, clock=clock, heartbeat=heartbeat), name="loop"),
        asyncio.create_task(stop.wait(), name="stop"),
    }
    try:
        # Any of them ending is the end: a loop or a watch that breaks is a fault of ours, and the kubelet starts anew.
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _release(agent)
        await server.cleanup()
    for task in done:
        task.result()


async def _turn(agent: Agent, settings: AgentSettings, *, watch: NodeWatch, clock: Clock, heartbeat: Heartbeat) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(watch.known(), SYNC_S)
    loop = asyncio.get_running_loop()
    interval = clock.wall(settings.interval_s)
    due = loop.time()
    await agent.cycle()
    _trim_heap()
    while True:
        heartbeat.beat()
        # On a grid, so that cycles do not drift; a late one is not made up for.
        due = max(due + interval, loop.time())
        await asyncio.sleep(due - loop.time())
        await agent.cycle()


def _trim_heap() -> None:
    """Give the heap that imports left behind back to the node: 7 of 74 MB. Only glibc has the function."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _release(agent: Agent) -> None:
    try:
        await asyncio.wait_for(agent.release(), RELEASE_S)
    except TimeoutError:
        _LOG.warning("NVML did not answer in %s s: locks stay in the journal for the next agent", RELEASE_S)
    else:
        _LOG.info("agent stopped, locks given back", extra={"fields": {"still_recorded": sorted(agent.recorded)}})
