"""Random mixes of request classes, simulated on instances of one kind: what capacities are calibrated on and checked against."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass, is_brief
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load, Order, Slo, SloRule
from dynamollm.simulator.fleet import Served, serve
from dynamollm.simulator.state import GAP_LOWEST_MS, GAP_RATIO
from dynamollm.simulator.steps import StepTable
from dynamollm.simulator.tally import alone_ms

CLASSES: Final = tuple(RequestClass)
TTFT_MS: Final = np.array([{"S": 250.0, "M": 400.0, "L": 2000.0}[c.value[0]] for c in CLASSES])
TBT_MS: Final = 100.0
ALONE: Final = 5.0
ALLOWED: Final = 0.01
"""The paper's SLO: share of the requests that may miss it."""
INPUTS: Final = {"S": (40.0, 230.0), "M": (270.0, 1000.0), "L": (1050.0, 4500.0)}
OUTPUTS: Final = {"S": (5.0, 95.0), "M": (110.0, 340.0), "L": (360.0, 800.0)}
"""Where mean lengths are drawn from, tokens."""
BOUNDS: Final = (
    {"S": (1.0, 255.0), "M": (256.0, 1023.0), "L": (1024.0, 8192.0)},
    {"S": (1.0, 99.0), "M": (100.0, 349.0), "L": (350.0, 2048.0)},
)
LENGTH_CV: Final = 0.5
LEAST_SHARE: Final = 0.06
WARM_UP: Final = 0.08
LEAST_RATE, MOST_RATE = 0.05, 400.0
WIDEN, CLOSE = 1.25, 1.04
ROUTER_SEED: Final = 11

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def slo_by(rule: SloRule) -> Slo:
    """Return the paper's SLO, judged by a rule."""
    return Slo(
        ttft_ms=dict(zip(CLASSES, TTFT_MS.tolist(), strict=True)),
        tbt_ms=dict.fromkeys(CLASSES, TBT_MS),
        percentile=100 * (1 - ALLOWED),
        rule=rule,
    )


@dataclass(frozen=True)
class Requests:
    """A stream at 1 request/s; [request]."""

    arrival_s: Floats
    inputs: Ints
    outputs: Ints
    classes: Ints

    def load(self) -> Load:
        """Return shares and mean lengths by class."""
        members = {c: self.classes == index for index, c in enumerate(CLASSES)}
        return {
            c: ClassLoad(
                float(some.mean()),
                float(self.inputs[some].mean()),
                float(self.outputs[some].mean()),
                float(is_brief(self.outputs[some]).mean()),
            )
            for c, some in members.items()
            if some.any()
        }


def draw(generator: np.random.Generator, requests: int) -> Requests:
    """Draw a random mix of classes, and log-normal lengths around random means."""
    some = generator.choice(9, generator.integers(1, 10), replace=False)
    shares = np.zeros(9)
    shares[some] = LEAST_SHARE + (1 - LEAST_SHARE * some.size) * generator.dirichlet(np.ones(some.size))
    classes = generator.choice(9, requests, p=shares)
    lengths = []
    for place, (ranges, bounds) in enumerate(zip((INPUTS, OUTPUTS), BOUNDS, strict=True)):
        means = np.array([generator.uniform(*ranges[c.value[place]]) for c in CLASSES])[classes]
        least, most = np.array([bounds[c.value[place]] for c in CLASSES])[classes].T
        lengths.append(_log_normal(generator, means, least, most))
    arrival_s = np.cumsum(generator.exponential(1.0, requests))
    return Requests(arrival_s, lengths[0], lengths[1], classes.astype(np.int64))


def _log_normal(generator: np.random.Generator, means: Floats, least: Floats, most: Floats) -> Ints:
    sigma = math.sqrt(math.log(1 + LENGTH_CV**2))
    drawn, left = np.zeros_like(means), np.ones(means.size, bool)
    while left.any():
        drawn[left] = np.round(means[left] * np.exp(sigma * generator.standard_normal(int(left.sum())) - sigma**2 / 2))
        left = (drawn < least) | (drawn > most)
    return drawn.astype(np.int64)


class Pool:
    """Instances of one kind under one stream, at any rate."""

    def __init__(self, profile: Profile, table: StepTable, requests: Requests, *, degree: int, clock_mhz: int) -> None:
        self._profile, self._table, self._requests = profile, table, requests
        self._degree, self._clock_mhz = degree, clock_mhz
        row = table.rows[table.row(tensor_parallel=max(profile.tensor_parallel), clock_mhz=profile.max_clock_mhz)]
        chunk = profile.max_batched_tokens if profile.interleaves_prefill else 0
        both = zip(requests.inputs, requests.outputs, strict=True)
        self._alone_ms = np.array([alone_ms(row, chunk, int(inputs), int(outputs)) for inputs, outputs in both])

    def missed(self, *, instances: int, order: Order, each_per_s: float, routers: int = 1) -> Mapping[SloRule, float]:
        """Return the share of requests that miss the SLO, by rule; each request comes to one of the routers by chance."""
        some = self._requests
        arrival_s = some.arrival_s / (each_per_s * instances)
        served: Served = serve(
            self._profile,
            tensor_parallel=self._degree,
            clock_mhz=self._clock_mhz,
            arrival_s=arrival_s,
            input_tokens=some.inputs,
            output_tokens=some.outputs,
            request_class=some.classes,
            instances=instances,
            router=np.random.default_rng(ROUTER_SEED).integers(0, routers, arrival_s.size),
            order=order,
            ttft_slo_s=TTFT_MS[some.classes] / 1e3,
            table=self._table,
        )
        counted = slice(int(WARM_UP * arrival_s.size), None)
        missed = (served.ttft_s * 1e3 > TTFT_MS[some.classes]) | (served.tbt_s * 1e3 > TBT_MS)
        beyond = (served.end_s - arrival_s) * 1e3 > ALONE * self._alone_ms
        return {
            SloRule.PER_REQUEST: float(missed[counted].mean()),
            SloRule.FIVE_TIMES_ALONE: float(beyond[counted].mean()),
            SloRule.PER_CLASS_PERCENTILE: max(self._worst(served, counted), *_long_gaps(served)),
        }

    def _worst(self, served: Served, counted: slice) -> float:
        """Return the share of late first tokens of the class that has most."""
        some = self._requests.classes[counted]
        late = (served.ttft_s * 1e3 > TTFT_MS[self._requests.classes])[counted]
        return max(float(late[some == one].mean()) for one in np.unique(some))


def _long_gaps(served: Served) -> list[float]:
    """Return the share of gaps between tokens that are too long, of each class that has any."""
    first = math.ceil(math.log(TBT_MS / GAP_LOWEST_MS) / math.log(GAP_RATIO))
    counts = [row for row in served.gaps if row.sum()]
    return [float(row[first:].sum() / row.sum()) for row in counts] or [0.0]


def largest(missed: Callable[[float], float], guess: float) -> float:
    """Return the largest rate whose misses are allowed, requests/s; 0.0: none that is worth the name."""
    low, high, rate = 0.0, math.inf, max(guess, LEAST_RATE)
    while low == 0 or high == math.inf:
        if not LEAST_RATE / 2 < rate < MOST_RATE:
            return 0.0
        if missed(rate) <= ALLOWED:
            low, rate = rate, rate * WIDEN
        else:
            high, rate = rate, rate / WIDEN
    while high / low > CLOSE:
        rate = math.sqrt(low * high)
        low, high = (rate, high) if missed(rate) <= ALLOWED else (low, rate)
    return math.sqrt(low * high)
