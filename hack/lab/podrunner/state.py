"""What a pod's status says of a container."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(slots=True)
class ContainerState:
    """One container from its pod's binding on."""

    waiting: str | None = "ContainerCreating"
    """Why no process runs yet, or again; None while one runs and once none is coming."""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    exit_code: int | None = None
    reason: str = ""
    """Of the end, where the exit code does not tell."""
    begun: bool = False
    """Whether a process has ever been started."""
    started: bool = False
    ready: bool = False
    restarts: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the process has ended and none is coming."""
        return self.finished_at is not None and self.waiting is None

    def begin(self, *, started: bool, ready: bool) -> None:
        """A process runs."""
        self.waiting, self.message, self.reason = None, "", ""
        self.started_at, self.finished_at, self.exit_code = now(), None, None
        self.begun, self.started, self.ready = True, started, ready

    def end(self, code: int, *, reason: str = "", message: str = "") -> None:
        """The process has ended, with a code as ``subprocess`` has it, or could not be started."""
        # A process that a signal ended has the shell's exit code, as container runtimes report it.
        self.exit_code = code if code >= 0 else 128 - code
        self.started_at = self.started_at if self.begun and self.finished_at is None else now()
        self.finished_at = now()
        self.reason, self.message = reason, message
        self.ready = self.started = False
        self.waiting = None

    def again(self, waiting: str, message: str) -> None:
        """Another process is coming."""
        self.last = self.terminated()
        self.restarts += 1
        self.waiting, self.message = waiting, message

    def terminated(self) -> dict[str, Any]:
        """Return the state of an ended process."""
        return {
            "exitCode": self.exit_code,
            "reason": self.reason or ("Completed" if self.exit_code == 0 else "Error"),
            "startedAt": self.started_at,
            "finishedAt": self.finished_at,
            **({"message": self.message} if self.message else {}),
        }

    def as_status(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Return the entry of ``containerStatuses``."""
        if self.waiting:
            state: dict[str, Any] = {
                "waiting": {"reason": self.waiting, **({"message": self.message} if self.message else {})}
            }
        elif self.finished_at:
            state = {"terminated": self.terminated()}
        else:
            state = {"running": {"startedAt": self.started_at}}
        return {
            "name": spec["name"],
            "image": spec["image"],
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": {"terminated": self.last} if self.last else {},
        }


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
