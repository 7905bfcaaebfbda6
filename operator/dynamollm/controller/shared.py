"""What the cycles of all services share."""

import asyncio
from dataclasses import dataclass, field

from dynamollm.adapters.address import ALL_IPV4
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import Kube
from dynamollm.controller.budget import GpuBook
from dynamollm.controller.clock_plan import ClockPlanPublisher
from dynamollm.controller.foreign import ForeignPods
from dynamollm.controller.metrics import OperatorMetrics
from dynamollm.controller.view import ClusterView
from dynamollm.core.protocols import LoadSource


@dataclass(slots=True)
class Shared:
    """The outside, and the few things that services share."""

    kube: Kube
    source: LoadSource
    clock: Clock
    image: str
    """Image of our own parts."""
    clock_plan: ClockPlanPublisher
    foreign: ForeignPods
    every_address: str = ALL_IPV4
    """All addresses of a pod, for engines to listen on."""
    view: ClusterView = field(default_factory=ClusterView)
    book: GpuBook = field(default_factory=GpuBook)
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One decision at a time: what one service is granted the next one must not count as free."""
    resumed: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_resumed: bool = False

    async def resume(self) -> None:
        """Before the first cycle of all: take over the clock plan that a predecessor left.

        Raises:
            KubeError: refused or no answer.
        """
        async with self.resumed:
            if not self.is_resumed:
                await self.clock_plan.resume(self.view.services())
                self.is_resumed = True
