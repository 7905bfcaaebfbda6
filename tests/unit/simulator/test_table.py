"""The table of results: what figures are relative to, and what 80 columns hold."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dynamollm.simulator.experiment import ALL
from dynamollm.simulator.table import table_of


def answer(**result: Any) -> dict[str, Any]:
    return {
        "settings": {},
        "result": {
            "policy": "SinglePoolElastic",
            "order": "fcfs",
            "energy_kwh": 12.34,
            "servers": 3.2,
            "cost_usd": 64.0,
            "carbon_kg": 3.1,
            "failed": 246,
            "reconfigurations": 12345,
            "meets_slo": True,
            "slo_attainment": {"total": 0.9968, "within_five": 0.9812},
            "worst_percentile": None,
            **result,
        },
    }


def shown(rule: str, *, width: int = 200, **result: Any) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table_of([answer(**result)], title="hour.csv", rule=rule))
    return text.getvalue()


GAP = {"class": "MM", "latency": "token_gap", "percentile": 99.0, "ms": 131.2, "limit_ms": 100.0}


@pytest.mark.parametrize(
    ("rule", "result", "words"),
    [
        ("att", {}, "99.68 %"),
        ("att", {"meets_slo": False}, "99.68 % MISSED"),
        ("x5", {"meets_slo": False}, "98.12 % MISSED"),
        ("p99", {"meets_slo": False, "worst_percentile": GAP}, "MM gap P99 131 of 100 ms MISSED"),
        ("p99", {"worst_percentile": {**GAP, "latency": "ttft", "ms": 84.6}}, "MM TTFT P99 85 of 100 ms"),
        ("p99", {"meets_slo": False, "worst_percentile": {**GAP, "ms": None}}, "MM gap P99: too many failed MISSED"),
        ("p99", {}, "no requests"),
    ],
)
def test_the_table_shows_the_figure_that_the_rule_looks_at(rule: str, result: dict[str, Any], words: str) -> None:
    assert words in shown(rule, **result)


def test_no_figure_is_cut_in_eighty_columns() -> None:
    text = shown("p99", width=80, meets_slo=False, worst_percentile=GAP)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for figure in ("12.34", "3.2", "64.00", "3.10", "246", "12345", "131", "100", "MISSED", "failed", "changes"):
        assert figure in text


# ------------------------------------------------------------------ names and figures
def of(
    policy: str, *, order: str = "fcfs", energy_kwh: float = 10.0, meets: bool = True, **settings: Any
) -> dict[str, Any]:
    one = answer(policy=policy, order=order, energy_kwh=energy_kwh, meets_slo=meets)
    return {**one, "settings": settings}


def lines(*answers: dict[str, Any], width: int = 80) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(table_of(answers, title="hour.csv", rule="att"))
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("rule", ["att", "x5"])
def test_names_are_whole_in_eighty_columns(rule: str) -> None:
    big = {"energy_kwh": 12345.67, "cost_usd": 98765.43, "carbon_kg": 3086.4, "servers": 123.4, "failed": 123456}
    answers = [
        {"settings": {}, "result": answer(policy=policy, order=order, **big)["result"]}
        for policy in (*ALL, "Clairvoyant")
        for order in ("fcfs", "edf")
    ]
    text = io.StringIO()
    Console(file=text, width=80).print(table_of(answers, title="hour.csv", rule=rule))
    found = text.getvalue().splitlines()
    assert all(len(line) <= 80 for line in found)
    for one in answers:
        name = f"{one['result']['policy']} {one['result']['order']} "
        (line,) = (line for line in found if line.startswith(name))
        for figure in ("12346", "98765", "3086", "123.4", "123456"):
            assert figure in line.split()


def test_what_is_swept_is_on_lines_of_its_own() -> None:
    found = lines(of("Joint", **{"released-watts": 75.0, "profile": "/a/folder/with/a/very/long/name/own.yaml"}))
    start = next(number for number, line in enumerate(found) if line.startswith("Joint fcfs "))
    end = next(number for number, line in enumerate(found) if line.startswith("rel.: "))
    name = "".join(line[:22].strip() for line in found[start + 1 : end])
    assert name.replace(" ", "") == "released-watts75.0profile/a/folder/with/a/very/long/name/own.yaml"
    assert all(len(line) <= 80 for line in found)


@pytest.mark.parametrize(
    ("answers", "legend", "shares"),
    [
        (
            [of("Joint", energy_kwh=5.0), of("SinglePool", energy_kwh=10.0)],
            "rel.: energy over that of SinglePool fcfs",
            ["0.50", "1.00"],
        ),
        (
            [of("SinglePool", meets=False), of("Joint", energy_kwh=5.0)],
            "rel.: energy over that of SinglePool fcfs, which misses the SLO",
            ["1.00", "0.50"],
        ),
        (
            [of("Joint"), of("DynamoLLM", energy_kwh=12.0)],
            "rel.: energy over that of Joint fcfs, the first line, as SinglePool is not among these",
            ["1.00", "1.20"],
        ),
        (
            [of("Joint", accuracy=0.5), of("Joint", energy_kwh=8.0, accuracy=1.0)],
            "rel.: energy over that of Joint fcfs, accuracy 0.5, the first line, as SinglePool is not among these",
            ["1.00", "0.80"],
        ),
        (
            [
                of("Joint", energy_kwh=5.0, load=1.0),
                of("SinglePool", load=1.0),
                of("Joint", energy_kwh=5.0, load=2.0),
                of("SinglePool", energy_kwh=20.0, load=2.0, meets=False),
            ],
            "rel.: energy over that of SinglePool fcfs in the same settings, which misses the SLO in some",
            ["0.50", "1.00", "0.25", "1.00"],
        ),
    ],
)
def test_what_energies_are_relative_to_is_said(answers: list[dict[str, Any]], legend: str, shares: list[str]) -> None:
    found = lines(*answers)
    assert " ".join(found).endswith(legend)
    assert [line.split()[3] for line in found if re.match(r"\w+ fcfs +\d", line)] == shares


def test_a_swept_rule_is_judged_by_itself() -> None:
    found = lines(of("Joint", **{"slo-rule": "x5"}))
    assert any("98.12 %" in line for line in found)
