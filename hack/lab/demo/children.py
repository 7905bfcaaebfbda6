"""The demo's own processes: the replay, and SinglePool's energy on the same requests."""

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import orjson

from dynamollm.core.errors import DynamoLLMError
from lab.demo.summary import Tally


class DemoError(DynamoLLMError):
    """The demo cannot go on; the message says why and what to look at."""


@contextmanager
def child(*module_and_args: str, nice: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of ours as a process that ends with the context."""
    process = subprocess.Popen(
        [*(["nice", "-n", str(nice)] if nice else []), sys.executable, "-m", *module_and_args], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=10)


class Replay:
    """The replay's process, its results tallied as they come."""

    def __init__(self, process: subprocess.Popen[bytes], tally: Tally) -> None:
        self.process, self.tally = process, tally
        self.recent: deque[float] = deque()
        self._reader = threading.Thread(target=self._read, name="replay", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        out: IO[bytes] | None = self.process.stdout
        for text in out or ():
            result: dict[str, Any] = orjson.loads(text)
            self.tally.add(result)
            self.recent.append(result["offset_s"])

    def rate_per_s(self, now_s: float, window_s: float = 60.0) -> float:
        """Return the requests/s that arrived in the last simulated minute and have been answered."""
        while self.recent and self.recent[0] < now_s - window_s:
            self.recent.popleft()
        return len(self.recent) / window_s

    @property
    def running(self) -> bool:
        """Whether requests are still out or to come."""
        return self.process.poll() is None

    def finish(self) -> None:
        """Read what is left.

        Raises:
            DemoError: the process failed.
        """
        self._reader.join(timeout=10)
        if self.process.wait() != 0:
            raise DemoError(f"the replay ended with exit code {self.process.returncode}: its message is above")


class SinglePool:
    """SinglePool's energy over the replay, from its own process, which is done long before the replay is."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._result: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, name="single-pool", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        out: IO[bytes] | None = self._process.stdout
        text = out.read() if out else b""
        self._result = orjson.loads(text) if text else {}

    @property
    def duration_s(self) -> float:
        """Simulated seconds from the first arrival to the last answer; an hour until it is known."""
        duration: float = self._result.get("duration_s", 3600.0)
        return duration

    def energy_wh(self, simulated_s: float) -> float | None:
        """Return the energy up to this simulated second; None until it is known."""
        curve: list[float] = self._result.get("energy_wh_by_step", [])
        if not curve:
            return None
        return curve[min(int(simulated_s / self._result["step_s"]), len(curve) - 1)]

    def result(self) -> dict[str, Any]:
        """Wait for the end and return everything.

        Raises:
            DemoError: the process failed.
        """
        self._reader.join()
        if self._process.wait() != 0:
            raise DemoError("the SinglePool comparison failed: its message is above")
        return self._result
