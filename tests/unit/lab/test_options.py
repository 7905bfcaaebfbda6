from typing import Any

import pytest

from dynamollm.core.errors import InvalidInputError
from lab.options import LocalClusterOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Demo"}, "cluster name 'Demo': give 1 to 20 lower-case letters"),
        ({"name": "../x"}, "cluster name '../x'"),
        ({"name": "a" * 21}, "cluster name"),
        ({"name": ""}, "cluster name ''"),
        ({"nodes": 0}, "0 nodes: give 1 to 100"),
        ({"nodes": 101}, "101 nodes"),
        ({"gpus_per_node": 17}, "17 GPUs on a node: give 0 to 16"),
        ({"gpus_per_node": -1}, "-1 GPUs on a node"),
        ({"time_scale": 0.0}, "time scale 0.0: give a number above 0"),
        ({"time_scale": float("nan")}, "time scale nan"),
        ({"scrape_interval_s": 0.05}, "scrape interval 0.05 s: give at least 0.1"),
    ],
)
def test_what_could_not_work_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        LocalClusterOptions(**options)


def test_sockets_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + "long/" * 4)
    LocalClusterOptions(name="a")
    with pytest.raises(InvalidInputError, match=r"too long for a Unix socket .* give a shorter name"):
        LocalClusterOptions(name="a" * 20)
