"""Make docs/paper-comparison.md: each figure of the paper (DynamoLLM, HPCA 2025) beside ours, by simulation.

``make paper``, or ``python hack/paper_comparison.py --data FOLDER``; the folder has the Azure traces (see the README of
Azure/AzurePublicDataset): AzureLLMInferenceTrace_conv.csv and azure2024_week_hourly.csv. Answers are kept in build/paper,
so that what was cut off goes on where it was; an answer belongs to its question, not to the code: remove the folder
after a change of the decisions.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.core.errors import DynamoLLMError
from dynamollm.simulator.campaign import Campaign, Task
from dynamollm.simulator.experiment import ALL, Question, known_policies

REPOSITORY: Final = Path(__file__).parents[1]
NOTES: Final = REPOSITORY / "hack/paper/notes.md"
"""What explains the differences: written by people, put at the end."""

PUBLISHED: Final = "published"
ENGINES: Final = {"paper": "engine of 2023", "modern": "today's"}
"""By profile, as the tables name them."""
PROFILES: Final = tuple(ENGINES)
RELEASED_W: Final = (0.0, 75.0)
COLUMNS: Final = tuple((profile, watts) for profile in PROFILES for watts in RELEASED_W)

CARBON: Final = ClusterPolicySpec.model_validate(
    {
        "gpuPriceMicroUSDPerHour": 2_500_000,
        "electricityPriceMicroUSDPerKWh": 100_000,
        "carbonIntensityGramsPerKWh": 250,
    }
)

ABOUT: Final = (
    "Made by `make paper` (hack/paper_comparison.py, `--scale {scale:g} --week-scale {week_scale:g}`) with the simulator "
    "(simulator.md). Energy is GPU energy. Columns: what is published, the engine of the paper's time or today's (profiles "
    "h100-llama2-70b-vllm2023 and h100-llama2-70b-vllm), and what a GPU of SinglePool's servers counts that is released, 0 "
    "or 75 W. SLO rule `att`: 99 % of the requests keep their own TTFT and mean TBT. Class boundaries 256/1024 and 100/350 "
    "tokens; output classes predicted right in 81 % of the cases; overheads as measured today."
)

HOUR_ENERGY: Final = {
    "SinglePool": "—",
    "MultiPool": "+20 %",
    "ScaleInst": "−2…−4 %",
    "ScaleShard": "−6…−7 %",
    "ScaleFreq": "−19 %",
    "DynamoLLM": "−35 %",
    "SinglePoolElastic": "not in the paper",
    "Joint": "not in the paper",
    "Clairvoyant": "not in the paper",
}
LOADS: Final = (("low", 0.3, "−57 %"), ("medium", 0.6, "−42 %"), ("high", 1.0, "−15 %"))
"""Level, its share of the load that SinglePool is sized for, the paper's saving."""
WEEK: Final = (
    ("requests_conv", "conversation", "−47 %"),
    ("requests_code", "code", "−56 %"),
)
WEEK_RUNS: Final = (
    ("SinglePool", "fcfs"),
    ("DynamoLLM", "fcfs"),
    ("DynamoLLM", "edf"),
    ("SinglePoolElastic", "fcfs"),
    ("SinglePoolElastic", "edf"),
    ("Joint", "fcfs"),
    ("Joint", "edf"),
    ("Clairvoyant", "fcfs"),
    ("Clairvoyant", "edf"),
)
"""Policy and order of service."""


@dataclass(frozen=True)
class Asked:
    """What the document is made of: runs by name."""

    hour: Mapping[tuple[str, str, str], Task]
    """(profile, policy, order)."""
    levels: Mapping[tuple[str, str], Task]
    """(profile, level), of DynamoLLM."""
    week: Mapping[tuple[str, str, str, str], Task]
    """(profile, column, policy, order)."""

    @property
    def tasks(self) -> list[Task]:
        """All of them."""
        return [*self.hour.values(), *self.levels.values(), *self.week.values()]


Answers = Mapping[str, Mapping[str, Any]]
"""Key of a task → its result."""


def asked(arguments: argparse.Namespace, sizes: Mapping[str, int]) -> Asked:
    """Return the runs; ``sizes``: servers that SinglePool takes for the hour, by profile."""
    policies = [*known_policies("all"), "Clairvoyant"]
    hour, levels, week = {}, {}, {}
    for profile in PROFILES:
        base = Question(
            trace=str(arguments.data / "AzureLLMInferenceTrace_conv.csv"),
            profile=profile,
            scale=arguments.scale,
            prices=CARBON,
        )
        for policy in policies:
            for order in ("fcfs", "edf") if policy in arguments.edf else ("fcfs",):
                hour[profile, policy, order] = Task(base, policy, order, {})
        for level, share, _ in LOADS:
            question = replace(base, scale=arguments.scale * share, servers=sizes[profile])
            levels[profile, level] = Task(question, "DynamoLLM", "fcfs", {})
            levels[profile, f"{level} SinglePool"] = Task(question, "SinglePool", "fcfs", {})
        if arguments.week_scale > 0:
            for column, _, _ in WEEK:
                name = f"{arguments.data / 'azure2024_week_hourly.csv'}:{column}"
                question = replace(base, trace=name, scale=arguments.week_scale)
                for policy, order in WEEK_RUNS:
                    week[profile, column, policy, order] = Task(question, policy, order, {})
    return Asked(hour, levels, week)


# ------------------------------------------------------------------ figures
def energy(result: Mapping[str, Any], watts: float) -> float:
    """Return kWh with released GPUs of SinglePool's servers at these watts."""
    return float(result["held_energy_kwh"] + watts / 1e3 * result["released_gpu_hours"])


def change(now: float, before: float) -> str:
    """Return a relative change for people."""
    percent = 100 * (now / before - 1)
    return f"{'+' if percent >= 0 else '−'}{abs(percent):.0f} %"


def missed(result: Mapping[str, Any]) -> str:
    """Return a mark where the SLO was missed."""
    return "" if result["meets_slo"] else f" (SLO missed: {100 * result['slo_attainment']['total']:.2f} %)"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    line = "| " + " | ".join(header) + " |"
    return [line, "|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rows), ""]


COLUMN_NAMES: Final = tuple(f"{ENGINES[profile]}, {watts:.0f} W" for profile, watts in COLUMNS)


def hour_energy(runs: Asked, answers: Answers) -> list[str]:
    """Return the table of the hour: every policy against SinglePool."""
    rows = []
    lines = sorted(
        {(policy, order) for _, policy, order in runs.hour}, key=lambda one: (_place(one[0]), one[1] != "fcfs")
    )
    for policy, order in lines:
        cells = []
        for profile, watts in COLUMNS:
            base = answers[runs.hour[profile, "SinglePool", "fcfs"].key]
            task = runs.hour.get((profile, policy, order))
            result = answers.get(task.key) if task else None
            cells.append(
                "not run" if result is None else change(energy(result, watts), energy(base, watts)) + missed(result)
            )
        paper = HOUR_ENERGY[policy] if order == "fcfs" else "not in the paper"
        rows.append((f"{policy} {order}", paper, *cells))
    return table(("GPU energy, 1 h, vs SinglePool fcfs", PUBLISHED, *COLUMN_NAMES), rows)


def _place(policy: str) -> int:
    return (*ALL, "Clairvoyant").index(policy)


def hour_latency(runs: Asked, answers: Answers) -> list[str]:
    """Return the table of latencies and power of DynamoLLM against SinglePool."""
    figures: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("P50 TTFT", "+11.4 %", lambda one: float(one["all_classes_ms"]["ttft"]["p50"])),
        ("P99 TTFT", "−5.3 %", lambda one: float(one["all_classes_ms"]["ttft"]["p99"])),
        ("P50 TBT", "+7.6 %", lambda one: float(one["all_classes_ms"]["tbt"]["p50"])),
        ("P99 TBT", "−11 %", lambda one: float(one["all_classes_ms"]["tbt"]["p99"])),
        ("P50 power", "−43 %", lambda one: float(one["power_w"]["p50"])),
        ("P99 power", "−9 %", lambda one: float(one["power_w"]["p99"])),
    )
    rows = []
    for name, paper, value in figures:
        cells = []
        for profile in PROFILES:
            base = answers[runs.hour[profile, "SinglePool", "fcfs"].key]
            result = answers.get(runs.hour[profile, "DynamoLLM", "fcfs"].key)
            cells.append("not run" if result is None else change(value(result), value(base)))
        rows.append((name, paper, *cells))
    return table(("DynamoLLM, 1 h, vs SinglePool fcfs", PUBLISHED, *ENGINES.values()), rows)


def load_levels(runs: Asked, answers: Answers) -> list[str]:
    """Return the table of savings by load level on the cluster that SinglePool needs for the whole load."""
    rows = []
    for level, share, paper in LOADS:
        cells = []
        for profile, watts in COLUMNS:
            result = answers.get(runs.levels[profile, level].key)
            base = answers.get(runs.levels[profile, f"{level} SinglePool"].key)
            known = result is not None and base is not None
            cells.append(change(energy(result, watts), energy(base, watts)) + missed(result) if known else "not run")
        rows.append((f"{level} ({100 * share:.0f} % of the load)", paper, *cells))
    return table(("DynamoLLM by load, vs SinglePool of the same size", PUBLISHED, *COLUMN_NAMES), rows)


def weeks(runs: Asked, answers: Answers) -> list[str]:
    """Return the tables of the weeks."""
    lines: list[str] = []
    for column, service, paper in WEEK:
        # SinglePool alone compares with nothing.
        if not any(
            task.key in answers for key, task in runs.week.items() if key[1] == column and key[2] != "SinglePool"
        ):
            continue
        rows = []
        for policy, order in WEEK_RUNS:
            cells = []
            for profile, watts in COLUMNS:
                base = answers.get(runs.week[profile, column, "SinglePool", "fcfs"].key)
                result = answers.get(runs.week[profile, column, policy, order].key)
                known = result is not None and base is not None
                cells.append(
                    change(energy(result, watts), energy(base, watts)) + missed(result) if known else "not run"
                )
            figure = {("SinglePool", "fcfs"): "—", ("DynamoLLM", "fcfs"): paper}.get(
                (policy, order), "not in the paper"
            )
            rows.append((f"{policy} {order}", figure, *cells))
        lines += table((f"GPU energy, week of {service}, vs SinglePool fcfs", PUBLISHED, *COLUMN_NAMES), rows)
    rows = []
    figures: tuple[tuple[str, str, str, int], ...] = (
        ("mean servers (abstract's cost)", "40 → 24.6 (61.5 % remain)", "servers", 1),
        ("carbon, kg", "−38 %", "carbon_kg", 0),
        ("electricity and GPUs, USD", "not in the paper", "cost_usd", 0),
    )
    for name, was, field, digits in figures:
        cells = []
        for profile in PROFILES:
            base = answers.get(runs.week[profile, "requests_conv", "SinglePool", "fcfs"].key)
            result = answers.get(runs.week[profile, "requests_conv", "DynamoLLM", "fcfs"].key)
            if result is None or base is None:
                cells.append("not run")
            else:
                both = " → ".join(f"{one[field]:,.{digits}f}" for one in (base, result))
                cells.append(f"{both} ({100 * result[field] / base[field]:.0f} % remain)")
        rows.append((name, was, *cells))
    return [*lines, *table(("DynamoLLM, week of conversation", PUBLISHED, *ENGINES.values()), rows)]


def document(runs: Asked, answers: Answers, arguments: argparse.Namespace, sizes: Mapping[str, int]) -> str:
    """Return the whole page."""
    size = ", ".join(f"{sizes[profile]} ({engine})" for profile, engine in ENGINES.items())
    lines = [
        "# The paper's figures beside ours",
        "",
        ABOUT.format(scale=arguments.scale, week_scale=arguments.week_scale),
        "",
        f"The hour: Azure conversations of 2023-11-16, rate × {arguments.scale:g}; SinglePool takes {size} servers.",
        "",
        *hour_energy(runs, answers),
        *hour_latency(runs, answers),
        *load_levels(runs, answers),
        *(weeks(runs, answers) if runs.week else []),
        NOTES.read_text(encoding="utf-8").rstrip(),
        "",
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------ the command
def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "../shared/data/traces", help="folder of the traces")
    parser.add_argument("--scale", type=float, default=12.0, help="times the rate of the hour")
    parser.add_argument("--week-scale", type=float, default=0.1, help="times the rate of the weeks; 0: no weeks")
    parser.add_argument(
        "--edf", nargs="*", default=["SinglePool", "DynamoLLM", "SinglePoolElastic", "Joint", "Clairvoyant"]
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build/paper", help="where answers are kept")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/paper-comparison.md")
    parser.add_argument("--only-kept", action="store_true", help="run nothing: make the page of the answers there are")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, and write the page."""
    arguments = options()
    campaign = Campaign(jobs=arguments.jobs, folder=arguments.folder)
    console = Console(stderr=True)
    answers: dict[str, Mapping[str, Any]] = {}
    sizes: dict[str, int] = {}
    try:
        first = [
            task for key, task in asked(arguments, dict.fromkeys(PROFILES, 1)).hour.items() if key[1] == "SinglePool"
        ]
        with Progress(console=console) as progress:
            bar = progress.add_task("SinglePool", total=None)
            for index, one in campaign.answers(first):
                answers[first[index].key] = one["result"]
                sizes[first[index].question.profile] = one["single_pool_servers"]
            runs = asked(arguments, sizes)
            wanted = [task for task in runs.tasks if not arguments.only_kept or campaign.has(task)]
            progress.update(bar, description="simulating", total=len(wanted))
            for index, one in campaign.answers(wanted):
                answers[wanted[index].key] = one["result"]
                progress.advance(bar)
    except DynamoLLMError as error:
        sys.exit(f"paper_comparison: {error}")
    arguments.out.write_text(document(runs, answers, arguments, sizes), encoding="utf-8")
    console.print(f"{arguments.out}: written from {len(answers)} runs")


if __name__ == "__main__":
    main()
