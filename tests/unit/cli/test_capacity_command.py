"""`dynamollm capacity`: rows that the performance model gives, and refusals."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from unit.cli.command_world import CHAT, LOAD, PROFILE, Command

FCFS, EDF = "FirstComeFirstServed", "EarliestDeadlineFirst"


@pytest.fixture
def capacity(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command("capacity", tmp_path, capsys, monkeypatch)


def question(capacity: Command, *more: str, load: str = LOAD) -> tuple[str, ...]:
    return ("-f", str(CHAT), "-f", str(PROFILE), "--load", capacity.file("load.yaml", load), *more)


def rows(capacity: Command, *more: str, load: str = LOAD) -> list[dict[str, Any]]:
    order = () if "--order" in more else ("--order", FCFS)
    found: list[dict[str, Any]] = capacity.json(*question(capacity, *order, *more, load=load))["instances"]
    return found


def test_every_degree_of_the_service_from_the_lowest_clock_to_the_highest(capacity: Command) -> None:
    found = rows(capacity)
    assert sorted({row["tensorParallel"] for row in found}) == [2, 4, 8]
    for degree in (2, 4, 8):
        clocks = [row["clockMHz"] for row in found if row["tensorParallel"] == degree]
        assert len(clocks) == 8
        assert clocks == sorted(clocks)
        assert clocks[-1] == 1980


def test_more_clock_and_more_gpus_carry_more_and_draw_more(capacity: Command) -> None:
    found = rows(capacity)
    for key in ("ratePerSecond", "powerWatts"):
        for degree in (2, 4, 8):
            values = [row[key] for row in found if row["tensorParallel"] == degree]
            assert all(low <= high * 1.001 for low, high in pairwise(values))
        top = [row[key] for row in found if row["clockMHz"] == 1980]
        assert top == sorted(top)
    assert all(row["halfRatePowerWatts"] < row["powerWatts"] for row in found if row["ratePerSecond"])


def test_what_is_asked_for_twice_is_answered_once(capacity: Command) -> None:
    twice = ("--tensor-parallel", "4", "--tensor-parallel", "4", "--clock", "1980", "--clock", "1980")
    assert len(rows(capacity, "--order", FCFS, "--order", "fcfs", *twice)) == 1


def test_the_total_of_the_load_does_not_matter(capacity: Command) -> None:
    more = ("--tensor-parallel", "8", "--clock", "1980")
    tenfold = LOAD.replace("2.0,", "20.0,").replace("3.0,", "30.0,").replace("2.5,", "25.0,")
    assert rows(capacity, *more) == rows(capacity, *more, load=tenfold)


def test_short_prompts_that_overtake_let_an_instance_carry_more(capacity: Command) -> None:
    both = capacity.json(*question(capacity, "--tensor-parallel", "4", "--clock", "1980"))["instances"]
    assert [row["order"] for row in both] == [FCFS, EDF]
    assert both[1]["ratePerSecond"] > both[0]["ratePerSecond"]


def test_where_nothing_is_carried_no_energy_is_made_up(capacity: Command) -> None:
    # 8,000 tokens take longer than this even alone.
    manifest = CHAT.read_text().replace("long: 2000", "long: 5")
    long_prompts = "LL: {rate_per_s: 1, input_tokens: 8000, output_tokens: 400}"
    answer = capacity.json(
        *("-f", capacity.file("strict.yaml", manifest), "-f", str(PROFILE)),
        *(
            "--load",
            capacity.file("load.yaml", long_prompts),
            "--tensor-parallel",
            "2",
            "--clock",
            "1980",
            "--order",
            FCFS,
        ),
    )
    (row,) = answer["instances"]
    assert (row["ratePerSecond"], row["joulesPerRequest"]) == (0.0, None)


def test_the_table_marks_the_least_energy_per_request(capacity: Command) -> None:
    found = rows(capacity)
    best = min(found, key=lambda row: float(row["joulesPerRequest"]))
    code, out, err = capacity.run(*question(capacity, "--order", FCFS))
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if " * │" in line)
    assert f"{best['clockMHz']}" in line
    assert f"{best['joulesPerRequest']:.0f} *" in line


def test_orders_have_the_simulators_short_names_too(capacity: Command) -> None:
    asked = ("--tensor-parallel", "8", "--clock", "1980")
    assert rows(capacity, "--order", "EDF", *asked) == rows(capacity, "--order", EDF, *asked)


def test_each_order_of_service_has_its_own_least(capacity: Command) -> None:
    found = capacity.json(*question(capacity))["instances"]
    least = [min(r["joulesPerRequest"] for r in found if r["order"] == order) for order in (FCFS, EDF)]
    assert least[0] != least[1]
    code, out, err = capacity.run(*question(capacity))
    assert (code, err) == (0, "")
    marked = [line for line in out.splitlines() if " * │" in line]
    assert [f"{joules:.0f} *" in line for joules, line in zip(least, marked, strict=True)] == [True, True]
    assert "* least energy per request in this order of service" in out


REFUSALS = [
    (
        ("--order", "earliestdeadlinfirst"),
        LOAD,
        "'--order': 'earliestdeadlinfirst': did you mean EarliestDeadlineFirst?",
    ),
    (
        ("--tensor-parallel", "3"),
        LOAD,
        "--tensor-parallel is 3, and PerformanceProfile h100-llama2-70b-vllm holds for 2, 4, 8",
    ),
    (("--clock", "1000"), LOAD, "--clock is 1000, and PerformanceProfile h100-llama2-70b-vllm holds for"),
    ((), "SX: {rate_per_s: 1}", "SX is no request class"),
    ((), "LL: {rate_per_s: 1, input_tokens: 9000, output_tokens: 400}", "was measured up to 8192"),
]


@pytest.mark.parametrize(("more", "load", "words"), REFUSALS, ids=lambda value: str(value)[:30])
def test_refusals(capacity: Command, more: tuple[str, ...], load: str, words: str) -> None:
    assert words in capacity.complaint(*question(capacity, *more, load=load))
