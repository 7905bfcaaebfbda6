"""What `dynamollm simulate` says around its results."""

from typing import Any

import pytest

from dynamollm.cli.simulate_run import report_about, title
from dynamollm.simulator.experiment import Question

QUESTION = Question(trace="/somewhere/hour.csv")


def sized(*servers: int) -> list[dict[str, Any]]:
    return [{"single_pool_servers": one} for one in servers]


@pytest.mark.parametrize(("servers", "words"), [((1, 1), "1 server"), ((4,), "4 servers"), ((4, 1, 4), "1, 4 servers")])
def test_one_server_is_no_plural(servers: tuple[int, ...], words: str) -> None:
    assert title(QUESTION, sized(*servers)).endswith(f"SinglePool: {words}")
    assert f"released GPUs of SinglePool's {words} draw 0 W" in report_about(QUESTION, sized(*servers))
