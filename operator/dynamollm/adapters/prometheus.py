"""Load, latency, watts and joules of a service out of Prometheus, in simulated units: the one way they reach the operator.

A value is a number, a true zero, or unknown. Zero is believed only where the router was scraped: it creates every
class at zero, so a series that lacks altogether (renamed, not scraped, no router) is unknown, and so is everything
while one of the service's routers is down, since its share of the load is not seen.
"""

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dynamollm.adapters.clock import Clock
from dynamollm.adapters.loadgrid import LoadGrid
from dynamollm.adapters.promclient import PrometheusClient, PrometheusError, Sample, Series, matcher, milliseconds
from dynamollm.core.classes import RequestClass
from dynamollm.core.feedback import WINDOW_S
from dynamollm.core.load_series import COARSE_S, FINE_S
from dynamollm.core.past_load import PastLengths, PastLoad
from dynamollm.core.protocols import Reading
from dynamollm.core.records import Attainment, LoadHistory, Service

_LOG: Final = logging.getLogger(__name__)

BUCKET_S: Final = 60.0
"""Grid of the last days, simulated; longer where fewer than ``SAMPLES`` scrapes fall into a bucket."""
SAMPLES: Final = 4
"""Scrapes that a rate needs: one may be lost and a counter reset, and a rate is still there."""
FRESH_SCRAPES: Final = 3
"""A value is stale when so many scrapes in a row have not renewed it."""
LENGTHS_S: Final = 1800.0
"""Window of the mean input and output tokens, and step of their past, simulated: the paper's epoch."""
PAST_S: Final = 15 * 86_400.0
"""How far back history is asked for, simulated: two weeks of season, and Prometheus' own default of 15 days."""
MAX_QUERIES: Final = 13
"""No reading makes more queries than this (four of them long ones, once): its whole time is bounded by it."""


@dataclass(slots=True)
class _Memory:
    """What stays known between the readings of one service."""

    grid: LoadGrid
    """The last days, for the level and for what forecasts missed."""
    coarse: LoadGrid | None
    """The weeks, for templates: 4,320 buckets instead of 21,600. None: the grid above is coarse itself, and has them."""
    input_grid: LoadGrid
    """Mean input tokens of the weeks: 720 buckets, as lengths change slowly."""
    output_grid: LoadGrid
    past: PastLoad | None = None
    lengths: PastLengths | None = None
    input_tokens: Mapping[RequestClass, float] = field(default_factory=dict)
    output_tokens: Mapping[RequestClass, float] = field(default_factory=dict)
    brief_share: Mapping[RequestClass, float] = field(default_factory=dict)
    attainment: Mapping[RequestClass, Attainment] | None = None
    recent_attainment: Mapping[RequestClass, Attainment] | None = None
    energy_j: float | None = None


class PrometheusLoadSource:
    """Implements ``core.protocols.LoadSource``.

    Args:
        url: of Prometheus.
        clock: simulated time.
        scrape_interval_s: how often Prometheus scrapes, wall seconds.
        timeout_s: of one query, wall seconds.
    """

    def __init__(self, *, url: str, clock: Clock, scrape_interval_s: float = 15.0, timeout_s: float = 5.0) -> None:
        self._client = PrometheusClient(url=url, timeout_s=timeout_s)
        self._clock = clock
        self._scrape_s = scrape_interval_s
        self._fresh_s = FRESH_SCRAPES * scrape_interval_s
        self._timeout_s = timeout_s
        self._bucket_s = max(BUCKET_S, SAMPLES * clock.sim(scrape_interval_s))
        self._memory: dict[tuple[str, str], _Memory] = {}

    async def read(self, service: Service, *, created_s: float) -> Reading:
        """Return what is known now; see ``LoadSource``."""
        try:
            async with asyncio.timeout(MAX_QUERIES * self._timeout_s):
                return await asyncio.to_thread(self._read, service, created_s)
        except TimeoutError:
            return Reading(
                load=None,
                reason="PrometheusTimeout",
                problem=f"{self._client.url} answers too slowly: is it overloaded?",
            )

    def forget(self, *, namespace: str, name: str) -> None:
        """Drop what is remembered of a service that is gone."""
        self._memory.pop((namespace, name), None)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    # -------------------------------------------------------------- one reading, in a thread
    def _read(self, service: Service, created_s: float) -> Reading:
        memory = self._memory.setdefault((service.namespace, service.name), self._blank())
        labels = {"namespace": service.namespace, "service": service.name}
        power_w: float | None = None
        in_flight: Mapping[str, int] = {}
        try:
            power_w = self._power_w(labels)
            self._check_routers(labels)
            in_flight = self._in_flight(labels)
            self._refresh(memory, service, labels, created_s)
            load = self._history(memory)
        except PrometheusError as error:
            return Reading(load=None, in_flight=in_flight, power_w=power_w, reason=error.reason, problem=str(error))
        return Reading(
            load=load,
            in_flight=in_flight,
            attainment=memory.attainment,
            recent_attainment=memory.recent_attainment,
            power_w=power_w,
            energy_j=memory.energy_j,
        )

    def _blank(self) -> _Memory:
        two = self._bucket_s < COARSE_S
        lengths_s = max(LENGTHS_S, self._bucket_s)
        return _Memory(
            grid=LoadGrid(self._bucket_s, keep_s=FINE_S if two else PAST_S),
            # In whole buckets of the fine one, so that both end together.
            coarse=LoadGrid(round(COARSE_S / self._bucket_s) * self._bucket_s, keep_s=PAST_S) if two else None,
            input_grid=LoadGrid(lengths_s, keep_s=PAST_S),
            output_grid=LoadGrid(lengths_s, keep_s=PAST_S),
        )

    def _check_routers(self, labels: Mapping[str, str]) -> None:
        """Raise unless every router of the service was scraped just now."""
        targets = self._client.latest(f"up{matcher({**labels, 'component': 'router'})}", within_s=self._fresh_s)
        if not targets:
            raise PrometheusError(
                "RouterNotScraped",
                "Prometheus has scraped no router of this service lately: is its pod Ready, and are pods with "
                "prometheus.io/scrape=true scraped with the labels that docs/operator.md lists?",
            )
        # The newest tells what is there now: a router that was replaced leaves its last samples behind.
        newest_s = max(target.time_s for target in targets)
        down = sorted(
            target.labels.get("pod", "?")
            for target in targets
            if target.value < 1 and newest_s - target.time_s <= self._scrape_s
        )
        if down:
            raise PrometheusError("RouterDown", f"Prometheus cannot scrape router {', '.join(down)}: see its log")

    def _in_flight(self, labels: Mapping[str, str]) -> Mapping[str, int]:
        samples = self._client.latest(f"dynamollm_router_in_flight{matcher(labels)}", within_s=self._fresh_s)
        totals: dict[str, float] = {}
        for sample in samples:
            instance = sample.labels.get("instance", "")
            totals[instance] = totals.get(instance, 0.0) + sample.value
        return {instance: round(total) for instance, total in totals.items() if instance}

    def _power_w(self, labels: Mapping[str, str]) -> float | None:
        samples = self._client.latest(f"dynamollm_service_power_watts{matcher(labels)}", within_s=self._fresh_s)
        newest_s = max((sample.time_s for sample in samples), default=0.0)
        # Groups that have left a node leave their last sample behind.
        fresh = [sample.value for sample in samples if newest_s - sample.time_s <= 2 * self._scrape_s]
        return math.fsum(fresh) if fresh else None

    # -------------------------------------------------------------- what changes once a bucket
    def _refresh(self, memory: _Memory, service: Service, labels: Mapping[str, str], created_s: float) -> None:
        until_s = self._clock.now_s() - self._clock.sim(self._scrape_s)
        # The weeks first: should they fail, nothing is counted as refreshed.
        coarse = memory.coarse
        if coarse is not None and self._extend(coarse, labels, until_s):
            memory.past = PastLoad(end_s=coarse.end_s, step_s=coarse.step_s, rate_per_s=coarse.copies())
        self._refresh_lengths(memory, labels, until_s)
        if not self._extend(memory.grid, labels, until_s):
            return
        memory.input_tokens = self._mean("input_tokens", "arrivals", labels)
        memory.output_tokens = self._mean("output_tokens", "completions", labels)
        memory.brief_share = self._brief_share(labels)
        memory.attainment = self._attainment(labels, window_s=service.intervals.scale_s)
        memory.recent_attainment = self._attainment(labels, window_s=WINDOW_S)
        memory.energy_j = self._energy_j(labels, created_s=created_s)

    def _refresh_lengths(self, memory: _Memory, labels: Mapping[str, str], until_s: float) -> None:
        inputs, outputs = memory.input_grid, memory.output_grid
        changed = [
            grid.extend(until_s=until_s, fetch=partial(self._fetch, expression, step_s=grid.step_s))
            for grid, expression in (
                (inputs, self._by_request("input_tokens", "arrivals", labels, inputs.step_s)),
                (outputs, self._by_request("output_tokens", "completions", labels, outputs.step_s)),
            )
        ]
        if any(changed):
            # The first completion may come later than the first arrival.
            size = min(inputs.size, outputs.size)
            memory.lengths = PastLengths(
                end_s=inputs.end_s,
                step_s=inputs.step_s,
                input_tokens=inputs.copies(size),
                output_tokens=outputs.copies(size),
            )

    def _extend(self, grid: LoadGrid, labels: Mapping[str, str], until_s: float) -> bool:
        expression = f"sum by (class) ({self._per_second('arrivals', labels, grid.step_s)})"
        fetch = partial(self._fetch, expression, step_s=grid.step_s, per=self._clock.scale)
        return grid.extend(until_s=until_s, fetch=fetch)

    def _fetch(self, expression: str, start_s: float, end_s: float, *, step_s: float, per: float = 1.0) -> list[Series]:
        """Ask for a range in simulated time; ``per`` makes values of wall seconds those of simulated ones."""
        clock = self._clock
        answer = self._client.matrix(
            expression, start_s=clock.to_wall(start_s), end_s=clock.to_wall(end_s), step_s=clock.wall(step_s)
        )
        return [
            Series(
                labels=series.labels,
                points=tuple((clock.at_wall(time_s), value / per) for time_s, value in series.points),
            )
            for series in answer
        ]

    def _history(self, memory: _Memory) -> LoadHistory:
        grid = memory.grid
        newest_s, age_limit_s = grid.newest_s, FRESH_SCRAPES * self._bucket_s
        if newest_s is None:
            raise PrometheusError(
                "NoArrivals",
                "Prometheus scrapes the router and has no dynamollm_router_arrivals_total of it yet; if this lasts over "
                "two minutes, see whether the series is renamed or dropped",
            )
        if self._clock.now_s() - newest_s > age_limit_s:
            raise PrometheusError(
                "StaleArrivals",
                f"the newest dynamollm_router_arrivals_total is over {age_limit_s:.0f} s old: does Prometheus still "
                "scrape the router every SCRAPE_INTERVAL_SECONDS?",
            )
        return LoadHistory(
            end_s=grid.end_s,
            step_s=grid.step_s,
            rate_per_s=grid.copies(),
            input_tokens=memory.input_tokens,
            output_tokens=memory.output_tokens,
            brief_share=memory.brief_share,
            past=memory.past,
            lengths=memory.lengths,
        )

    def _mean(self, tokens: str, requests: str, labels: Mapping[str, str]) -> dict[RequestClass, float]:
        answer = self._client.vector(self._by_request(tokens, requests, labels, LENGTHS_S))
        return {request_class: value for request_class, value in _by_class(answer) if value > 0}

    def _brief_share(self, labels: Mapping[str, str]) -> dict[RequestClass, float]:
        answer = self._client.vector(self._by_request("brief_answers", "completions", labels, LENGTHS_S))
        # Where nobody was answered the ratio is no number. Two counters are not scraped at one instant: not more than all.
        return {request_class: min(value, 1.0) for request_class, value in _by_class(answer) if value >= 0}

    def _by_request(self, what: str, requests: str, labels: Mapping[str, str], window_s: float) -> str:
        over = self._per_second(what, labels, window_s)
        under = self._per_second(requests, labels, window_s)
        return f"sum by (class) ({over}) / sum by (class) ({under})"

    def _attainment(self, labels: Mapping[str, str], *, window_s: float) -> dict[RequestClass, Attainment] | None:
        window = milliseconds(max(self._clock.wall(window_s), SAMPLES * self._scrape_s))
        answer = self._client.vector(
            f"sum by (class, met) (increase(dynamollm_router_slo_requests_total{matcher(labels)}[{window}]))"
        )
        if not answer:
            return None
        totals: dict[RequestClass, dict[bool, float]] = {}
        for sample in answer:
            name, met = sample.labels.get("class", ""), sample.labels.get("met")
            if name in RequestClass.__members__ and met in ("true", "false"):
                totals.setdefault(RequestClass(name), {})[met == "true"] = max(0.0, sample.value)
        return {
            request_class: Attainment(requests=math.fsum(counts.values()), met=counts.get(True, 0.0))
            for request_class, counts in totals.items()
            if math.fsum(counts.values()) > 0
        }

    def _energy_j(self, labels: Mapping[str, str], *, created_s: float) -> float | None:
        now_s = self._clock.to_wall(self._clock.now_s())
        window = milliseconds(max(now_s - created_s, SAMPLES * self._scrape_s))
        answer = self._client.vector(f"sum(increase(dynamollm_service_energy_joules_total{matcher(labels)}[{window}]))")
        return answer[0].value if answer else None

    def _per_second(self, what: str, labels: Mapping[str, str], window_s: float) -> str:
        window = max(self._clock.wall(window_s), SAMPLES * self._scrape_s)
        return f"rate(dynamollm_router_{what}_total{matcher(labels)}[{milliseconds(window)}])"


def _by_class(samples: list[Sample]) -> list[tuple[RequestClass, float]]:
    return [
        (RequestClass(name), sample.value)
        for sample in samples
        if (name := sample.labels.get("class", "")) in RequestClass.__members__
    ]
