"""Hold the shipped profile to steps measured on an H100: ``PYTHONPATH=hack python hack/shard/compare.py [FILE.json]``.

The measurement (``hack/shard/measure.py``) is one GPU's part of a step, without all-reduce and without a host between steps;
the same is left out of what the profile says. A second table is about steps with pauses between them: their watts beside those
of busy and idle time, each as measured, by their shares.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.profile import Profile
from lab.demo.manifests import document
from lab.paths import REPOSITORY

MEASURED: Final = REPOSITORY / "hack/shard/h100.json"
PROFILE: Final = REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm.yaml"
NO_LINK: Final = 1e12
"""Efficiency of links that take no time."""


def alone(manifest: Path) -> Profile:
    """Return the profile of an engine whose GPUs need not talk, and whose host takes no time."""
    spec = PerformanceProfileSpec.model_validate(document(manifest)["spec"])
    if spec.latency.roofline is None:
        raise ValueError(f"{manifest} has no latency.roofline: only that tells all-reduce apart")
    parts = {
        "nvlink_efficiency": NO_LINK,
        "all_reduce_latency_microseconds": 0.0,
        "host_milliseconds": 0.0,
        "host_microseconds_per_sequence": 0.0,
    }
    latency = spec.latency.model_copy(update={"roofline": spec.latency.roofline.model_copy(update=parts)})
    return Profile.from_spec(spec.model_copy(update={"latency": latency}))


def kind(row: Mapping[str, Any]) -> str:
    """Return what a step does."""
    if not row["prompt_tokens"]:
        return "decode"
    return "both" if row["batch"] else "prompt"


def steps_of(row: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return what makes a step the same."""
    return row["tensor_parallel"], row["prompt_tokens"], row["batch"], row["context"]


def pauses(measured: Mapping[str, Any]) -> tuple[Table, list[float]]:
    """Return the table of steps with pauses, and the errors of adding up."""
    shown = Table(title="With pauses between steps: watts")
    for name in ("step", "TP", "busy", "SM MHz", "measured", "by shares", "error"):
        shown.add_column(name, justify="left" if name == "step" else "right")
    whole = {steps_of(row): row["power_w"] for row in measured["rows"] if row["busy"] == 1}
    errors = []
    for row in measured["rows"]:
        busy = row["busy"]
        if busy == 1:
            continue
        said = busy * whole[steps_of(row)] + (1 - busy) * measured[f"loaded_idle_tp{row['tensor_parallel']}"]["power_w"]
        errors.append(said / row["power_w"] - 1)
        cells = f"{row['tensor_parallel']}", f"{busy:.0%}", f"{row['clock_mhz']:.0f}", f"{row['power_w']:.0f}"
        shown.add_row(kind(row), *cells, f"{said:.0f}", f"{errors[-1]:+.0%}")
    return shown, errors


def main() -> None:
    """Print both, and how far apart they are."""
    measured = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED).read_text())
    profile = alone(PROFILE)
    shown = Table(title=f"{profile.model}, a GPU's part of a step on {measured['gpu']}, driver {measured['driver']}")
    for name in (
        "step",
        "TP",
        "prompt",
        "batch",
        "context",
        "SM MHz",
        "ms",
        "profile",
        "error",
        "W",
        "profile",
        "error",
    ):
        shown.add_column(name, justify="left" if name == "step" else "right")
    errors: dict[str, list[tuple[float, float]]] = {}
    for row in measured["rows"]:
        if row["busy"] < 1:
            continue
        said = profile.step(
            prompt_tokens=row["prompt_tokens"],
            prompt_squared_tokens=row["prompt_tokens"] ** 2,
            batch=row["batch"],
            context_tokens=row["batch"] * row["context"],
            tensor_parallel=row["tensor_parallel"],
            clock_mhz=profile.max_clock_mhz,
        )
        off = said.duration_ms / row["duration_ms"] - 1, said.power_w / row["power_w"] - 1
        errors.setdefault(f"{kind(row)}, TP {row['tensor_parallel']}", []).append(off)
        shown.add_row(
            kind(row),
            *(f"{row[name]}" for name in ("tensor_parallel", "prompt_tokens", "batch", "context")),
            f"{row['clock_mhz']:.0f}",
            *(f"{row['duration_ms']:.1f}", f"{said.duration_ms:.1f}", f"{off[0]:+.0%}"),
            *(f"{row['power_w']:.0f}", f"{said.power_w:.0f}", f"{off[1]:+.0%}"),
        )
    console = Console(width=120)
    console.print(shown)
    for name, found in errors.items():
        milliseconds, watts = np.array(found).T
        console.print(
            f"{name}: time {np.median(milliseconds):+.1%} in the median, {np.median(abs(milliseconds)):.1%} in size, "
            f"{abs(milliseconds).max():.1%} at most; power {np.median(watts):+.1%}, {np.median(abs(watts)):.1%}, "
            f"{abs(watts).max():.1%}"
        )
    shown, shares = pauses(measured)
    console.print(shown)
    console.print(f"by shares: {np.median(shares):+.1%} in the median, {min(shares):+.1%} to {max(shares):+.1%}")
    idle = {name: f"{value['power_w']:.0f} W" for name, value in measured.items() if "idle" in name}
    console.print(f"idle {idle['idle']}, with weights loaded {', '.join(v for k, v in idle.items() if k != 'idle')}")


if __name__ == "__main__":
    main()
