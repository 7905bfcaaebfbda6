import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lab.podrunner.probes import Threshold, attempt, port_of

CONTAINER = {"ports": [{"name": "http", "containerPort": 8000}, {"containerPort": 9000}]}


@pytest.mark.parametrize(
    ("probe", "begin", "results", "states"),
    [
        ({}, False, "+", "+"),
        ({}, True, "---", "++-"),
        ({"failureThreshold": 1}, True, "-+-", "-+-"),
        ({"failureThreshold": 2}, True, "-+-+--", "+++++-"),
        ({"successThreshold": 3}, False, "++-+++", "-----+"),
    ],
)
def test_so_many_results_in_a_row_change_the_state(
    probe: dict[str, Any],
    begin: bool,  # noqa: FBT001 - a table's column
    results: str,
    states: str,
) -> None:
    threshold = Threshold.of(probe, state=begin)
    assert "".join("+" if threshold.add(result == "+") else "-" for result in results) == states


@pytest.mark.parametrize(("port", "number"), [(80, 80), ("http", 8000), ("81", 81)])
def test_ports_by_number_and_name(port: int | str, number: int) -> None:
    assert port_of(CONTAINER, port) == number


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, list[str]]]:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        path = asked[-1].split()[1]
        if path == "/slow":
            await reader.read()  # until the other side gives up
        writer.write(b"not http\r\n" if path == "/odd" else f"HTTP/1.1 {path[1:]} Word\r\n\r\nbody".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], asked


async def no_run(_: list[str], __: float) -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    ("path", "result"),
    [("/200", True), ("/302", True), ("/404", False), ("/503", False), ("/odd", False), ("/slow", False)],
)
async def test_http(server: tuple[int, list[str]], path: str, result: bool) -> None:  # noqa: FBT001 - a table's column
    get = {"path": path, "port": server[0], "httpHeaders": [{"name": "X-Probe", "value": "1"}]}
    probe = {"httpGet": get, "timeoutSeconds": 1 if path == "/slow" else 60}
    assert await attempt(probe, CONTAINER, pod_ip="127.0.0.1", run=no_run) is result
    assert f"Host: 127.0.0.1:{server[0]}\r\n" in server[1][0]
    assert "X-Probe: 1\r\n" in server[1][0]


async def test_tcp(server: tuple[int, list[str]]) -> None:
    assert await attempt({"tcpSocket": {"port": server[0]}}, CONTAINER, pod_ip="127.0.0.1", run=no_run)


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket"])
@pytest.mark.parametrize("port", [1, "nameless"])
async def test_nobody_listens_or_the_port_has_no_such_name(kind: str, port: int | str) -> None:
    assert not await attempt({kind: {"port": port}}, CONTAINER, pod_ip="127.0.0.1", run=no_run)


async def test_exec_gets_the_command_and_the_timeout() -> None:
    asked: list[object] = []

    async def run(command: list[str], timeout_s: float) -> bool:
        asked.append((command, timeout_s))
        return True

    probe = {"exec": {"command": ["true"]}, "timeoutSeconds": 3}
    assert await attempt(probe, CONTAINER, pod_ip="127.0.0.1", run=run)
    assert asked == [(["true"], 3.0)]
