"""The dynamic programme and the table of choices against enumeration of everything."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamollm.core.objective import Weights
from dynamollm.core.options import Subsets, least_options
from dynamollm.core.partition import least_partition
from dynamollm.core.sizing import UTILISATION_STEPS, SizeTable


def partitions(items: list[int]) -> Iterator[list[int]]:
    """Every partition of bits, as masks."""
    if not items:
        yield []
        return
    first, *rest = items
    for others in partitions(rest):
        yield [1 << first, *others]
        for index, part in enumerate(others):
            yield [*others[:index], part | 1 << first, *others[index + 1 :]]


COST = st.just(math.inf) | st.floats(1.0, 100.0)


@settings(max_examples=100)
@given(data=st.data(), count=st.integers(1, 5), pools=st.none() | st.integers(1, 5))
def test_the_partition_and_the_next_best_are_those_of_enumeration(
    data: st.DataObject, count: int, pools: int | None
) -> None:
    cost = np.array([math.inf, *data.draw(st.lists(COST, min_size=2**count - 1, max_size=2**count - 1))])
    everything = sorted(
        (sum(cost[mask] for mask in parts), parts)
        for parts in partitions(list(range(count)))
        if pools is None or len(parts) == pools
    )
    finite = [total for total, _ in everything if math.isfinite(total)]
    found = least_partition(cost, pools=pools)
    if not finite:
        assert found is None
        return
    assert found is not None
    assert found.cost == pytest.approx(finite[0])
    assert sum(cost[mask] for mask in found.parts) == pytest.approx(found.cost)
    assert sum(found.parts) == 2**count - 1
    assert pools is None or len(found.parts) == pools
    assert found.runner_up_cost == pytest.approx(finite[1] if len(finite) > 1 else math.inf)
    assert set(found.runner_up) != set(found.parts)
    # The bound for the rest is the best of the rest.
    for mask in range(1, 2**count):
        rest = [bit for bit in range(count) if not mask >> bit & 1]
        least = min(sum(cost[part] for part in parts) for parts in partitions(rest))
        assert found.completion[mask] == pytest.approx(least)


def test_nine_classes_have_as_many_partitions_as_bell_says() -> None:
    assert sum(1 for _ in partitions(list(range(9)))) == 21_147
    rng = np.random.default_rng(1)
    cost = np.concatenate([[math.inf], rng.uniform(1.0, 2.0, 511) * np.array([m.bit_count() for m in range(1, 512)])])
    found = least_partition(cost)
    assert found is not None
    assert found.cost == pytest.approx(min(sum(cost[mask] for mask in parts) for parts in partitions(list(range(9)))))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), degrees=st.sampled_from([(1, 2), (2, 4), (4, 8), (2, 4, 8)]), gpu=st.floats(-50.0, 200.0))
def test_the_cheapest_mix_is_that_of_enumeration(data: st.DataObject, degrees: tuple[int, ...], gpu: float) -> None:
    max_gpus = 16
    capacity = np.array([[data.draw(st.floats(0.5, 1.5)) * tp for tp in degrees]])
    rise = np.array([[data.draw(st.lists(st.floats(0, 100), min_size=20, max_size=20)) for _ in degrees]])
    idle = 60.0 * np.array(degrees)[None, :, None]
    power = idle + np.concatenate([np.zeros((1, len(degrees), 1)), np.cumsum(rise, axis=2)], axis=2)
    subsets = Subsets(
        rate_per_s=np.array([data.draw(st.floats(0.1, 20.0))]),
        degrees=degrees,
        table=SizeTable(capacity_per_s=capacity, power_w=power),
        have=np.array([[data.draw(st.integers(0, 3)) for _ in degrees]]),
        start_w=data.draw(st.floats(0.0, 20.0)),
        weights=Weights(gpu=gpu),
        max_gpus=max_gpus,
    )
    best = math.inf
    for counts in itertools.product(*(range(max_gpus // tp + 1) for tp in degrees)):
        gpus = sum(n * tp for n, tp in zip(counts, degrees, strict=True))
        carried = sum(n * c for n, c in zip(counts, capacity[0], strict=True))
        if not 0 < gpus <= max_gpus or sum(n > 0 for n in counts) > 2 or carried < subsets.rate_per_s[0]:
            continue
        step = math.ceil(subsets.rate_per_s[0] / carried * UTILISATION_STEPS - 1e-9)
        watts = sum(n * power[0, i, step] for i, n in enumerate(counts))
        new = sum(max(0, n - have) * tp for n, have, tp in zip(counts, subsets.have[0], degrees, strict=True))
        best = min(best, watts + gpu * gpus + new * subsets.start_w)
    cost, index, options = least_options(subsets)
    assert cost[0] == pytest.approx(best)
    if math.isfinite(best):
        assert options.cost[index[0]] == cost[0]
        assert options.counts[index[0]] @ np.array(degrees) == options.gpus[index[0]] <= max_gpus
