"""The forecast's own error for status and metrics, worked out every five minutes: it changes no faster, and costs milliseconds."""

from dataclasses import dataclass, field
from typing import Final

from dynamollm.api.inferenceservice_status import ForecastStatus
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import epochs
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.forecast import outlook
from dynamollm.core.forecast_choice import ForecastQuality
from dynamollm.core.records import LoadHistory, Service
from dynamollm.core.sizing import rate_per_s

WATCH_S: Final = 300.0
"""Simulated seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the forecast says for as far as the policy plans ahead, and how well it has done."""

    expected_per_s: float
    quality: ForecastQuality

    def status(self) -> ForecastStatus:
        """Return what of the status comes from here."""
        quality = self.quality
        return ForecastStatus(
            rate_per_second_milli=round(1000 * self.expected_per_s),
            mode=str(quality.mode),
            error_basis_points=_scaled(quality.mape, 10_000, most=1_000_000),
            coverage_basis_points=_scaled(quality.coverage, 10_000, most=10_000),
            pinball_per_second_milli=_scaled(quality.pinball_per_s, 1000),
            naive_pinball_per_second_milli=_scaled(quality.naive_pinball_per_s, 1000),
        )


@dataclass(slots=True)
class ForecastWatch:
    """Looks at the forecast of one service now and then."""

    _at: tuple[Service, float] | None = field(default=None, init=False)
    _watched: Watched | None = field(default=None, init=False)

    def look(self, service: Service, load: LoadHistory | None, *, startup_s: float, now_s: float) -> Watched | None:
        """Return the newest look; None: load is unknown."""
        if self._at is not None and self._at[0] == service and 0 <= now_s - self._at[1] < WATCH_S and load is not None:
            return self._watched
        horizon_s = epochs(service, startup_s=startup_s).scale_s + startup_s
        try:
            one = outlook(
                load,
                settings=service.forecast,
                intervals=service.intervals,
                boundaries=service.boundaries,
                now_s=now_s,
            )
        except UnknownDataError:
            self._at = self._watched = None
            return None
        self._at = service, now_s
        self._watched = Watched(
            expected_per_s=rate_per_s(one.expected_peak(RequestClass, horizon_s=horizon_s)),
            quality=one.quality(horizon_s=horizon_s),
        )
        return self._watched


def _scaled(value: float | None, unit: int, *, most: int = 1_000_000_000_000) -> int | None:
    return None if value is None else min(most, round(value * unit))
