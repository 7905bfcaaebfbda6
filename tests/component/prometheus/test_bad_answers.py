"""Every way Prometheus fails is unknown with its own reason; none of them is a zero, and none raises."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from component.addresses import fresh_ip
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.prometheus import PrometheusLoadSource
from dynamollm.core.classes import RequestClass
from dynamollm.core.protocols import Reading
from dynamollm.core.records import Attainment, Service, Slo

SERVICE = Service(
    namespace="llm",
    name="chat",
    slo=Slo(ttft_ms=dict.fromkeys(RequestClass, 400.0), tbt_ms=dict.fromkeys(RequestClass, 100.0)),
)
SCRAPE_S = 0.1
PATIENCE_S = 60.0
"""So long that a busy machine does not reach it."""
IMPATIENCE_S = 0.3

Answer = Callable[[str, Any], web.StreamResponse | Awaitable[web.StreamResponse]]


def vector(*series: tuple[dict[str, str], str], age_s: float = 0.0) -> dict[str, Any]:
    then_s = time.time() - age_s
    result = [{"metric": metric, "values": [[then_s, value]]} for metric, value in series]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def instant(*series: tuple[dict[str, str], str]) -> dict[str, Any]:
    result = [{"metric": metric, "value": [time.time(), value]} for metric, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def over_time(query: Any, value: str, *, until_s: float | None = None) -> dict[str, Any]:
    start, end, step = (float(query[name]) for name in ("start", "end", "step"))
    times = [start + i * step for i in range(int((end - start) / step) + 1)]
    values = [[t, value] for t in times if until_s is None or t <= until_s][-30:]
    return {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": {"class": "SS"}, "values": values}] if values else []},
    }


ANSWERS: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
    ("up{", lambda: vector(({"pod": "chat-router-1", "component": "router"}, "1"))),
    ("dynamollm_router_in_flight", lambda: vector(({"instance": "pod-a"}, "3"), ({"instance": "pod-b"}, "0"))),
    ("dynamollm_service_power_watts", lambda: vector(({"node": "a"}, "1000"), ({"node": "b"}, "500.5"))),
    ("[120000ms]))", lambda: instant(({"class": "SS", "met": "true"}, "9"), ({"class": "SS", "met": "false"}, "1"))),
    ("slo_requests", lambda: instant(({"class": "SS", "met": "true"}, "99"), ({"class": "SS", "met": "false"}, "1"))),
    ("energy_joules", lambda: instant(({}, "7200"))),
    ("", lambda: instant(({"class": "SS"}, "120.5"), ({"class": "LL"}, "NaN"))),
)
"""What a Prometheus says of a service, by a part of the query."""


def healthy(expression: str, query: Any) -> dict[str, Any]:
    if "start" in query:
        return over_time(query, "2")  # two requests/s of class SS
    return next(answer() for part, answer in ANSWERS if part in expression)


@pytest.fixture
async def prometheus() -> AsyncIterator[Callable[..., Awaitable[PrometheusLoadSource]]]:
    servers: list[TestServer] = []
    sources: list[PrometheusLoadSource] = []

    async def start(answer: Answer, *, timeout_s: float = PATIENCE_S) -> PrometheusLoadSource:
        async def handle(request: web.Request) -> web.StreamResponse:
            reply = answer(request.query["query"], request.query)
            return reply if isinstance(reply, web.StreamResponse) else await reply

        app = web.Application()
        app.router.add_get("/api/v1/query", handle)
        app.router.add_get("/api/v1/query_range", handle)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        source = PrometheusLoadSource(
            url=str(server.make_url("")), clock=Clock(), scrape_interval_s=SCRAPE_S, timeout_s=timeout_s
        )
        sources.append(source)
        return source

    yield start
    for source in sources:
        source.close()
    for server in servers:
        await server.close()


async def read(source: PrometheusLoadSource) -> Reading:
    return await source.read(SERVICE, created_s=time.time() - 600)


async def test_a_healthy_prometheus_is_a_number_for_everything(prometheus: Any) -> None:
    reading = await read(await prometheus(lambda e, q: web.json_response(healthy(e, q))))
    assert reading.reason == ""
    assert reading.load is not None
    assert reading.load.rate_per_s[RequestClass.SS][-1] == 2.0
    # Scraped, and none of this class: a true zero.
    assert reading.load.rate_per_s[RequestClass.LL][-1] == 0.0
    assert reading.load.input_tokens == {RequestClass.SS: 120.5}
    assert reading.in_flight == {"pod-a": 3, "pod-b": 0}
    assert reading.power_w == 1500.5
    assert reading.energy_j == 7200.0
    assert reading.attainment is not None
    assert reading.attainment[RequestClass.SS].met == 99.0
    assert reading.recent_attainment == {RequestClass.SS: Attainment(requests=10.0, met=9.0)}


def only(part: str, instead: Callable[[str, Any], dict[str, Any]]) -> Answer:
    """Answer queries that contain ``part`` otherwise than a healthy Prometheus."""
    return lambda e, q: web.json_response(instead(e, q) if part in e else healthy(e, q))


async def slow(_expression: str, _query: Any) -> web.StreamResponse:
    await asyncio.sleep(5 * IMPATIENCE_S)
    return web.json_response(instant())


BAD: dict[str, tuple[str, Answer]] = {
    "401": ("PrometheusUnauthorized", lambda _e, _q: web.Response(status=401, text="who are you")),
    "403": ("PrometheusUnauthorized", lambda _e, _q: web.Response(status=403)),
    "500": ("PrometheusError", lambda _e, _q: web.Response(status=500, text="oops")),
    "422 of a bad query": ("PrometheusError", lambda _e, _q: web.json_response({"status": "error"}, status=422)),
    "a web page": ("PrometheusBadAnswer", lambda _e, _q: web.Response(text="<html>login</html>")),
    "other JSON": ("PrometheusBadAnswer", lambda _e, _q: web.json_response({"hello": "world"})),
    "a list": ("PrometheusBadAnswer", lambda _e, _q: web.json_response([1, 2])),
    "a scalar result": ("PrometheusBadAnswer", lambda _e, _q: web.json_response({"data": {"result": 3}})),
    "series without values": (
        "PrometheusBadAnswer",
        lambda _e, _q: web.json_response({"data": {"result": [{"metric": {}}]}}),
    ),
    "a value that is no number": ("PrometheusBadAnswer", only("up{", lambda _e, _q: vector(({}, "many")))),
    "no answer in time": ("PrometheusTimeout", slow),
    "no router target": ("RouterNotScraped", only("up{", lambda _e, _q: vector())),
    "a router down": (
        "RouterDown",
        only("up{", lambda _e, _q: vector(({"pod": "chat-router-1"}, "1"), ({"pod": "chat-router-2"}, "0"))),
    ),
    "up that is NaN": ("RouterNotScraped", only("up{", lambda _e, _q: vector(({}, "NaN")))),
    "arrivals empty, as when renamed": ("NoArrivals", only("arrivals_total", lambda _e, _q: vector())),
    "arrivals NaN": (
        "NoArrivals",
        only("arrivals_total", lambda _e, q: over_time(q, "NaN") if "start" in q else instant()),
    ),
    "arrivals of minutes ago": (
        "StaleArrivals",
        only(
            "arrivals_total",
            lambda _e, q: over_time(q, "2", until_s=time.time() - 400) if "start" in q else instant(),
        ),
    ),
}


@pytest.mark.parametrize(("reason", "answer"), BAD.values(), ids=BAD.keys())
async def test_what_is_no_answer_is_unknown(prometheus: Any, reason: str, answer: Answer) -> None:
    timeout_s = IMPATIENCE_S if answer is slow else PATIENCE_S
    reading = await read(await prometheus(answer, timeout_s=timeout_s))
    assert reading.load is None
    assert reading.reason == reason
    assert reading.problem


async def test_refused_is_unknown() -> None:
    source = PrometheusLoadSource(url=f"http://{fresh_ip()}:9090", clock=Clock(), timeout_s=PATIENCE_S)
    reading = await read(source)
    source.close()
    assert (reading.load, reading.power_w, reading.in_flight) == (None, None, {})
    assert reading.reason == "PrometheusUnreachable"


async def test_a_stale_gauge_is_unknown_and_not_the_last_value(prometheus: Any) -> None:
    # Prometheus answers a range of three scrapes: what was not scraped within it is not in the answer.
    reading = await read(await prometheus(only("in_flight", lambda _e, _q: vector())))
    assert reading.load is not None
    assert reading.in_flight == {}


async def test_history_outlives_an_outage_and_the_gap_is_filled(prometheus: Any) -> None:
    state = {"up": True}

    def answer(expression: str, query: Any) -> web.Response:
        return web.json_response(healthy(expression, query)) if state["up"] else web.Response(status=503)

    source = await prometheus(answer)
    before = (await read(source)).load
    state["up"] = False
    assert (await read(source)).reason == "PrometheusError"
    state["up"] = True
    after = (await read(source)).load
    assert before is not None
    assert after is not None
    known = [sample for sample in before.rate_per_s[RequestClass.SS] if sample is not None]
    assert [sample for sample in after.rate_per_s[RequestClass.SS] if sample is not None][: len(known)] == known
    assert after.end_s >= before.end_s


async def test_lengths_of_the_weeks_come_by_the_half_hour_and_are_asked_for_once(prometheus: Any) -> None:
    asked: list[str] = []

    def answer(expression: str, query: Any) -> web.Response:
        if "start" in query and "_tokens_total" in expression:
            asked.append(expression)
            return web.json_response(over_time(query, "640" if "input_tokens" in expression else "55"))
        return web.json_response(healthy(expression, query))

    unscaled = await prometheus(answer)
    # Tokens of a request are as many in simulated time.
    clock = Clock(scale=10.0, anchor_s=time.time() - 100_000)
    source = PrometheusLoadSource(
        url=unscaled._client.url, clock=clock, scrape_interval_s=SCRAPE_S, timeout_s=PATIENCE_S
    )
    readings = [await read(source), await read(source)]
    source.close()
    for reading in readings:
        assert reading.load is not None
        lengths = reading.load.lengths
        assert lengths is not None
        assert lengths.step_s == 1800.0
        assert 0 <= reading.load.end_s - lengths.end_s < lengths.step_s
        assert list(lengths.input_tokens[RequestClass.SS])[-2:] == [640.0, 640.0]
        assert list(lengths.output_tokens[RequestClass.SS])[-2:] == [55.0, 55.0]
        assert list(lengths.output_tokens[RequestClass.LL])[-2:] == [0.0, 0.0]
    assert len(asked) == 2
    assert all("[180000ms]" in expression for expression in asked)


async def test_simulated_time_stretches_rates_and_windows(prometheus: Any) -> None:
    asked: list[str] = []

    def answer(expression: str, query: Any) -> web.Response:
        asked.append(expression)
        return web.json_response(healthy(expression, query))

    unscaled = await prometheus(answer)
    clock = Clock(scale=10.0, anchor_s=time.time() - 100)
    source = PrometheusLoadSource(
        url=unscaled._client.url, clock=clock, scrape_interval_s=SCRAPE_S, timeout_s=PATIENCE_S
    )
    began_s = clock.now_s()
    reading = await read(source)
    source.close()
    assert reading.load is not None
    assert reading.load.rate_per_s[RequestClass.SS][-1] == pytest.approx(0.2)  # 2 per wall second
    assert any("arrivals_total" in e and "[6000ms]" in e for e in asked)  # a minute
    assert began_s - 75 < reading.load.end_s <= clock.now_s()
