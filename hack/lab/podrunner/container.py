"""One container as a process: started, probed, stopped, and started again."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lab.podrunner.environment import NotYetError, expand
from lab.podrunner.launcher import Launcher, Program, StartError, end_group
from lab.podrunner.probes import Threshold, attempt
from lab.podrunner.state import ContainerState
from lab.podrunner.timing import Timing

_LOG = logging.getLogger(__name__)
_LAST_WORD_S: Final = 2.0
"""What a process gets between SIGTERM and SIGKILL where its preStop hook used up the grace, as with the kubelet."""
_RETRY_S: Final = (0.5, 5.0)
"""First and longest wall seconds before another look for a ConfigMap or Secret that is not there."""
_NOT_STARTED: Final = 128
"""Exit code of a container whose process could not be started, as container runtimes report it."""


class Container:
    """Runs one container until it is stopped or, by its pod's restart policy, done.

    Args:
        spec: the container's spec.
        pod_ip: what it listens on.
        log_folder: one file a start goes here.
        restart: the pod's restart policy.
        grace_s: the pod's grace, simulated seconds: for the end that a failed probe brings.
        launcher: starts processes.
        program: works out what to start, anew for every start.
        changed: called when the state has changed.
        cleared: called when a process and all that it left behind have ended.
        timing: wall seconds.
    """

    def __init__(
        self,
        *,
        spec: dict[str, Any],
        pod_ip: str,
        log_folder: Path,
        restart: str,
        grace_s: float,
        launcher: Launcher,
        program: Callable[[], Awaitable[Program]],
        changed: Callable[[], None],
        cleared: Callable[[], None],
        timing: Timing,
    ) -> None:
        self.spec = spec
        self.state = ContainerState()
        self._pod_ip = pod_ip
        self._log_folder = log_folder
        self._restart = restart
        self._grace_s = grace_s
        self._launcher = launcher
        self._program = program
        self._changed = changed
        self._cleared = cleared
        self._timing = timing
        self._process: asyncio.subprocess.Process | None = None
        self._launched: Program | None = None
        self._failures = 0
        self._begun_at = 0.0
        self._stopping = asyncio.Event()
        self._deadline: float | None = None
        self._limit: asyncio.Timeout | None = None

    # ------------------------------------------------------------------ life
    async def run(self) -> None:
        """Start, watch, and start again by the restart policy; return when it is over. Cancelled, it kills."""
        try:
            while not self._stopping.is_set():
                program = await self._ready_to_start()
                if program is None:
                    break
                if await self._start(program):
                    await self._live()
                if self._stopping.is_set() or self._done():
                    break
                await self._back_off()
        finally:
            self._kill_group()

    def _done(self) -> bool:
        return self._restart == "Never" or (self._restart == "OnFailure" and self.state.exit_code == 0)

    async def _ready_to_start(self) -> Program | None:
        """Return what to start; None where the container is stopped before all it needs is there."""
        delay_s, longest_s = _RETRY_S
        while not self._stopping.is_set():
            try:
                return await self._program()
            except NotYetError as why:
                if self.state.message != str(why):
                    self.state.waiting, self.state.message = "CreateContainerConfigError", str(why)
                    self._changed()
            await self._stopped_within(delay_s)
            delay_s = min(2 * delay_s, longest_s)
        return None

    async def _stopped_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _back_off(self) -> None:
        if self._timing.forgiven(time.monotonic() - self._begun_at):
            self._failures = 0
        self._failures += 1
        delay_s = self._timing.backoff_s(self._failures)
        unstartable = self.state.reason == "StartError"
        self.state.again(
            "RunContainerError" if unstartable else "CrashLoopBackOff",
            self.state.message if unstartable else f"back-off {delay_s:g}s restarting failed container",
        )
        if delay_s:
            self._changed()
            await self._stopped_within(delay_s)

    async def _start(self, program: Program) -> bool:
        self._launched = program
        self._begun_at = time.monotonic()
        self._log_folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self._log_folder / f"{self.state.restarts}.log").open("ab") as log:
                self._process = await self._launcher.start(program, output=log)
        except StartError as error:
            _LOG.error("container %s cannot start: %s", self.spec["name"], error)
            self.state.end(_NOT_STARTED, reason="StartError", message=str(error))
            self._changed()
            return False
        started = "startupProbe" not in self.spec
        self.state.begin(started=started, ready=started and "readinessProbe" not in self.spec)
        self._changed()
        return True

    async def _live(self) -> None:
        process = self._process
        assert process  # noqa: S101 - started just before
        if self._stopping.is_set():  # told while the process was being made: there was nothing to signal yet
            self._kill_group()
        probing = asyncio.create_task(self._probe())
        code = await process.wait()
        probing.cancel()
        with suppress(asyncio.CancelledError):
            await probing
        self._kill_group()
        self._process = None
        self.state.end(code)
        self._cleared()
        self._changed()

    # ------------------------------------------------------------------ the end
    async def stop(self, grace_s: float) -> None:
        """PreStop, SIGTERM, and SIGKILL once the grace (simulated seconds) is over; again with less grace hastens it."""
        self._stopping.set()
        deadline = asyncio.get_running_loop().time() + self._timing.grace_s(grace_s)
        if self._deadline is not None:
            if deadline < self._deadline:
                self._deadline = deadline
                if self._limit:
                    self._limit.reschedule(deadline)
            return
        self._deadline = deadline
        process = self._process
        if process is None:
            return
        if grace_s > 0:
            await self._in_time(self._pre_stop(), deadline)
            self._signal(process, signal.SIGTERM)
            last_word = asyncio.get_running_loop().time() + min(_LAST_WORD_S, self._timing.grace_s(grace_s))
            hastened = self._deadline < deadline
            await self._in_time(process.wait(), self._deadline if hastened else max(self._deadline, last_word))
        self._signal(process, signal.SIGKILL)
        await process.wait()

    async def _in_time(self, work: Coroutine[Any, Any, object], deadline: float) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline) as self._limit:
                    await work
        finally:
            self._limit = None

    async def _pre_stop(self) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if not hook:
            return
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"] / self._timing.scale)
        else:
            probe = {**hook, "timeoutSeconds": 3600}
            await attempt(probe, self.spec, pod_ip=self._pod_ip, run=self._exec)

    def _signal(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        if process.returncode is not None:
            return
        if number is signal.SIGKILL:
            end_group(process)
        else:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _kill_group(self) -> None:
        """End what the container's process left behind; with a PID namespace the kernel has done so."""
        if self._process is not None:
            end_group(self._process)

    # ------------------------------------------------------------------ probes
    async def _probe(self) -> None:
        if "startupProbe" in self.spec:
            await self._until_started(self.spec["startupProbe"])
        async with asyncio.TaskGroup() as tasks:
            if "readinessProbe" in self.spec:
                tasks.create_task(self._readiness(self.spec["readinessProbe"]))
            if "livenessProbe" in self.spec:
                tasks.create_task(self._liveness(self.spec["livenessProbe"]))

    async def _until_started(self, probe: dict[str, Any]) -> None:
        period_s = self._timing.period_s(probe.get("periodSeconds", 10))
        await asyncio.sleep(self._timing.period_s(probe.get("initialDelaySeconds", 0)))
        for _ in range(probe.get("failureThreshold", 3)):
            if await self._attempt(probe):
                break
            await asyncio.sleep(period_s)
        else:
            await self._unhealthy("startup", probe)
            return
        self.state.started = True
        self.state.ready = "readinessProbe" not in self.spec
        self._changed()

    async def _readiness(self, probe: dict[str, Any]) -> None:
        threshold = Threshold.of(probe, state=False)
        await asyncio.sleep(self._timing.period_s(probe.get("initialDelaySeconds", 0)))
        while True:
            ready = threshold.add(await self._attempt(probe))
            if ready != self.state.ready:
                self.state.ready = ready
                self._changed()
            await asyncio.sleep(self._timing.period_s(probe.get("periodSeconds", 10), ready=ready))

    async def _liveness(self, probe: dict[str, Any]) -> None:
        threshold = Threshold.of(probe, state=True)
        await asyncio.sleep(self._timing.period_s(probe.get("initialDelaySeconds", 0)))
        while threshold.add(await self._attempt(probe)):  # noqa: ASYNC110 - the wait between two probes
            # Not shortened with simulated time: a busy machine answers no faster, and a restart is costly.
            await asyncio.sleep(probe.get("periodSeconds", 10))
        await self._unhealthy("liveness", probe)

    async def _unhealthy(self, kind: str, probe: dict[str, Any]) -> None:
        """End the process, so that it is started anew."""
        _LOG.warning("container %s failed its %s probe: restarting it", self.spec["name"], kind)
        process = self._process
        if process is None or self._stopping.is_set():
            return
        grace_s = self._timing.grace_s(probe.get("terminationGracePeriodSeconds", self._grace_s))
        deadline = asyncio.get_running_loop().time() + grace_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._pre_stop()
        self._signal(process, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(
                max(deadline, asyncio.get_running_loop().time() + min(_LAST_WORD_S, grace_s))
            ):
                await process.wait()
        self._signal(process, signal.SIGKILL)

    async def _attempt(self, probe: dict[str, Any]) -> bool:
        return await attempt(probe, self.spec, pod_ip=self._pod_ip, run=self._exec)

    async def _exec(self, command: list[str], timeout_s: float) -> bool:
        """Run a command inside the container: in its environment, mounts and PID namespace."""
        program, container = self._launched, self._process
        if program is None or container is None:
            return False
        try:
            argv = [expand(part, program.env) for part in command]
            process = await self._launcher.join(program, argv, pid=container.pid)
        except StartError:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                return await process.wait() == 0
        except TimeoutError:
            return False
        finally:
            # It took too long, or the container has ended meanwhile.
            self._signal(process, signal.SIGKILL)
