"""What a run comes to: the record that the table, the JSON and the report show."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.core.prices import HOUR_S, prices_at
from dynamollm.simulator.replay import Ended
from dynamollm.simulator.verdict import Percentile, Verdict, judge

J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Result:
    """One policy in one order of service."""

    policy: str
    order: str
    energy_kwh: float
    """Of GPUs: those that are held, and where it was asked for, what released ones of SinglePool's cluster draw."""
    held_energy_kwh: float
    gpu_hours: float
    released_gpu_hours: float
    """Of SinglePool's servers, what is not held."""
    cost_usd: float
    """Electricity and held GPUs."""
    carbon_kg: float
    """CO2 equivalent."""
    meets_slo: bool
    slo_attainment: Mapping[str, Any]
    """``total``, ``by_class`` (own TTFT and own mean TBT), ``within_five`` (of the rule x5)."""
    ttft_ms: Mapping[str, Mapping[str, float]]
    tbt_ms: Mapping[str, Mapping[str, float]]
    token_gap_ms: Mapping[str, Mapping[str, float]]
    all_classes_ms: Mapping[str, Mapping[str, float]]
    """``ttft``, ``tbt`` and ``token_gap`` over all classes."""
    worst_percentile: Mapping[str, Any] | None
    """What misses the rule p99, or is nearest to it: ``class``, ``latency`` (``ttft``, ``token_gap``), ``percentile``,
    ``ms`` (None: so many requests failed that there is none), ``limit_ms``."""
    power_w: Mapping[str, float]
    servers: float
    """Mean of the GPUs held, in servers of eight."""
    peak_gpus: int
    reconfigurations: int
    """Instances started and removed."""
    changes: Mapping[str, int]
    """``instances``, those of them that changed a TP degree, ``routing``, ``clocks``."""
    plans: Mapping[str, int]
    """New plans by reason."""
    requests: int
    failed: int
    resteered: int
    squashed: int
    tokens: Mapping[str, int]
    """``input`` and ``output`` of the requests that were served."""
    wall_seconds: float

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def result_of(
    ended: Ended, *, policy: str, order: str, prices: ClusterPolicySpec, released_w: float, cluster_gpus: int
) -> Result:
    """Return what a run comes to.

    Args:
        ended: the run.
        policy: its name.
        order: of service, as the command line has it.
        prices: of electricity, carbon and GPUs; the trace begins at hour 0.
        released_w: of a GPU of the cluster that nobody holds.
        cluster_gpus: GPUs of the cluster that is compared with: SinglePool's.
    """
    tick_s = ended.setup.service.intervals.clock_s
    released = np.maximum(0, cluster_gpus - ended.held_gpus)
    power_w = ended.power_w + released_w * released
    verdict = judge(ended.room.fleet, ended.room.engines.gaps, ended.setup.service.slo)
    counts = ended.room.fleet.by_class
    totals = ended.room.fleet.totals
    cost_usd, carbon_kg = _cost(power_w, ended.held_gpus, prices, tick_s)
    return Result(
        policy=policy,
        order=order,
        energy_kwh=float(power_w.sum() * tick_s / J_PER_KWH),
        held_energy_kwh=ended.energy_j / J_PER_KWH,
        gpu_hours=ended.gpu_s / 3600,
        released_gpu_hours=float(released.sum()) * tick_s / 3600,
        cost_usd=cost_usd,
        carbon_kg=carbon_kg,
        meets_slo=verdict.meets_slo,
        slo_attainment=_attainment(verdict),
        ttft_ms=verdict.ttft_ms,
        tbt_ms=verdict.tbt_ms,
        token_gap_ms=verdict.gap_ms,
        all_classes_ms=verdict.all_ms,
        worst_percentile=None if verdict.worst is None else _worst(verdict.worst),
        power_w={"p50": _percentile(power_w, 50), "p99": _percentile(power_w, 99)},
        servers=float(ended.held_gpus.mean() / ended.setup.service.gpus_per_node) if ended.held_gpus.size else 0.0,
        peak_gpus=ended.peak_gpus,
        reconfigurations=ended.reconfigurations["instances"],
        changes=ended.reconfigurations,
        plans={str(reason): count for reason, count in sorted(ended.plans.items())},
        requests=int(counts["requests"].sum()),
        failed=int(counts["failed"].sum()),
        resteered=int(totals["resteered"][0]),
        squashed=int(totals["squashed"][0]),
        tokens={"input": int(counts["input_tokens"].sum()), "output": int(counts["output_tokens"].sum())},
        wall_seconds=round(ended.wall_s, 3),
    )


def _attainment(verdict: Verdict) -> dict[str, Any]:
    return {"total": verdict.total, "by_class": dict(verdict.by_class), "within_five": verdict.within_five}


def _worst(one: Percentile) -> dict[str, Any]:
    return {
        "class": one.request_class,
        "latency": one.latency,
        "percentile": one.percentile,
        "ms": round(one.ms, 2) if math.isfinite(one.ms) else None,
        "limit_ms": one.limit_ms,
    }


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if values.size else 0.0


def _cost(
    power_w: NDArray[np.float64], held: NDArray[np.int32], prices: ClusterPolicySpec, tick_s: float
) -> tuple[float, float]:
    """Return US dollars and kg of CO2 equivalent, hour by hour."""
    usd = grams = 0.0
    per_hour = round(HOUR_S / tick_s)
    for hour, start in enumerate(range(0, power_w.size, per_hour)):
        now = prices_at(prices, now_s=hour * HOUR_S)
        kwh = float(power_w[start : start + per_hour].sum()) * tick_s / J_PER_KWH
        gpu_hours = float(held[start : start + per_hour].sum()) * tick_s / HOUR_S
        usd += kwh * now.electricity_usd_per_kwh + gpu_hours * now.gpu_usd_per_hour
        grams += kwh * now.carbon_g_per_kwh
    return usd, grams / 1e3
