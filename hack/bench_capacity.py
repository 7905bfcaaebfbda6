"""``make bench-capacity``: the capacities that plans count on beside simulated ones. ``BENCH_OUT=FILE`` for JSON.

Two tables: random mixes of random lengths, and random mixes of the lengths of the Azure conversations of 2023 (where the trace
is at hand); none of them was used to fit anything. An error is what is planned over what was simulated, less one. Simulating
64,000 requests a case, and four times as many for the rule PerClassPercentile, takes three quarters of an hour of two cores once;
answers are kept (``hack/capacity_cases.py``, ``hack/percentile_cases.py``).

``hack/bench_capacity.py --fit`` prints what margins of ``core/margins.py`` follow from cases of another seed instead, those of random
lengths and those of the conversations'. A margin makes the median right, or more than ``TO_FIT`` above the simulated rate rarer than
``RARE``, whichever is more careful. Where the two differ, the one in use lies between them: both medians stay within 7 %.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from capacity_cases import FIRST_OF_TRACE, PROFILES, TRACE, Case, cases, profile_of
from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.margins import margin
from dynamollm.core.records import Order, SloRule
from lab.figures import record
from percentile_cases import percentile_rates
from random_mixes import LEAST_RATE, slo_by

FIT_SEED, SEED = 23, 97
FIT, FIT_TRACE = (range(30), range(100, 130)), (range(FIRST_OF_TRACE, FIRST_OF_TRACE + 48),)
HELD_OUT, OF_TRACE = range(40), range(FIRST_OF_TRACE, FIRST_OF_TRACE + 24)
"""Numbers of the cases."""
TOO_MUCH: Final = 0.1
TO_FIT: Final = 0.08
"""Less than is too much: thirty cases of an engine tell little of the rare ones."""
RARE: Final = 0.02

Floats = NDArray[np.float64]


def simulated_cases(seed: int, *numbers: range) -> list[Case]:
    """Return cases, their rates by the rule PerClassPercentile from more requests."""
    found = []
    for case in (one for some in numbers for one in cases(seed, some)):
        rates = {(order, SloRule.PER_CLASS_PERCENTILE): rate for order, rate in percentile_rates(seed, case).items()}
        found.append(replace(case, rate_per_s=case.rate_per_s | rates))
    return found


def ratios(some: Sequence[Case], profile: str, order: Order, rule: SloRule) -> Floats:
    """Return planned over simulated rates, of the cases that carry anything worth the name."""
    found = []
    for case in some:
        simulated = case.rate_per_s[order, rule]
        if case.profile != profile or simulated <= LEAST_RATE:
            continue
        planned = capacity_per_s(
            profile_of(profile),
            load=case.load,
            slo=slo_by(rule),
            tensor_parallel=case.tensor_parallel,
            clock_mhz=case.clock_mhz,
            order=order,
        )
        found.append(planned / simulated)
    return np.array(found)


def fit() -> None:
    """Print margins."""
    groups = {"random lengths": simulated_cases(FIT_SEED, *FIT)}
    if TRACE.exists():
        groups["conversations"] = simulated_cases(FIT_SEED, *FIT_TRACE)
    for profile in PROFILES:
        chunked = profile_of(profile).interleaves_prefill
        for order in Order:
            for rule in SloRule:
                margins = []
                for name, some in groups.items():
                    over = ratios(some, profile, order, rule) * margin(chunked=chunked, order=order, rule=rule)
                    careful = float(np.quantile(over[over > 0], 1 - RARE)) / (1 + TO_FIT)
                    margins.append(f"{max(float(np.median(over[over > 0])), careful):.2f} ({name}, {over.size} cases)")
                print(f"chunked {chunked}, {order}, {rule}: {', '.join(margins)}")


def table(title: str, some: Sequence[Case]) -> tuple[Table, list[dict[str, object]]]:
    """Return errors for people, and for JSON."""
    shown = Table(title=title, title_justify="left")
    for name in ("engine", "order", "rule", "cases", "median error", "median |error|", "over by > 10 %", "range"):
        shown.add_column(name, justify="left" if name in ("engine", "order", "rule") else "right")
    rows: list[dict[str, object]] = []
    for profile in PROFILES:
        for order in Order:
            for rule in SloRule:
                error = ratios(some, profile, order, rule) - 1
                if not error.size:
                    continue
                row = {
                    "engine": "chunks" if profile_of(profile).interleaves_prefill else "whole prompts",
                    "order": str(order),
                    "rule": str(rule),
                    "cases": error.size,
                    "median_error": float(np.median(error)),
                    "median_absolute_error": float(np.median(np.abs(error))),
                    "over_by_a_tenth": float((error > TOO_MUCH).mean()),
                    "least": float(error.min()),
                    "most": float(error.max()),
                }
                rows.append(row)
                shown.add_row(
                    *(str(row[name]) for name in ("engine", "order", "rule", "cases")),
                    f"{row['median_error']:+.1%}",
                    f"{row['median_absolute_error']:.1%}",
                    f"{row['over_by_a_tenth']:.0%}",
                    f"{row['least']:+.0%} to {row['most']:+.0%}",
                )
    return shown, rows


def main() -> None:
    """Print the tables, or margins."""
    if "--fit" in sys.argv:
        fit()
        return
    console = Console(width=140)
    figures = {}
    groups = {"random lengths": HELD_OUT}
    if TRACE.exists():
        groups["lengths of the Azure conversations"] = OF_TRACE
    for name, numbers in groups.items():
        shown, figures[name] = table(f"{name}: planned over simulated, less one", simulated_cases(SEED, numbers))
        console.print(shown)
    record({"capacity": figures})


if __name__ == "__main__":
    main()
