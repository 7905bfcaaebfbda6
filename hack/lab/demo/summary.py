"""What the replay's results add up to: by class and in all, as a table and as the JSON of ``DEMO_OUT``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.records import Slo


@dataclass(slots=True)
class ClassTally:
    """The requests of one class so far; latencies in simulated ms."""

    requests: int = 0
    failed: int = 0
    met: int = 0
    met_stretched: int = 0
    """Met even with real work counted as often as simulated time is faster."""
    tokens: int = 0
    """Prompt and generated tokens."""
    ttft_ms: list[float] = field(default_factory=list)
    tbt_ms: list[float] = field(default_factory=list)

    @property
    def attainment(self) -> float | None:
        """Share of the requests that met their SLO; a failed one did not. None before the first."""
        return self.met / self.requests if self.requests else None


@dataclass(slots=True)
class Tally:
    """Every finished request, judged by its own SLO: TTFT by its class, and mean TBT (rule "att")."""

    slo: Slo
    boundaries: ClassBoundaries
    classes: dict[RequestClass, ClassTally] = field(
        default_factory=lambda: {request_class: ClassTally() for request_class in RequestClass}
    )
    worst_lag_ms: float = 0.0
    last_error: str = ""

    def add(self, result: Mapping[str, Any]) -> None:
        """Count one line of the replay's output."""
        request_class = self.boundaries.classify(
            input_tokens=result["input_tokens"], output_tokens=result["output_tokens"]
        )
        tally = self.classes[request_class]
        tally.requests += 1
        tally.tokens += result["input_tokens"] + result["output_tokens"]
        self.worst_lag_ms = max(self.worst_lag_ms, result["lag_ms"])
        if not result["ok"]:
            tally.failed += 1
            self.last_error = str(result.get("error", "no error told"))
            return
        tally.ttft_ms.append(result["ttft_ms"])
        tally.tbt_ms.append(result["tbt_ms"])
        ttft_ms, tbt_ms = self.slo.ttft_ms[request_class], self.slo.tbt_ms[request_class]
        tally.met += result["ttft_ms"] <= ttft_ms and result["tbt_ms"] <= tbt_ms
        tally.met_stretched += result["stretched_ttft_ms"] <= ttft_ms and result["stretched_tbt_ms"] <= tbt_ms

    @property
    def requests(self) -> int:
        """Requests of all classes."""
        return sum(tally.requests for tally in self.classes.values())

    @property
    def failed(self) -> int:
        """Requests that got an error, or fewer tokens than they should."""
        return sum(tally.failed for tally in self.classes.values())

    @property
    def attainment(self) -> float | None:
        """Share of all requests that met their SLO; None before the first."""
        return sum(tally.met for tally in self.classes.values()) / self.requests if self.requests else None

    @property
    def attainment_stretched(self) -> float | None:
        """The same with the client's wall-clock latencies multiplied by the speed; None before the first."""
        return sum(tally.met_stretched for tally in self.classes.values()) / self.requests if self.requests else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile, or None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Summary:
    """The demo's outcome. Energy is GPU board energy in simulated time."""

    tally: Tally
    energy_wh: float
    """Of the GPUs that pods of the service held: a released GPU counts 0 W."""
    energy_wh_released_idle: float
    """The same, with each released GPU of SinglePool's allotment idling bare."""
    energy_wh_single_pool: float
    single_pool_attainment: float | None
    scalings: int
    reshardings: int
    clock_changes: int
    seconds: float
    """Wall seconds of the whole demo."""
    simulated_seconds: float
    attainment_in_status: float | None
    """The operator's own view at the end: the router's latencies by way of Prometheus, real work times speed."""

    def as_json(self) -> dict[str, Any]:
        """Return the document of ``DEMO_OUT``."""
        tokens = sum(tally.tokens for tally in self.tally.classes.values()) or 1
        return {
            "requests": self.tally.requests,
            "failed": self.tally.failed,
            "slo_attainment": self.tally.attainment,
            "slo_attainment_in_status": self.attainment_in_status,
            "slo_attainment_stretched": self.tally.attainment_stretched,
            "energy_wh": self.energy_wh,
            "energy_wh_released_idle": self.energy_wh_released_idle,
            "energy_wh_single_pool": self.energy_wh_single_pool,
            "single_pool_slo_attainment": self.single_pool_attainment,
            "scalings": self.scalings,
            "reshardings": self.reshardings,
            "clock_changes": self.clock_changes,
            "seconds": self.seconds,
            "simulated_seconds": self.simulated_seconds,
            "worst_send_lag_ms": self.tally.worst_lag_ms,
            "classes": {
                request_class.value: {
                    "requests": tally.requests,
                    "failed": tally.failed,
                    "slo_attainment": tally.attainment,
                    "energy_wh": self.energy_wh * tally.tokens / tokens,
                    "energy_wh_single_pool": self.energy_wh_single_pool * tally.tokens / tokens,
                    "ttft_ms": {"p50": percentile(tally.ttft_ms, 0.5), "p99": percentile(tally.ttft_ms, 0.99)},
                    "tbt_ms": {"p50": percentile(tally.tbt_ms, 0.5), "p99": percentile(tally.tbt_ms, 0.99)},
                }
                for request_class, tally in self.tally.classes.items()
            },
        }
