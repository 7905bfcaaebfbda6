"""The adapter against the real Prometheus, which scrapes an exporter that plays a router and an agent."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from component.addresses import fresh_ip
from dynamollm.adapters.clock import Clock
from dynamollm.adapters.prometheus import PrometheusLoadSource
from dynamollm.core.classes import RequestClass
from dynamollm.core.past_load import PastLengths
from dynamollm.core.protocols import Reading
from dynamollm.core.records import Service, Slo
from lab.paths import cache_dir

SCRAPE_S = 0.2
SCALE = 60.0  # a bucket of a minute is a second
SERVICE = Service(
    namespace="llm",
    name="chat",
    slo=Slo(ttft_ms=dict.fromkeys(RequestClass, 400.0), tbt_ms=dict.fromkeys(RequestClass, 100.0)),
)


def prometheus_binary() -> Path:
    found = sorted(cache_dir().glob("bin/prometheus-*/prometheus"))
    if not found:
        pytest.skip(f"no Prometheus in {cache_dir()}/bin yet: make test builds it")
    return found[-1]


@dataclass
class Exporter:
    """Counters of a router with 10 requests/s of class SS, or none."""

    arrivals_per_s: float = 0.0
    arrivals: float = 0.0
    energy_j: float = 0.0
    power_w: float = 700.0
    _changed_s: float = field(default_factory=time.monotonic)

    async def metrics(self, _request: web.Request) -> web.Response:
        now = time.monotonic()
        elapsed, self._changed_s = now - self._changed_s, now
        self.arrivals += elapsed * self.arrivals_per_s
        self.energy_j += elapsed * self.power_w * SCALE
        common = 'namespace="llm",service="chat"'
        lines = [
            f'dynamollm_router_in_flight{{{common},pool="ll",instance="pod-a"}} 4',
            f'dynamollm_service_power_watts{{{common},pool="ll",tensor_parallel="4",node="n"}} {self.power_w}',
            f'dynamollm_service_energy_joules_total{{{common},pool="ll",tensor_parallel="4",node="n"}} {self.energy_j}',
            f'dynamollm_router_slo_requests_total{{{common},class="SS",met="true"}} {self.arrivals}',
            f'dynamollm_router_slo_requests_total{{{common},class="SS",met="false"}} 0',
        ]
        for each in RequestClass:
            count = self.arrivals if each is RequestClass.SS else 0
            for name, value in (("arrivals", count), ("input_tokens", 100 * count), ("completions", count)):
                lines.append(f'dynamollm_router_{name}_total{{{common},class="{each}"}} {value}')
            lines.append(f'dynamollm_router_output_tokens_total{{{common},class="{each}"}} {50 * count}')
            lines.append(f'dynamollm_router_brief_answers_total{{{common},class="{each}"}} {0.25 * count}')
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")


@dataclass
class World:
    exporter: Exporter
    server: TestServer
    source: PrometheusLoadSource
    began_s: float

    async def read(self) -> Reading:
        return await self.source.read(SERVICE, created_s=self.began_s)

    async def until(self, condition: Callable[[Reading], bool], *, timeout_s: float = 120.0) -> Reading:
        async with asyncio.timeout(timeout_s):
            # Prometheus gives no event to wait for.
            while not condition(reading := await self.read()):  # noqa: ASYNC110 - see above
                await asyncio.sleep(SCRAPE_S)
        return reading


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    binary = prometheus_binary()
    exporter = Exporter()
    app = web.Application()
    app.router.add_get("/metrics", exporter.metrics)
    server = TestServer(app)
    await server.start_server()
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "honor_labels": True,
                "static_configs": [
                    {
                        "targets": [f"{server.host}:{server.port}"],
                        "labels": {"namespace": "llm", "service": "chat", "component": "router", "pod": "chat-router"},
                    }
                ],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{fresh_ip()}:9090"
    began_s = time.time()
    process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time
        [
            binary,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    source = PrometheusLoadSource(
        url=f"http://{address}", clock=Clock(scale=SCALE, anchor_s=began_s), scrape_interval_s=SCRAPE_S
    )
    yield World(exporter=exporter, server=server, source=source, began_s=began_s)
    source.close()
    process.terminate()
    process.wait(timeout=60)
    await server.close()


async def test_zero_is_a_true_zero_and_load_is_measured_in_simulated_seconds(world: World) -> None:
    # The gauges may lack for a moment where a scrape came late.
    quiet = await world.until(
        lambda reading: reading.load is not None and bool(reading.in_flight) and reading.power_w is not None
    )
    assert quiet.load is not None
    assert {samples[-1] for samples in quiet.load.rate_per_s.values()} == {0.0}
    assert quiet.in_flight == {"pod-a": 4}
    assert quiet.power_w == 700.0

    world.exporter.arrivals_per_s = 30.0

    def settled(reading: Reading) -> bool:
        # Of a second in which scrapes came late, Prometheus guesses the rate.
        rate = reading.load.rate_per_s[RequestClass.SS][-1] if reading.load else None
        counted = reading.attainment is not None and RequestClass.SS in reading.attainment
        return rate == pytest.approx(30.0 / SCALE, rel=0.3) and counted and (reading.energy_j or 0) > 0

    busy = await world.until(settled)
    assert busy.load is not None
    assert busy.load.rate_per_s[RequestClass.LL][-1] == 0.0
    assert busy.load.input_tokens[RequestClass.SS] == pytest.approx(100.0, rel=0.01)
    assert busy.load.output_tokens[RequestClass.SS] == pytest.approx(50.0, rel=0.01)
    # Classes that nobody asked for have no share, which is not one of zero.
    assert busy.load.brief_share == {RequestClass.SS: pytest.approx(0.25, rel=0.01)}

    def half_hour(reading: Reading) -> PastLengths | None:
        lengths = reading.load.lengths if reading.load else None
        return lengths if lengths and len(lengths.input_tokens[RequestClass.SS]) else None

    # Within half a minute.
    lengths = half_hour(await world.until(lambda reading: half_hour(reading) is not None))
    assert lengths is not None
    assert lengths.input_tokens[RequestClass.SS][-1] == pytest.approx(100.0, rel=0.01)
    assert lengths.output_tokens[RequestClass.SS][-1] == pytest.approx(50.0, rel=0.01)
    assert busy.attainment is not None
    assert busy.attainment[RequestClass.SS].met == busy.attainment[RequestClass.SS].requests > 0


async def test_a_router_that_vanishes_is_unknown_and_not_zero(world: World) -> None:
    await world.until(lambda reading: reading.load is not None)
    await world.server.close()
    gone = await world.until(lambda reading: reading.reason == "RouterDown")
    assert gone.load is None
    assert "chat-router" in gone.problem
    # The gauges follow once nothing has renewed them for three scrapes.
    await world.until(lambda reading: not reading.in_flight and reading.power_w is None)
