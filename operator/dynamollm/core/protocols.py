"""What the controller needs from outside, as it asks for it: adapters implement these, tests fake them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Attainment, LoadHistory, Service


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source of metrics knows of one service, in simulated units; ``None`` is unknown, never zero."""

    load: LoadHistory | None
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests inside an instance, by pod name; an instance that is absent is unknown."""
    attainment: Mapping[RequestClass, Attainment] | None = None
    """By class over the last scale interval; a class without requests is absent."""
    recent_attainment: Mapping[RequestClass, Attainment] | None = None
    """The same over the last ``core.feedback.WINDOW_S``."""
    power_w: float | None = None
    energy_j: float | None = None
    """Since the service was created, as far back as the source remembers."""
    reason: str = ""
    """Why load is unknown: a stable CamelCase word; empty while it is known."""
    problem: str = ""
    """The same as a sentence that says what to do."""


class LoadSource(Protocol):
    """Where load comes from."""

    async def read(self, service: Service, *, created_s: float) -> Reading:
        """Return what is known now; never raises, and never waits without a bound.

        ``created_s`` is when the service was created, unix seconds of wall time.
        """

    def forget(self, *, namespace: str, name: str) -> None:
        """Drop what is remembered of a service that is gone."""
