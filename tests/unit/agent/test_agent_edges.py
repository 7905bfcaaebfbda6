"""What the agent shows and how it reads the API's objects."""

import asyncio
import json
import logging
import sys
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from dynamollm.adapters.jsonlog import JsonFormatter
from dynamollm.adapters.nodewatch import EnginePod, NodeWatch
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.agent.server import Heartbeat, start_server


def watch() -> NodeWatch:
    return NodeWatch(ApiAccess(url="http://127.0.0.1:9"), node="n", namespace="dynamollm-system")


def item(**labels: str) -> dict[str, Any]:
    wanted = {"dynamollm.io/service": "chat", "dynamollm.io/pool": "ll", "dynamollm.io/tensor-parallel": "4"}
    wanted.update({f"dynamollm.io/{name.replace('_', '-')}": value for name, value in labels.items()})
    return {
        "metadata": {"name": "chat-ll-tp4-x", "namespace": "llm", "labels": wanted},
        "status": {"podIP": "10.1.2.3"},
    }


def test_a_pod_is_read_from_its_labels() -> None:
    seen = watch()
    seen._pods_changed({"chat-ll-tp4-x": item()})
    pod = EnginePod(namespace="llm", name="chat-ll-tp4-x", service="chat", pool="ll", tensor_parallel=4, ip="10.1.2.3")
    assert seen.pods == {("llm", "chat-ll-tp4-x"): pod}


def test_a_pod_without_a_network_yet_has_no_address() -> None:
    seen = watch()
    seen._pods_changed({"chat-ll-tp4-x": item() | {"status": {}}})
    assert seen.pods["llm", "chat-ll-tp4-x"].ip is None


@pytest.mark.parametrize("missing", ["service", "pool", "tensor-parallel", None])
def test_a_pod_that_is_not_quite_ours_is_not_ours(missing: str | None) -> None:
    seen = watch()
    pod = item(tensor_parallel="four")
    if missing:
        pod = item()
        del pod["metadata"]["labels"][f"dynamollm.io/{missing}"]
    seen._pods_changed({"a": pod})
    assert seen.pods == {}


@pytest.mark.parametrize(
    ("metadata", "plan"),
    [
        ({"annotations": {"dynamollm.io/clock-plan": "{}"}}, "{}"),
        ({"annotations": {"other": "{}"}}, None),
        ({"annotations": None}, None),
        ({}, None),
    ],
)
async def test_the_plan_is_the_daemonsets_annotation(metadata: dict[str, Any], plan: str | None) -> None:
    seen = watch()
    seen.clock_plan = "before"
    seen._daemonset_changed({"dynamollm-agent": {"metadata": metadata}})
    assert seen.clock_plan == plan
    known = asyncio.ensure_future(seen.known())
    await asyncio.sleep(0)
    assert not known.done(), "the pods are not known yet"
    seen._pods_changed({})
    await asyncio.wait_for(known, 60)


def test_no_daemonset_is_no_plan() -> None:
    seen = watch()
    seen.clock_plan = "before"
    seen._daemonset_changed({})
    assert seen.clock_plan is None


async def test_health_fails_when_the_loop_stalls() -> None:
    now = [100.0]
    heartbeat = Heartbeat(longest_s=20.0, monotonic=lambda: now[0])
    server = await start_server(registry=CollectorRegistry(), heartbeat=heartbeat, host="127.0.0.1", port=0)
    port = server.addresses[0][1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def health() -> int:
                async with session.get("/healthz") as response:
                    return response.status

            now[0] = 119.0
            assert await health() == 200
            now[0] = 121.0
            assert await health() == 503
            heartbeat.beat()
            assert await health() == 200
    finally:
        await server.cleanup()


def test_a_log_record_is_one_json_line() -> None:
    try:
        int("bad\nvalue")
    except ValueError:
        record = logging.LogRecord("agent", logging.WARNING, "f", 1, "locks %s\nchanged", ("GPU-0",), sys.exc_info())
    record.fields = {"locked": {"GPU-0": 900}}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["message"], read["locked"]) == ("warning", "locks GPU-0\nchanged", {"GPU-0": 900})
    assert "ValueError" in read["exception"]
