"""The operator's own metrics; docs/operator.md lists them."""

from math import nan
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dynamollm.controller.budget import Key
from dynamollm.core.forecast_choice import ForecastQuality
from dynamollm.core.forecast_methods import ForecastMode

_LABELS: Final = ("namespace", "service")
_BUCKETS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_FORECAST: Final = {
    "pinball_loss_per_second": "Mean pinball loss of the forecast's upper band, requests/s.",
    "naive_pinball_loss_per_second": "The same of the naive forecast.",
    "coverage_ratio": "Share of the peaks that came at or below the upper band.",
    "error_ratio": "Mean absolute error of the expected peak, of the peak that came.",
}


class OperatorMetrics:
    """Counters and gauges by service; durations are wall seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.active = Gauge(
            "dynamollm_operator_active", "1 while this process holds the lease.", registry=self.registry
        )
        self._cycles = Counter(
            "dynamollm_operator_cycles", "Cycles by result.", (*_LABELS, "result"), registry=self.registry
        )
        self._seconds = Histogram(
            "dynamollm_operator_cycle_seconds",
            "Wall time of a cycle.",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._actions = Counter(
            "dynamollm_operator_actions", "Actions carried out by kind.", (*_LABELS, "kind"), registry=self.registry
        )
        self._writes = Counter(
            "dynamollm_operator_writes", "Objects written by kind.", ("kind",), registry=self.registry
        )
        self._unknown = Counter(
            "dynamollm_operator_unknown_observations",
            "Cycles in which load was unknown, by reason.",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        self._gpus = Gauge("dynamollm_operator_plan_gpus", "GPUs of the plan.", _LABELS, registry=self.registry)
        self._watts = Gauge(
            "dynamollm_operator_plan_power_watts",
            "Expected GPU power at the planned load.",
            _LABELS,
            registry=self.registry,
        )
        self._correction = Gauge(
            "dynamollm_operator_plan_correction_ratio",
            "What the profile's capacities are divided by, as requests missed their SLO; 1: by nothing.",
            _LABELS,
            registry=self.registry,
        )
        self._forecast = {
            name: Gauge(f"dynamollm_operator_forecast_{name}", text, _LABELS, registry=self.registry)
            for name, text in _FORECAST.items()
        }
        self._mode = Gauge(
            "dynamollm_operator_forecast_mode",
            "1 for the forecast's method in force, 0 for the others.",
            (*_LABELS, "mode"),
            registry=self.registry,
        )
        self._by_service = (
            *self._forecast.values(),
            self._mode,
            self._cycles,
            self._actions,
            self._unknown,
            self._gpus,
            self._watts,
            self._correction,
        )

    def cycle(self, key: Key, *, result: str, seconds: float) -> None:
        """Count a cycle: planned, paused, unfit or failed."""
        self._cycles.labels(*key, result).inc()
        self._seconds.observe(seconds)

    def action(self, key: Key, kind: str) -> None:
        """Count an action."""
        self._actions.labels(*key, kind).inc()

    def write(self, kind: str) -> None:
        """Count a written object."""
        self._writes.labels(kind).inc()

    def unknown(self, key: Key, reason: str) -> None:
        """Count a cycle without load."""
        self._unknown.labels(*key, reason).inc()

    def plan(self, key: Key, *, gpus: int, power_w: float, correction: float) -> None:
        """Show the plan in force."""
        self._correction.labels(*key).set(correction)
        self._gpus.labels(*key).set(gpus)
        self._watts.labels(*key).set(power_w)

    def forecast(self, key: Key, quality: ForecastQuality) -> None:
        """Show the forecast's own error; NaN: not known yet."""
        values = {
            "pinball_loss_per_second": quality.pinball_per_s,
            "naive_pinball_loss_per_second": quality.naive_pinball_per_s,
            "coverage_ratio": quality.coverage,
            "error_ratio": quality.mape,
        }
        for name, value in values.items():
            self._forecast[name].labels(*key).set(nan if value is None else value)
        for mode in ForecastMode:
            self._mode.labels(*key, str(mode)).set(mode is quality.mode)

    def forget(self, key: Key) -> None:
        """Remove the series of a service that is gone."""
        for metric in self._by_service:
            metric.remove_by_labels(dict(zip(_LABELS, key, strict=True)))
