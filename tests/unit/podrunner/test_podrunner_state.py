import signal
from typing import Any

import pytest

from lab.podrunner.state import ContainerState

SPEC = {"name": "main", "image": "dynamollm/dynamollm:0.1.0"}


def status(state: ContainerState) -> dict[str, Any]:
    return state.as_status(SPEC)


def test_before_its_first_process() -> None:
    assert status(ContainerState()) == {
        **SPEC,
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}},
        "lastState": {},
    }


def test_a_running_container() -> None:
    state = ContainerState(message="not found")
    state.begin(started=True, ready=False)
    found = status(state)
    assert found["state"] == {"running": {"startedAt": state.started_at}}
    assert (found["started"], found["ready"], state.ended) == (True, False, False)


@pytest.mark.parametrize(
    ("code", "reported", "reason"),
    [(0, 0, "Completed"), (3, 3, "Error"), (-signal.SIGKILL, 137, "Error"), (-signal.SIGTERM, 143, "Error")],
)
def test_an_end(code: int, reported: int, reason: str) -> None:
    state = ContainerState()
    state.begin(started=True, ready=True)
    state.end(code)
    found = status(state)
    end = found["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (reported, reason)
    assert (found["ready"], found["started"], state.ended) == (False, False, True)


def test_another_start_remembers_the_last_end() -> None:
    state = ContainerState()
    state.begin(started=True, ready=True)
    state.end(4)
    state.again("CrashLoopBackOff", "back-off 10s")
    found = status(state)
    assert found["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert (found["lastState"]["terminated"]["exitCode"], found["restartCount"], state.ended) == (4, 1, False)
    state.begin(started=True, ready=True)
    assert status(state)["lastState"]["terminated"]["exitCode"] == 4


def test_a_process_that_could_not_be_started() -> None:
    state = ContainerState()
    state.end(128, reason="StartError", message="/none: no such file")
    end = status(state)["state"]["terminated"]
    assert (end["exitCode"], end["reason"], end["message"]) == (128, "StartError", "/none: no such file")
    assert not state.begun
    assert state.ended
