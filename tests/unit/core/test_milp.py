"""Pools that share limits: the programme against enumeration, and the rows of the nodes against packing."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_partition import partitions

from dynamollm.core.coupling import coupling, is_chain
from dynamollm.core.inventory import fits
from dynamollm.core.milp import solve
from dynamollm.core.objective import Budget, Weights, usd_per_hour
from dynamollm.core.options import Subsets
from dynamollm.core.records import Prices
from dynamollm.core.sizing import UTILISATION_STEPS, SizeTable


@settings(max_examples=300)
@given(
    degrees=st.sampled_from([(1, 2, 4, 8), (2, 4, 8), (2, 8), (4,), (1, 3, 6)]),
    counts=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    bins=st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple),
)
def test_the_rows_of_the_nodes_say_exactly_whether_instances_fit(
    degrees: tuple[int, ...], counts: list[int], bins: tuple[int, ...]
) -> None:
    wanted = dict(zip(degrees, counts, strict=False))
    shared = coupling(degrees, max_gpus=10_000, budget=Budget(), bins=bins)
    allowed = not shared.broken(np.array([wanted[tp] for tp in degrees]), 0.0)
    assert is_chain(degrees)
    assert allowed == fits(wanted, bins=bins)


@given(data=st.data(), degrees=st.sampled_from([(2, 3), (2, 3, 6), (4, 6)]))
def test_the_rows_of_degrees_that_are_no_chain_refuse_nothing_that_fits(
    data: st.DataObject, degrees: tuple[int, ...]
) -> None:
    placed = data.draw(st.lists(st.lists(st.sampled_from(degrees), max_size=3), min_size=1, max_size=5))
    shared = coupling(degrees, max_gpus=10_000, budget=Budget(), bins=tuple(sum(node) for node in placed))
    assert not is_chain(degrees)
    there = Counter(itertools.chain.from_iterable(placed))
    assert not shared.broken(np.array([there[tp] for tp in degrees]), 0.0)


def test_degrees_that_do_not_divide_each_other_are_no_chain() -> None:
    assert not is_chain((2, 3))
    # Each TP3 leaves a GPU that no TP2 can use, which the rows do not see.
    shared = coupling((2, 3), max_gpus=99, budget=Budget(), bins=(4, 4, 4))
    assert not shared.broken(np.array([3, 2]), 0.0)
    assert not shared.fits({2: 3, 3: 2})


PRICES = Prices(electricity_usd_per_kwh=0.2, gpu_usd_per_hour=2.0)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    classes=st.integers(1, 3),
    degrees=st.sampled_from([(1, 2), (2, 4), (2, 3)]),
    max_gpus=st.integers(2, 12),
    max_watts=st.just(math.inf) | st.floats(200, 1500),
    max_usd=st.just(math.inf) | st.floats(3, 25),
    bins=st.none() | st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    instances=st.none() | st.integers(1, 4),
    min_instances=st.integers(1, 4),
    pools=st.none() | st.integers(1, 3),
)
def test_the_plan_within_limits_is_that_of_enumeration(  # noqa: PLR0917 - drawn by name
    data: st.DataObject,
    classes: int,
    degrees: tuple[int, ...],
    max_gpus: int,
    max_watts: float,
    max_usd: float,
    bins: tuple[int, ...] | None,
    instances: int | None,
    min_instances: int,
    pools: int | None,
) -> None:
    rows = 2**classes - 1
    single = np.array([data.draw(st.floats(0.2, 3.0)) for _ in range(classes)])
    member = np.arange(1, rows + 1)[:, None] >> np.arange(classes) & 1
    capacity = np.array([[data.draw(st.floats(0.4, 1.2)) * tp for tp in degrees] for _ in range(rows)])
    slope = data.draw(st.floats(5.0, 20.0))
    stairs = np.arange(UTILISATION_STEPS + 1)
    power = np.array([[[tp * (60 + slope * step) for step in stairs] for tp in degrees] for _ in range(rows)])
    budget = Budget(max_watts, max_usd, PRICES)
    subsets = Subsets(
        rate_per_s=member @ single,
        degrees=degrees,
        table=SizeTable(capacity_per_s=capacity, power_w=power),
        have=np.zeros((rows, len(degrees)), dtype=np.int64),
        start_w=0.0,
        weights=Weights(gpu=data.draw(st.floats(-20.0, 50.0))),
        max_gpus=max_gpus,
        budget=budget,
    )
    shared = coupling(
        degrees,
        max_gpus=max_gpus,
        budget=budget,
        bins=bins,
        min_instances=min_instances,
        instances=instances,
        pools=pools,
    )
    found = solve(subsets, np.arange(1, rows + 1), classes=classes, coupling=shared)

    everything = [
        np.array(counts)
        for counts in itertools.product(*(range(max_gpus // tp + 1) for tp in degrees))
        if 0 < np.dot(counts, degrees) <= max_gpus
    ]
    priced: list[list[tuple[float, float, np.ndarray]]] = []
    for row in range(rows):
        choices = []
        for counts in everything:
            carried = float(counts @ capacity[row])
            if carried >= subsets.rate_per_s[row] * (1 - 1e-12):
                step = math.ceil(subsets.rate_per_s[row] / carried * UTILISATION_STEPS - 1e-9)
                watts = float(counts @ power[row, :, min(step, UTILISATION_STEPS)])
                choices.append((watts + subsets.weights.gpu * float(counts @ np.array(degrees)), watts, counts))
        priced.append(choices)
    best = math.inf
    for parts in partitions(list(range(classes))):
        if pools is not None and len(parts) != pools:
            continue
        for chosen in itertools.product(*(priced[part - 1] for part in parts)):
            cost = sum(one[0] for one in chosen)
            if cost >= best:
                continue
            watts, counts = sum(one[1] for one in chosen), sum(one[2] for one in chosen)
            gpus, total = float(counts @ np.array(degrees)), int(counts.sum())
            mix = Counter(dict(zip(degrees, (int(n) for n in counts), strict=True)))
            if (
                gpus <= max_gpus
                and watts <= max_watts
                and usd_per_hour(PRICES, watts=watts, gpus=gpus) <= max_usd
                and (bins is None or fits(mix, bins=bins))
                and (total == instances if instances is not None else total >= min_instances)
            ):
                best = cost
    if math.isinf(best):
        assert found is None
    else:
        assert found is not None
        assert found.cost == pytest.approx(best)
        assert found.gap == pytest.approx(0.0, abs=1e-6)
