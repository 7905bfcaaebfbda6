"""The work of ``dynamollm simulate``: options to questions, answers to the terminal and the report."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dynamollm.adapters.manifests import PROFILES, read_one, spec_of
from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import ORDERS, known_name
from dynamollm.core.prices import unpriced
from dynamollm.core.words import counted
from dynamollm.simulator.campaign import Campaign, Task, tasks
from dynamollm.simulator.clairvoyant import NAME as CLAIRVOYANT
from dynamollm.simulator.compiled import when_compiling
from dynamollm.simulator.experiment import ALL, Question, known_orders, known_policies, slo_of
from dynamollm.simulator.report import report_html
from dynamollm.simulator.table import table_of

DEFAULT_PRICES: Final = ClusterPolicySpec.model_validate(
    {
        "gpuPriceMicroUSDPerHour": 2_500_000,
        "electricityPriceMicroUSDPerKWh": 100_000,
        "carbonIntensityGramsPerKWh": 250,
    }
)
"""Assumed where nothing is said: 2.50 USD per GPU and hour, 0.10 USD and 250 g CO2 equivalent per kWh."""

COMPILING: Final = "compiling the simulator, once: about half a minute"
"""On stderr, so that nobody takes the first run for one that hangs."""

_PASSED: Final = ("slo_rule", "scale", "seed", "accuracy", "overheads", "pools", "emergency")


def run(
    *,
    trace: str,
    profile: str,
    service: Path | None,
    policy: str,
    order: str,
    servers: str,
    released_watts: float,
    startup_seconds: float | None,
    idle_watts: float | None,
    prices: Path | None,
    sweep: tuple[str, ...],
    jobs: int,
    scheduler: str | None,
    resume: Path | None,
    report: Path | None,
    output: str,
    **rest: Any,
) -> int:
    """Simulate what the options ask for, and print it; return the exit code."""
    question = Question(
        # Whole paths: other processes, and other machines, may be in other folders.
        trace=str(Path(trace).absolute()),
        profile=profile if profile in PROFILES else str(Path(profile).absolute()),
        service=service and service.absolute(),
        servers=_servers(servers),
        released_w=released_watts,
        startup_s=startup_seconds,
        loaded_idle_w=idle_watts,
        prices=DEFAULT_PRICES if prices is None else spec_of(ClusterPolicySpec, read_one(prices, "ClusterPolicy")),
        **{name: rest[name] for name in _PASSED},
    )
    wanted = tasks(question, _policies(policy), _orders(order), sweep)
    if report is not None and not report.parent.is_dir():
        raise InvalidInputError(f"--report {report}: there is no folder {report.parent}")
    answers = _answers(wanted, Campaign(jobs=jobs, scheduler=scheduler, folder=resume))
    if report is not None:
        name = f"{Path(question.trace).name} × {question.scale:g}"
        page = report_html(answers, title=name, about=report_about(question, answers), slo=slo_of(question))
        report.write_text(page, encoding="utf-8")
    if output == "json":
        sys.stdout.buffer.write(orjson.dumps(document(question, answers), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        table = table_of(
            answers, title=title(question, answers), rule=question.slo_rule, note=_unknown_prices(question.prices)
        )
        Console().print(table)
    return 0


def document(question: Question, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the whole answer as JSON has it."""
    return {
        "trace": Path(question.trace).name,
        "profile": question.profile,
        "slo_rule": question.slo_rule,
        "scale": question.scale,
        "seed": question.seed,
        "accuracy": question.accuracy,
        "overheads": question.overheads,
        "released_watts": question.released_w,
        "cost_without": [what for what, _, _ in unpriced(question.prices)],
        "results": [
            {
                **one["result"],
                "single_pool_servers": one["single_pool_servers"],
                **({"settings": one["settings"]} if one["settings"] else {}),
            }
            for one in answers
        ],
    }


def _answers(wanted: Sequence[Task], campaign: Campaign) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        whole = progress.add_task("simulating", total=float(len(wanted)))

        def tell(done: float) -> None:
            progress.update(whole, completed=done)

        @cache
        def compiling() -> None:
            progress.console.print(COMPILING, highlight=False, soft_wrap=True)

        with when_compiling(compiling):
            for index, one in campaign.answers(wanted, tell=tell, compiling=compiling):
                found[index] = one
                task = wanted[index]
                tell(max(float(len(found)), progress.tasks[0].completed))
                progress.update(whole, description=f"{task.policy} {task.order} done")
    return [found[index] for index in range(len(wanted))]


def title(question: Question, answers: Sequence[dict[str, Any]]) -> str:
    """Return what is above the table."""
    return (
        f"{Path(question.trace).name} × {question.scale:g}, profile {question.profile}, SLO rule {question.slo_rule}, "
        f"SinglePool: {_single_pool_servers(answers)}"
    )


def _single_pool_servers(answers: Sequence[dict[str, Any]]) -> str:
    *others, largest = sorted({one["single_pool_servers"] for one in answers})
    return "".join(f"{size}, " for size in others) + counted(largest, "server")


def _unknown_prices(prices: ClusterPolicySpec) -> str:
    """Return what the cost leaves out, in a sentence; empty: nothing."""
    unknown = [(what, field) for what, field, _ in unpriced(prices)]
    return " ".join(f"The cost leaves {what} out: {field} is not set in --prices." for what, field in unknown)


def report_about(question: Question, answers: Sequence[dict[str, Any]]) -> str:
    """Return what the report says below its title: what was asked."""
    return (
        f"Profile {question.profile}; SLO rule {question.slo_rule} at {slo_of(question).percentile:g} %; output classes "
        f"predicted right in {100 * question.accuracy:g} % of the cases; overheads {question.overheads}; released GPUs of "
        f"SinglePool's {_single_pool_servers(answers)} draw {question.released_w:g} W; seed {question.seed}. "
        + _unknown_prices(question.prices)
    )


def _policies(text: str) -> list[str]:
    known = ("all", *ALL, CLAIRVOYANT)
    return known_policies(",".join(known_name(name, known, field="--policy") for name in text.split(",")))


def _orders(text: str) -> list[str]:
    long = {order.casefold(): short for short, order in ORDERS.items()}
    names = (long.get(name.strip().casefold(), name) for name in text.split(","))
    return known_orders(",".join(known_name(name, ORDERS, field="--order") for name in names))


def _servers(text: str) -> int | None:
    if text.casefold() == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise InvalidInputError(f"--servers {text}: give auto, or a number of 1 or more")
    return int(text)
