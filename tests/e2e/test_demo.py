"""`make demo` as a user runs it: the whole product on a real control plane, and what is left when it is cut short."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.paths import REPOSITORY, state_dir

pytestmark = pytest.mark.integration

NAME = f"demo-{os.getpid()}"
DEMO = [sys.executable, "-m", "lab.demo"]


def environment(**settings: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY / "hack"), "NAME": NAME} | settings


def test_every_stream_is_served_and_the_clocks_follow_the_load(tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    result = subprocess.run(
        DEMO,
        env=environment(SPEED="4", DURATION="240", DEMO_OUT=str(out)),
        text=True,
        capture_output=True,
        timeout=800,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(out.read_text())
    assert summary["requests"] > 500
    assert summary["failed"] == 0
    assert 0 < summary["energy_wh"] < summary["energy_wh_single_pool"]
    assert summary["clock_changes"] > 0
    # What the operator reports comes from the router by way of Prometheus: it has seen the same streams succeed.
    assert summary["slo_attainment_in_status"] > 0.5
    assert sum(one["requests"] for one in summary["classes"].values()) == summary["requests"]
    assert "Summary" in result.stdout
    assert not state_dir(NAME).exists()


@pytest.mark.parametrize(
    "shown", ["starting cluster", "are installed"], ids=["while it starts", "once it is installed"]
)
def test_ctrl_c_leaves_nothing_running(shown: str) -> None:
    with subprocess.Popen(
        DEMO, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        try:
            for line in demo.stdout:
                if shown in line:
                    break
            # As a terminal does it: to the whole foreground group.
            os.killpg(demo.pid, signal.SIGINT)
            rest = demo.stdout.read()
            assert demo.wait(timeout=300) == 130, rest
        finally:
            demo.kill()
    assert rest.strip().splitlines()[-1] == "demo: interrupted, everything it started has been stopped"
    assert "Traceback" not in rest
    assert not state_dir(NAME).exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SPEED": "0"}, "demo: SPEED is '0': give a number from 1 to 30"),
        ({"TRACE": "/nowhere"}, "demo: TRACE is /nowhere"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, str], told: str) -> None:
    result = subprocess.run(DEMO, env=environment(**settings), text=True, capture_output=True, timeout=300, check=False)
    assert result.returncode == 1
    assert result.stdout.startswith(told)
    assert len(result.stdout.strip().splitlines()) == 1
    assert result.stderr == ""
