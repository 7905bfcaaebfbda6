"""What an instance carries and draws: the same answers in tables and one by one, monotone where they must be, refused outside the profile."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, SLO, mix, profile

from dynamollm.core.capacity import (
    OperatingPoint,
    capacity_per_s,
    capacity_table,
    operating_point,
    power_table,
    single_mix,
)
from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import OutOfRangeError
from dynamollm.core.ladder import build_ladder
from dynamollm.core.pooling import left_by
from dynamollm.core.records import ClassLoad, Load, Order, SloRule
from dynamollm.core.sizing import ProfileSizing, at_rate
from dynamollm.core.stream import mixes_of

SS, MM, LL = RequestClass.SS, RequestClass.MM, RequestClass.LL
DEGREES, CLOCKS = (2, 4, 8), (1200, 1980)
NAMES = pytest.mark.parametrize("name", [MODERN, PAPER])
ORDERS = pytest.mark.parametrize("order", list(Order))
RULES = pytest.mark.parametrize("rule", list(SloRule))

rates = st.dictionaries(st.sampled_from(list(RequestClass)), st.floats(0.01, 5.0), min_size=1, max_size=4)


def load_of(per_s: dict[RequestClass, float]) -> dict[RequestClass, ClassLoad]:
    lengths = mix(*RequestClass)
    return {c: replace(lengths[c], rate_per_s=rate) for c, rate in per_s.items()}


def carried(
    name: str, load: Load, *, tp: int = 4, mhz: int = 1980, order: Order = Order.FIRST_COME_FIRST_SERVED
) -> float:
    return capacity_per_s(profile(name), load=load, slo=SLO, tensor_parallel=tp, clock_mhz=mhz, order=order)


def at(name: str, load: Load, **more: object) -> OperatingPoint:
    given = {"slo": SLO, "tensor_parallel": 4, "clock_mhz": 1980, **more}
    return operating_point(profile(name), load=load, **given)  # type: ignore[arg-type]  # a table of arguments


@NAMES
@settings(max_examples=20)
@given(loads=st.lists(rates, min_size=1, max_size=3), order=st.sampled_from(list(Order)))
def test_many_mixes_at_once_get_the_answers_of_one_by_one(
    name: str, loads: list[dict[RequestClass, float]], order: Order
) -> None:
    loads = [{}, *loads]
    classes = tuple(RequestClass)
    lengths = mix(*classes)
    mixes = mixes_of(lengths, np.array([[load.get(c, 0.0) for c in classes] for load in loads]))
    table = capacity_table(
        profile(name), mixes, slo=SLO, order=order, tensor_parallel=DEGREES, clocks_mhz=CLOCKS
    ).alone_per_s
    for row, load in enumerate(loads):
        for column, degree in enumerate(DEGREES):
            for place, mhz in enumerate(CLOCKS):
                one = carried(name, load_of(load), tp=degree, mhz=mhz, order=order)
                assert table[row, column, place] == pytest.approx(one, rel=0.02, abs=1e-9)


@NAMES
@ORDERS
@RULES
def test_the_slo_holds_up_to_the_capacity_and_not_far_beyond(name: str, order: Order, rule: SloRule) -> None:
    load, slo = mix(SS, MM, LL), replace(SLO, rule=rule)
    rate = capacity_per_s(profile(name), load=load, slo=slo, tensor_parallel=8, clock_mhz=1980, order=order)
    assert rate > 0
    below, above = (
        at(name, at_rate(load, rate_per_s_wanted=share * rate), slo=slo, tensor_parallel=8, order=order)
        for share in (0.98, 1.05)
    )
    assert below.meets_slo
    assert not above.meets_slo


@NAMES
@settings(max_examples=20)
@given(per_s=rates, order=st.sampled_from(list(Order)))
def test_a_looser_slo_never_means_less(name: str, per_s: dict[RequestClass, float], order: Order) -> None:
    load = load_of(per_s)
    tight, loose = (
        capacity_per_s(
            profile(name),
            load=load,
            slo=replace(
                SLO,
                ttft_ms={c: factor * ms for c, ms in SLO.ttft_ms.items()},
                tbt_ms={c: factor * ms for c, ms in SLO.tbt_ms.items()},
            ),
            tensor_parallel=4,
            clock_mhz=1980,
            order=order,
        )
        for factor in (1.0, 1.5)
    )
    assert loose >= tight * 0.99


@NAMES
@settings(max_examples=20)
@given(per_s=rates, tp=st.sampled_from(DEGREES))
def test_a_higher_clock_never_carries_less(name: str, per_s: dict[RequestClass, float], tp: int) -> None:
    found = [carried(name, load_of(per_s), tp=tp, mhz=mhz) for mhz in (990, 1200, 1500, 1980)]
    assert all(later >= earlier * 0.99 for earlier, later in pairwise(found))


@NAMES
def test_watts_rise_with_the_load_from_those_of_rest(name: str) -> None:
    load = single_mix(mix(SS, MM, LL))
    assert load is not None
    shares = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    most = carried(name, mix(SS, MM, LL))
    watts = power_table(
        profile(name), load, tensor_parallel=(4,), clocks_mhz=(1980,), rate_per_s=(most * shares).reshape(1, 1, 1, -1)
    )[0, 0, 0]
    assert watts[0] == pytest.approx(4 * profile(name).loaded_idle_w)
    assert np.all(np.diff(watts) > 0)


@NAMES
@pytest.mark.parametrize(
    ("load", "tp", "mhz", "told"),
    [
        ({LL: ClassLoad(1.0, 9000.0, 400.0)}, 4, 1980, "input tokens 9000 of class LL .* it holds up to 8192"),
        ({SS: ClassLoad(1.0, 100.0, 50.0)}, 3, 1980, "tensor parallelism 3 .* it holds for 2, 4, 8"),
        ({SS: ClassLoad(1.0, 100.0, 50.0)}, 4, 100, "clock.* 100 "),
        ({SS: ClassLoad(0.0, 100.0, 50.0)}, 3, 1980, "tensor parallelism 3 .* it holds for 2, 4, 8"),
    ],
)
def test_outside_the_profile_nothing_is_guessed(name: str, load: Load, tp: int, mhz: int, told: str) -> None:
    with pytest.raises(OutOfRangeError, match=told):
        carried(name, load, tp=tp, mhz=mhz)
    with pytest.raises(OutOfRangeError, match=told):
        at(name, load, tensor_parallel=tp, clock_mhz=mhz)


@NAMES
def test_no_load_keeps_every_slo_at_rest(name: str) -> None:
    point = at(name, {SS: ClassLoad(0.0, 100.0, 50.0)})
    assert (point.meets_slo, point.attainment, point.busy) == (True, 1.0, 0.0)
    assert point.power_w == 4 * profile(name).loaded_idle_w
    assert carried(name, {SS: ClassLoad(0.0, 100.0, 50.0)}) == 0.0


@NAMES
def test_an_slo_that_one_request_alone_misses_is_carried_at_no_rate(name: str) -> None:
    never = replace(SLO, ttft_ms=dict.fromkeys(RequestClass, 1.0))
    assert capacity_per_s(profile(name), load=mix(LL), slo=never, tensor_parallel=4, clock_mhz=1980) == 0.0


# ------------------------------------------------------------------ pools behind several routers
@NAMES
def test_behind_several_routers_everything_that_plans_ask_for_counts_on_less(name: str) -> None:
    load = mix(SS, MM, LL, rate_per_s=20.0)
    model = profile(name)
    one, four = (ProfileSizing(profile=model, slo=SLO, routers=routers) for routers in (1, 4))
    mixes = single_mix(load)
    assert mixes is not None
    tables = [sizing.table(mixes, tensor_parallel=(4,)).capacity_per_s[0, 0] for sizing in (one, four)]
    assert tables[1] < 0.95 * tables[0]
    capacities = [sizing.capacity_per_s(load=load, tensor_parallel=4) for sizing in (one, four)]
    assert capacities == pytest.approx(tables, rel=0.02)
    ladders = [
        build_ladder(model, load=load, slo=SLO, tensor_parallel=4, instances=8, routers=routers) for routers in (1, 4)
    ]
    tops = [ladder.steps[-1].max_tokens_per_s for ladder in ladders]
    assert tops[1] < 0.95 * tops[0]
    share = at_rate(load, rate_per_s_wanted=1.05 * four.reserve * capacities[1])
    assert [at(name, share, instances=8, routers=routers).meets_slo for routers in (1, 4)] == [True, False]


@pytest.mark.parametrize("routers", [1, 2, 4, 32])
def test_a_gain_is_never_more_than_one_router_s_nor_nothing(routers: int) -> None:
    assert 0 < left_by(routers) <= 1
