"""The demo's settings, from the environment, so that ``make demo SPEED=4`` works."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynamollm.core.errors import InvalidInputError

REPOSITORY: Final = Path(__file__).resolve().parents[3]
AZURE_TRACE: Final = REPOSITORY.parent / "shared/data/traces/AzureLLMInferenceTrace_conv.csv"
"""Used where it lies beside the checkout; elsewhere an hour with the same statistics is generated."""

LEAST_REQUESTS_S: Final = 60.0
"""Shortest part of the trace, in simulated seconds, that says anything."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to show."""

    name: str
    """Of its local cluster: two demos on one machine need two."""
    speed: float
    """Simulated seconds per wall second."""
    rate: float
    """Requests sent per request of the trace."""
    start_s: float
    duration_s: float
    """Part of the trace, in simulated seconds."""
    trace: Path | None
    """An Azure LLM inference CSV, or None for the generated hour."""
    out: Path | None
    """Where the summary goes as JSON."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Options":
        """Read NAME, SPEED, RATE, START, DURATION, TRACE and DEMO_OUT.

        Raises:
            InvalidInputError: names the variable, its value and what it may be.
        """
        trace = Path(env["TRACE"]) if env.get("TRACE") else AZURE_TRACE if AZURE_TRACE.exists() else None
        if trace is not None and not trace.is_file():
            raise InvalidInputError(f"TRACE is {trace}: no such file; leave it out for the demo's own trace")
        out = Path(env["DEMO_OUT"]) if env.get("DEMO_OUT") else None
        if out is not None and not out.absolute().parent.is_dir():
            raise InvalidInputError(f"DEMO_OUT is {out}: its folder does not exist; create it or name another")
        return cls(
            name=env.get("NAME") or "demo",
            speed=_number(env, "SPEED", default=8.0, low=1.0, high=30.0),
            rate=_number(env, "RATE", default=1.0, low=0.1, high=10.0),
            start_s=_number(env, "START", default=0.0, low=0.0, high=3400.0),
            duration_s=_number(env, "DURATION", default=math.inf, low=LEAST_REQUESTS_S, high=math.inf),
            trace=trace,
            out=out,
        )


def _number(env: Mapping[str, str], name: str, *, default: float, low: float, high: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InvalidInputError(
            f"{name} is {text!r}: give a number from {low:g} to {high:g}, or leave it out ({default:g})"
        )
    return value
