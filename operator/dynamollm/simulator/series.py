"""A run's timeline as plain lists, thinned out: what the report plots, and what crosses between processes."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from dynamollm.simulator.replay import Ended
from dynamollm.simulator.timeline import Sample

_POINTS: Final = 700
"""Of a curve: more than a screen shows."""


def series_of(ended: Ended) -> dict[str, Any]:
    """Return the timeline of a run.

    ``hours`` [point]; by pool ``power_w``, ``instances``, ``gpus``, ``clock_mhz``; ``degrees``: instances by TP degree;
    ``attainment``: share of the requests that ended since the point before within their SLO, null where none did.
    """
    blocks = _blocks(ended.timeline.samples)
    pools = sorted({key[0] for block in blocks for sample in block for key in sample.instances})
    degrees = sorted({key[1] for block in blocks for sample in block for key in sample.instances})

    def curve(value: Callable[[Sample], float]) -> list[float]:
        return [round(sum(value(sample) for sample in block) / len(block), 3) for block in blocks]

    def clock(pool: str) -> list[float | None]:
        means: list[float | None] = []
        for block in blocks:
            known = [sample.clock_mhz[pool] for sample in block if pool in sample.clock_mhz]
            means.append(round(sum(known) / len(known)) if known else None)
        return means

    def held(pool: str, *, gpus: bool) -> list[float]:
        return curve(
            lambda sample: sum(
                count * (degree if gpus else 1) for (name, degree), count in sample.instances.items() if name == pool
            )
        )

    def power(pool: str) -> list[float]:
        return curve(lambda sample: sample.power_w.get(pool, 0.0))

    def of_degree(degree: int) -> list[float]:
        return curve(lambda sample: sum(count for (_, other), count in sample.instances.items() if other == degree))

    return {
        "hours": [round(block[-1].time_s / 3600, 4) for block in blocks],
        "power_w": {pool: power(pool) for pool in pools},
        "instances": {pool: held(pool, gpus=False) for pool in pools},
        "gpus": {pool: held(pool, gpus=True) for pool in pools},
        "clock_mhz": {pool: clock(pool) for pool in pools},
        "degrees": {f"TP{degree}": of_degree(degree) for degree in degrees},
        "attainment": [_attainment(block) for block in blocks],
    }


def _blocks(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    size = max(1, -(-len(samples) // _POINTS))
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _attainment(block: Sequence[Sample]) -> float | None:
    ended = sum(int(sample.requests.sum()) for sample in block)
    return round(sum(int(sample.met.sum()) for sample in block) / ended, 5) if ended else None
