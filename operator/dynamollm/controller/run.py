"""The operator's process: become active, then let kopf watch and the services' cycles turn, until told to stop.

A standby is alive and waits. A process that loses the lease exits at once: what it would still do might be undone by
the one that took over.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass

import kopf

from dynamollm.adapters.address import every_address
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import Kube, KubeError
from dynamollm.adapters.lease import Lease
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.adapters.prometheus import PrometheusLoadSource
from dynamollm.api import names
from dynamollm.controller.clock_plan import ClockPlanPublisher
from dynamollm.controller.foreign import ForeignPods
from dynamollm.controller.handlers import register, settings
from dynamollm.controller.metrics import OperatorMetrics
from dynamollm.controller.run_service import Progress, Wakes
from dynamollm.controller.server import serve
from dynamollm.controller.shared import Shared
from dynamollm.core.errors import DynamoLLMError


class LeaseLostError(DynamoLLMError):
    """Another process acts now."""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the operator is started with."""

    host: str
    namespace: str
    pod_name: str
    prometheus_url: str
    scrape_interval_s: float
    """Wall seconds."""
    image: str
    """Of our own parts."""


async def run_operator(options: OperatorSettings, *, clock: Clock) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        LeaseLostError: another process took the lease, or it could not be renewed.
        KubeError: this process is not in a pod.
    """
    stop = asyncio.Event()
    _listen(stop)
    metrics, wakes, progress = OperatorMetrics(), Wakes(), Progress()
    source = PrometheusLoadSource(url=options.prometheus_url, clock=clock, scrape_interval_s=options.scrape_interval_s)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(source.close)
        kube = await stack.enter_async_context(Kube.in_cluster())
        shared = Shared(
            kube=kube,
            source=source,
            clock=clock,
            image=options.image,
            clock_plan=ClockPlanPublisher(
                kube=kube,
                clock=clock,
                namespace=options.namespace,
                on_write=lambda: metrics.write("ClockPlan"),
            ),
            foreign=ForeignPods(kube=kube),
            every_address=every_address(options.host),
            metrics=metrics,
        )
        for runner in await serve(
            registry=metrics.registry,
            stalled=lambda: progress.stalled(shared.view.services()),
            host=options.host,
            metrics_port=names.OPERATOR_METRICS_PORT,
            health_port=names.OPERATOR_HEALTH_PORT,
        ):
            stack.push_async_callback(runner.cleanup)
        lease = Lease(
            kube=kube,
            namespace=options.namespace,
            name=names.OPERATOR_LEASE,
            # A pod's name may come back (a restarted container must not take its own old lease for another's).
            identity=f"{options.pod_name}_{os.getpid()}",
        )
        if not await _until(stop, lease.acquire()):
            return
        metrics.active.set(1)
        try:
            await _act(shared, lease, wakes=wakes, progress=progress, stop=stop)
        finally:
            metrics.active.set(0)
            with contextlib.suppress(KubeError):
                await lease.release()


async def _act(shared: Shared, lease: Lease, *, wakes: Wakes, progress: Progress, stop: asyncio.Event) -> None:
    """Let kopf run while the lease is held."""
    registry = register(shared, api=ApiAccess.in_cluster(), wakes=wakes, progress=progress)
    ready = asyncio.Event()
    tasks = {
        "lease": asyncio.create_task(lease.hold()),
        "clock plan": asyncio.create_task(shared.clock_plan.run()),
        "stop": asyncio.create_task(stop.wait()),
        "kopf": asyncio.create_task(run_kopf(registry, identity=lease.identity, ready=ready)),
    }
    listening = asyncio.create_task(_listen_again(ready, stop))
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        if tasks["lease"].done():
            raise LeaseLostError("the lease is lost: another process acts now, or the API server is away")
        for name in ("kopf", "clock plan"):
            # Without an exception it was told to stop by a signal, before this process listened again.
            if tasks[name].done() and (error := tasks[name].exception()):
                raise DynamoLLMError(f"{name} ended by itself: {error!r}") from error
    finally:
        # Cancelled rather than asked: what is half done the next cycle of whoever is active completes, and asked
        # politely kopf waits five seconds for tasks that are not its own.
        for task in (*tasks.values(), listening):
            task.cancel()
        await asyncio.gather(*tasks.values(), listening, return_exceptions=True)


async def run_kopf(registry: kopf.OperatorRegistry, *, identity: str, ready: asyncio.Event) -> None:
    """Let kopf watch, in all namespaces and on its own, until cancelled."""
    await kopf.operator(
        registry=registry,
        settings=settings(),
        standalone=True,
        clusterwide=True,
        ready_flag=ready,
        # Left to itself kopf asks for the user's name, and an image's numeric user has none.
        identity=identity,  # type: ignore[arg-type] # a NewType of str that kopf does not export
    )


async def _listen_again(ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Take the signals back: kopf takes them for itself when it starts."""
    await ready.wait()
    _listen(stop)


def _listen(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do some work unless told to stop first; return whether it was done."""
    doing, stopping = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        doing.cancel()
        stopping.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)
