"""How often the SLO is missed, in closed form, by its three rules; see `core.stream` for shapes and units.

Each time is a certain part (a prompt's own steps, at five lengths that stand for its class's) plus a wait by mean and
variance, taken as gamma-distributed: the cube root of a gamma variable is nearly normal (Wilson and Hilferty, 1931), and
the normal tail is taken as 1 / (1 + exp(1.5976 z + 0.07056 z³)) (error below 2e-4), in single precision: this is the inner
loop of planning.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.profile import Profile
from dynamollm.core.records import Order, Slo, SloRule
from dynamollm.core.steptable import Floats, step_table
from dynamollm.core.stream import State, Stream
from dynamollm.core.waiting import Waits, waits

Singles: TypeAlias = NDArray[np.float32]

ALONE_FACTOR: Final = 5.0
"""SloRule.FIVE_TIMES_ALONE: the end-to-end latency may be so many times that of the request alone."""

_OUTPUT_POINTS: Final = (-1.0, 1.0)
"""Deviations from the mean output, of equal weight: a short answer has less slack, a long one more."""

_HALVINGS: Final = 16
"""Of a bracket around a percentile: an error below 0.02 %."""

_TINY: Final = np.float32(1e-9)
_HALF, _TWELFTH = np.float32(1 / 2), np.float32(1 / 12)


@dataclass(frozen=True)
class Limits:
    """An SLO over the classes of a stream, and the order in which they are served."""

    slo: Slo
    order: Order
    ttft_ms: Floats
    """[class]"""
    tbt_ms: Floats
    """[class]"""
    alone_ms: Floats | None
    """End-to-end latency alone of [class, quadrature, output]; None: another rule."""

    @property
    def allowed(self) -> float:
        """The share that may miss the SLO."""
        return 1 - self.slo.percentile / 100


def limits_of(profile: Profile, stream: Stream, slo: Slo, order: Order) -> Limits:
    """Return the limits by class."""
    classes = stream.mixes.classes
    alone = None
    if slo.rule is SloRule.FIVE_TIMES_ALONE:
        alone = _alone_ms(profile, stream)
    return Limits(
        slo,
        order,
        np.array([slo.ttft_ms[c] for c in classes], np.float64),
        np.array([slo.tbt_ms[c] for c in classes], np.float64),
        alone,
    )


def missed(stream: Stream, s: State, limits: Limits) -> Floats:
    """Return the share that misses the SLO, [mix, point]: of requests, or by PER_CLASS_PERCENTILE of the worst class."""
    found = waits(stream, s, limits.ttft_ms, limits.order)
    shares = stream.shares[:, None, :]
    if limits.slo.rule is SloRule.PER_REQUEST:
        kept = (1 - late(stream, s, found, limits.ttft_ms)) * (1 - slow(stream, s, limits.tbt_ms))
        weighed: Floats = ((1 - kept) * shares).sum(axis=-1)
        return weighed
    if limits.slo.rule is SloRule.PER_CLASS_PERCENTILE:
        worst = np.maximum(late(stream, s, found, limits.ttft_ms), long_gaps(stream, s, limits.tbt_ms))
        largest: Floats = np.where(shares > 0, worst, 0.0).max(axis=-1)
        return largest
    return _beyond_alone(stream, s, found, limits)


# ------------------------------------------------------------------ first tokens
def late(stream: Stream, s: State, found: Waits, limits_ms: Floats) -> Singles:
    """Return the probability that a first token comes after a limit, [mix, point, class].

    Args:
        stream: the mixes.
        s: their state.
        found: what first tokens wait for.
        limits_ms: [class], or [mix, point, class].
    """
    base = stream.step_base_ms(s)[..., None, None].astype(np.float32)
    steps, prompt_ms = (array.astype(np.float32) for array in (stream.prompt_steps(), stream.prompt_ms))
    slack = limits_ms.astype(np.float32)[..., None] - prompt_ms - steps * base
    above: Singles = _over_cases(found, slack, None, None) @ stream.weights.astype(np.float32)
    return above


def _over_cases(found: Waits, slack: Singles, mean: Singles | None, variance: Singles | None) -> Singles:
    """Return P(wait + extra > slack) over the cases, for slacks of [mix, point, class, any]; extra by mean and variance."""
    group = np.array(found.group)
    log_slack = np.log(np.maximum(slack, _TINY))

    def of(array: Floats) -> Singles:
        picked: Singles = (array[..., group] if array.shape[-1] > 1 else array)[..., None].astype(np.float32)
        return picked

    def case(case_mean: Floats, case_variance: Floats) -> Singles:
        m, v = of(case_mean), of(case_variance)
        return beyond(log_slack, m if mean is None else m + mean, v if variance is None else v + variance)

    queued = of(found.queued)
    quiet = 1 - queued
    total = queued * case(found.queued_mean, found.queued_variance)
    if found.later is not None:
        later = of(found.later)
        quiet = quiet - later
        total += later * case(found.later_mean, found.later_variance)
    step: Singles = found.quiet_ms[..., None, None].astype(np.float32) + _TINY
    if mean is None or variance is None:
        total += quiet * np.clip(1 - slack / step, 0.0, 1.0)
    else:
        total += quiet * beyond(log_slack, mean + step * _HALF, variance + step * step * _TWELFTH)
    return total


def beyond(log_slack: Singles, mean: Singles, variance: Singles) -> Singles:
    """Return the probability that a gamma-distributed time of this mean and variance is above exp(log_slack)."""
    mean, variance = np.maximum(mean, _TINY), np.maximum(variance, _TINY)
    ninth = variance / (9 * mean * mean)
    root = np.sqrt(ninth)
    z = np.exp((log_slack - np.log(mean)) * np.float32(1 / 3))
    z -= 1 - ninth
    z /= root
    np.clip(z, -6.0, 6.0, out=z)
    z *= np.float32(1.5976) + np.float32(0.07056) * z * z
    np.exp(z, out=z)
    z += 1
    above: Singles = np.reciprocal(z, out=z)
    return above


# ------------------------------------------------------------------ the tokens after it
def token_tail(stream: Stream, s: State, gaps: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the certain part, mean beyond it and variance of the mean TBT over gaps of [class]; [mix, point, class]."""
    least = stream.decode_ms(np.ones_like(s.batch))
    base = stream.base_ms
    stall = stream.added[1] + 2 * stream.added[0] * base + base**2
    prompts = (s.per_ms * s.token_ms * stall)[..., None] / gaps
    spread = stream.decode_ms(2 + s.batch) - s.decode_ms
    steady = (spread / (1 - s.prompt_share)) ** 2 * s.batch
    return least[..., None], (s.token_ms - least)[..., None], prompts + steady[..., None]


def slow(stream: Stream, s: State, limits_ms: Floats) -> Singles:
    """Return the probability that a request's mean TBT is above a limit, [mix, point, class]."""
    certain, mean, variance = token_tail(stream, s, np.maximum(1.0, stream.mixes.output_tokens - 1))
    slack = np.log(np.maximum(limits_ms - certain, 1e-9)).astype(np.float32)
    return beyond(slack, mean.astype(np.float32), variance.astype(np.float32))


def long_gaps(stream: Stream, s: State, limits_ms: Floats) -> Floats:
    """Return the share of all gaps between tokens that are above a limit, [mix, point, class].

    A gap is long where a prompt beside it fills the slack (in as many full steps as it takes, where those are long), or
    the batch alone does.
    """
    distinct, which = np.unique(limits_ms, return_inverse=True)
    columns = [_long_gaps(stream, s, float(limit)) for limit in distinct]
    return np.stack(columns, axis=-1)[..., which]


def _long_gaps(stream: Stream, s: State, limit_ms: float) -> Floats:
    slack = limit_ms - s.decode_ms
    spread = (stream.decode_ms(2 + s.batch) - s.decode_ms) * np.sqrt(s.batch)
    z = np.clip(slack / np.maximum(spread, _TINY), -6.0, 6.0)
    alone = 1 / (1 + np.exp(1.5976 * z + 0.07056 * z**3))
    room = np.maximum(slack - stream.base_ms, 1e-9) / (1 + np.minimum(s.prompt_share, 0.5))
    e1, e2, _ = stream.class_added  # [point, class], log-normal by two moments
    sigma = np.sqrt(np.log(np.maximum(e2 / e1**2, 1 + 1e-6)))
    z = np.clip((np.log(room)[..., None] - np.log(e1) + sigma**2 / 2) / sigma, -6.0, 6.0)
    longer = 1 / (1 + np.exp(1.5976 * z + 0.07056 * z**3))
    if stream.chunked:
        several = np.maximum(e1 / stream.full_ms[:, None], 1.0)
        longer = np.where((slack < stream.full_ms)[..., None], longer * several, 0.0)
    share = (stream.shares[:, None, :] * longer).sum(axis=-1)
    hit = 1 - np.exp(-s.per_ms * (s.token_ms if stream.chunked else s.decode_ms) * share)
    gaps: Floats = np.minimum(1.0, alone + hit)
    return gaps


# ------------------------------------------------------------------ five times alone
def _alone_ms(profile: Profile, stream: Stream) -> Floats:
    """Return the end-to-end latency of requests alone at the largest TP degree and the highest clock."""
    table = step_table(profile, (max(profile.tensor_parallel),), (profile.max_clock_mhz,))
    inputs, gaps = stream.prompt_tokens[..., None], _gaps(stream)[:, None, :]
    decode = table.decode_ms(np.ones_like(inputs), inputs + gaps / 2)
    if not stream.chunked:
        whole: Floats = table.prefill_ms(inputs, inputs * inputs) + gaps * decode
        return whole
    chunks, rest = np.divmod(inputs, stream.budget)
    full, part = np.full_like(inputs, stream.budget), np.maximum(rest, 1.0)
    prompt = chunks * table.prefill_ms(full, 0.0 * full) + np.where(rest > 0, table.prefill_ms(part, 0.0 * part), 0.0)
    latency: Floats = prompt + inputs * inputs * table.c["square_ms"] + gaps * decode
    return latency


def _gaps(stream: Stream) -> Floats:
    """Return the gaps between the tokens of answers that stand for a class's, [class, output]."""
    sigma = np.sqrt(np.log(1 + stream.output_cv**2))[:, None]
    outputs = stream.mixes.output_tokens[:, None] * np.exp(sigma * np.array(_OUTPUT_POINTS) - sigma**2 / 2)
    gaps: Floats = np.maximum(outputs - 1, 0.0)
    return gaps


def _beyond_alone(stream: Stream, s: State, found: Waits, limits: Limits) -> Floats:
    alone, gaps = limits.alone_ms, _gaps(stream)
    if alone is None:
        raise ValueError("FiveTimesAlone needs the latencies of requests alone: use limits_of")
    base = stream.step_base_ms(s)[..., None, None]
    steps, weights = stream.prompt_steps(), stream.weights.astype(np.float32)
    total = np.zeros((*s.batch.shape, gaps.shape[0]), np.float32)
    for output in range(gaps.shape[1]):
        some = gaps[:, output]
        _, _, variance = token_tail(stream, s, np.maximum(some, 1.0))
        slack = ALONE_FACTOR * alone[..., output] - (some * s.decode_ms[..., None])[..., None]
        slack = slack - steps * base - stream.prompt_ms
        # What prompts beside them add to tokens comes in lumps.
        lumps = (some * (s.token_ms - s.decode_ms)[..., None])[..., None].astype(np.float32)
        noise = (some**2 * variance)[..., None].astype(np.float32)
        total += _over_cases(found, slack.astype(np.float32), lumps, noise) @ weights / gaps.shape[1]
    weighed: Floats = (stream.shares[:, None, :] * total).sum(axis=-1)
    return weighed


# ------------------------------------------------------------------ percentiles
def ttft_quantile_ms(stream: Stream, s: State, limits: Limits, above: float) -> Floats:
    """Return the TTFT that this share of a class's requests is above, [mix, point, class]."""
    found = waits(stream, s, limits.ttft_ms, limits.order)
    scale = stream.step_base_ms(s)[..., None] + (stream.prompt_ms @ stream.weights)
    return _solved(lambda limit: late(stream, s, found, limit), scale, above)


def tbt_quantile_ms(stream: Stream, s: State, above: float) -> Floats:
    """Return the mean TBT that this share of a class's requests is above, [mix, point, class]."""
    scale = s.token_ms[..., None] + np.zeros(stream.mixes.output_tokens.size)
    return _solved(lambda limit: slow(stream, s, limit), scale, above)


def _solved(exceeds: Callable[[Floats], Singles], scale: Floats, above: float) -> Floats:
    """Return the time that is exceeded with this probability, by halving between a tenth and 1000 times the scale."""
    low, high = np.full_like(scale, math.log(0.1)), np.full_like(scale, math.log(1e3))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = exceeds(scale * np.exp(middle)) > above
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    solved: Floats = scale * np.exp((low + high) / 2)
    return solved
