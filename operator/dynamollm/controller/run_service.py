"""The life of one service in this process: cycle after cycle, at its interval or when something changed, until it goes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.kube import KubeError
from dynamollm.controller.budget import Key
from dynamollm.controller.reconcile_service import Reconciler

_LOG: Final = logging.getLogger(__name__)

MIN_INTERVAL_S: Final = 0.5
"""Wall seconds between two cycles of a service at least, however fast simulated time runs and pods change."""
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Wall seconds after the first, second, … failure in a row; the last for all others."""
DEFAULT_INTERVAL_S: Final = 5.0
"""Simulated seconds between cycles where the spec has none that can be read: the API's own default."""
STALL_S: Final = 180.0
"""Wall seconds without a finished cycle after which a service counts as stalled: above the minute that a Prometheus
which answers too slowly may take, and the longest back-off."""


class Stopped(Protocol):
    """What kopf tells a daemon by: true once the service or the operator goes."""

    def __bool__(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> Awaitable[object]:
        """Wait for it, at most so many seconds."""


@dataclass(slots=True)
class Wakes:
    """Tells sleeping cycles that something changed."""

    _events: dict[Key, asyncio.Event] = field(default_factory=dict)

    def event(self, key: Key) -> asyncio.Event:
        """Return a service's event."""
        return self._events.setdefault(key, asyncio.Event())

    def wake(self, key: Key) -> None:
        """Wake one service, if its cycles run."""
        if key in self._events:
            self._events[key].set()

    def wake_all(self) -> None:
        """Wake all services."""
        for event in self._events.values():
            event.set()

    def forget(self, key: Key) -> None:
        """Forget a service that is gone."""
        self._events.pop(key, None)


@dataclass(slots=True)
class Progress:
    """When each service's last cycle ended, for the liveness probe."""

    monotonic: Callable[[], float] = time.monotonic
    _ended_s: dict[Key, float] = field(default_factory=dict)

    def beat(self, key: Key) -> None:
        """Note that a cycle ended, well or not: a failure that is reported is progress."""
        self._ended_s[key] = self.monotonic()

    def stalled(self, services: Mapping[Key, object]) -> list[Key]:
        """Return the services whose cycles do not turn; one that is seen for the first time has its time from now."""
        now_s = self.monotonic()
        self._ended_s = {key: self._ended_s.get(key, now_s) for key in services}
        return sorted(key for key, ended_s in self._ended_s.items() if now_s - ended_s > STALL_S)


async def run_service(
    reconciler: Reconciler,
    *,
    body: Callable[[], Mapping[str, Any]],
    stopped: Stopped,
    wake: asyncio.Event,
    progress: Progress,
) -> None:
    """Run cycles until told to stop; no exception of one cycle ends it.

    ``body`` gives the service as the watch shows it now.
    """
    failures = 0
    while not stopped:
        wake.clear()
        began_s = time.monotonic()
        try:
            result = await reconciler.cycle(body())
            failures = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, this service's next cycle and all others go on
            result = "failed"
            failures += 1
            await _report_failure(reconciler, body(), error)
        reconciler.shared.metrics.cycle(reconciler.key, result=result, seconds=time.monotonic() - began_s)
        progress.beat(reconciler.key)
        if failures:
            await stopped.wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
        else:
            await _rest(stopped, wake, began_s=began_s, interval_s=_interval_s(body(), reconciler.shared.clock))


async def _rest(stopped: Stopped, wake: asyncio.Event, *, began_s: float, interval_s: float) -> None:
    """Wait for the next cycle: its time, a wake-up, or the end."""
    await stopped.wait(max(0.0, began_s + MIN_INTERVAL_S - time.monotonic()))
    left_s = began_s + interval_s - time.monotonic()
    if stopped or left_s <= 0:
        return
    waits = [asyncio.ensure_future(stopped.wait(left_s)), asyncio.ensure_future(wake.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _report_failure(reconciler: Reconciler, body: Mapping[str, Any], error: Exception) -> None:
    namespace, name = reconciler.key
    expected = isinstance(error, KubeError)
    _LOG.error(
        "cycle failed",
        exc_info=None if expected else error,
        extra={"fields": {"namespace": namespace, "service": name, "error": str(error)}},
    )
    try:
        await reconciler.failed(body, error)
    except Exception as second:  # noqa: BLE001 - the log has the first one
        _LOG.warning("the failure was not written to the status: %s", second)


def _interval_s(body: Mapping[str, Any], clock: Clock) -> float:
    """Return the wall seconds from one cycle to the next."""
    seconds = body["spec"].get("intervals", {}).get("clockSeconds", DEFAULT_INTERVAL_S)
    return max(MIN_INTERVAL_S, clock.wall(float(seconds)))
