"""Readiness, liveness and start-up probes: one attempt, and the thresholds over attempts."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

_OK: Final = range(200, 400)
_UNVERIFIED: Final = ssl.create_default_context()
"""Probes take any certificate, as the kubelet's do."""
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE
_CHUNK: Final = 65536

Run = Callable[[list[str], float], Awaitable[bool]]
"""Runs a command inside the container within so many seconds; whether it exited with 0."""


@dataclass(slots=True)
class Threshold:
    """Turns single results into a state: so many in a row change it."""

    success: int
    failure: int
    state: bool
    _streak: int = 0
    _last: bool | None = None

    @classmethod
    def of(cls, probe: dict[str, Any], *, state: bool) -> "Threshold":
        """Return the thresholds of a probe, with the API's defaults."""
        return cls(success=probe.get("successThreshold", 1), failure=probe.get("failureThreshold", 3), state=state)

    def add(self, result: bool) -> bool:  # noqa: FBT001 - the result is what is added
        """Count a result and return the state."""
        self._streak = self._streak + 1 if result == self._last else 1
        self._last = result
        if self._streak >= (self.success if result else self.failure):
            self.state = result
        return self.state


async def attempt(probe: dict[str, Any], container: dict[str, Any], *, pod_ip: str, run: Run) -> bool:
    """Return whether a probe succeeds now; a port name that the container does not have never does."""
    timeout_s = float(probe.get("timeoutSeconds", 1))
    if "httpGet" in probe:
        try:
            async with asyncio.timeout(timeout_s):
                return await _http_status(probe["httpGet"], container, pod_ip) in _OK
        except (OSError, TimeoutError, ValueError, IndexError):
            return False
    if "tcpSocket" in probe:
        socket = probe["tcpSocket"]
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(
                    socket.get("host") or pod_ip, port_of(container, socket["port"])
                )
        except (OSError, TimeoutError, ValueError):
            return False
        writer.close()
        return True
    if "exec" in probe:
        return await run(probe["exec"]["command"], timeout_s)
    # gRPC probes are not used by any of our pods.
    return False


async def _http_status(get: dict[str, Any], container: dict[str, Any], pod_ip: str) -> int:
    # By hand: many pods are probed several times a second, and a client library takes a millisecond of CPU each time.
    host, port = get.get("host") or pod_ip, port_of(container, get["port"])
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/dynamollm", "Accept": "*/*", "Connection": "close"}
    headers |= {header["name"]: header["value"] for header in get.get("httpHeaders", [])}
    lines = [f"GET {get.get('path', '/')} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    context = _UNVERIFIED if get.get("scheme") == "HTTPS" else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        status = await reader.readline()
        # To the end, so that the server is not cut off in the middle of its answer.
        while await reader.read(_CHUNK):
            pass
        return int(status.split()[1])
    finally:
        writer.close()


def port_of(container: dict[str, Any], port: int | str) -> int:
    """Return a port's number, given as a number or by the name of a container port.

    Raises:
        ValueError: the container has no port of that name.
    """
    if isinstance(port, int):
        return port
    for one in container.get("ports", []):
        if one.get("name") == port:
            return int(one["containerPort"])
    return int(port)
