"""What `dynamollm simulate` says around its results."""

from typing import Any

import pytest

from dynamollm.cli.simulate import command
from dynamollm.cli.simulate_run import _orders, report_about, title
from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator.experiment import Question
from dynamollm.simulator.shipped import open_profile

QUESTION = Question(trace="/somewhere/hour.csv")


def sized(*servers: int) -> list[dict[str, Any]]:
    return [{"single_pool_servers": one} for one in servers]


@pytest.mark.parametrize(("servers", "words"), [((1, 1), "1 server"), ((4,), "4 servers"), ((4, 1, 4), "1, 4 servers")])
def test_one_server_is_no_plural(servers: tuple[int, ...], words: str) -> None:
    assert title(QUESTION, sized(*servers)).endswith(f"SinglePool: {words}")
    assert f"released GPUs of SinglePool's {words} draw 0 W" in report_about(QUESTION, sized(*servers))


def test_names_of_the_api_are_read_as_well_as_the_short_ones() -> None:
    assert _orders("EDF, firstComeFirstServed") == ["edf", "fcfs"]
    with command.make_context("simulate", ["--trace", "hour.csv", "--slo-rule", "perRequest"]) as context:
        assert context.params["slo_rule"] == "att"
    with pytest.raises(InvalidInputError, match="--order 'fcf': did you mean fcfs\\? Use one of fcfs, edf"):
        _orders("fcf")


def test_a_profile_that_is_no_file_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidInputError) as refused:
        open_profile("modrn")
    assert (
        str(refused.value) == "profile 'modrn': did you mean modern? Use one of modern, paper, or a file that is there"
    )
    with pytest.raises(InvalidInputError, match="No such file"):
        open_profile("modrn.yaml")
