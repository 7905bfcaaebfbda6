"""Load → clock: ladders that keep the SLO at least watts, and the choice that agents make on them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, SLO, mix, profile, spec

from dynamollm.core.capacity import capacity_per_s, operating_point
from dynamollm.core.classes import RequestClass
from dynamollm.core.ladder import build_ladder, ladder_clocks, left_to_clocks, select_clock
from dynamollm.core.loadmeter import TIME_CONSTANT_S
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Ladder, LadderStep, Load, Order, Slo, SloRule
from dynamollm.core.sizing import at_rate, ladder_clock, tokens_per_s

LADDER = Ladder(
    steps=(LadderStep(1000.0, 1005), LadderStep(2000.0, 1380), LadderStep(3000.0, 1680)),
    safe_mhz=1980,
)


def usable_per_s(model: Profile, *, load: Load, clock_mhz: int) -> float:
    """What ladders count on: a capacity, less what measured loads deviate by."""
    most = capacity_per_s(model, load=load, slo=SLO, tensor_parallel=4, clock_mhz=clock_mhz)
    return float(left_to_clocks(most, rule=SLO.rule))


classes = st.lists(st.sampled_from(list(RequestClass)), min_size=1, max_size=3, unique=True)


@pytest.mark.parametrize("name", [MODERN, PAPER])
@settings(max_examples=15)
@given(of=classes, tp=st.sampled_from([2, 4, 8]), order=st.sampled_from(list(Order)))
def test_more_load_never_means_a_lower_clock_and_each_clock_carries_its_load(
    name: str, of: list[RequestClass], tp: int, order: Order
) -> None:
    load = mix(*of)
    ladder = build_ladder(profile(name), load=load, slo=SLO, tensor_parallel=tp, order=order)
    clocks = [step.clock_mhz for step in ladder.steps]
    assert all(low < high for low, high in pairwise(clocks))
    assert all(low.max_tokens_per_s < high.max_tokens_per_s for low, high in pairwise(ladder.steps))
    assert set(clocks) <= set(ladder_clocks(profile(name)))
    for step in ladder.steps:
        rate = step.max_tokens_per_s / tokens_per_s(load)  # of a mix of one request per second
        most = capacity_per_s(
            profile(name), load=load, slo=SLO, tensor_parallel=tp, clock_mhz=step.clock_mhz, order=order
        )
        assert rate <= left_to_clocks(most, rule=SLO.rule) * 1.02 or step.clock_mhz == ladder.safe_mhz


@pytest.mark.parametrize("name", [MODERN, PAPER])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_no_other_clock_that_keeps_the_slo_draws_less(name: str, share: float) -> None:
    load = mix(RequestClass.SS, RequestClass.MM, RequestClass.LL)
    model = profile(name)
    ladder = build_ladder(model, load=load, slo=SLO, tensor_parallel=4)
    step = next(one for one in ladder.steps if one.max_tokens_per_s >= share * ladder.steps[-1].max_tokens_per_s)
    here = at_rate(load, rate_per_s_wanted=step.max_tokens_per_s / tokens_per_s(load))
    points = {
        mhz: operating_point(model, load=here, slo=SLO, tensor_parallel=4, clock_mhz=mhz)
        for mhz in ladder_clocks(model)
    }
    able = {
        mhz: point.power_w
        for mhz, point in points.items()
        if usable_per_s(model, load=load, clock_mhz=mhz) >= step.max_tokens_per_s / tokens_per_s(load)
    }
    assert points[step.clock_mhz].power_w <= 1.001 * min(able.values())


@given(low=st.floats(0.01, 50.0), times=st.floats(1.0, 100.0), rule=st.sampled_from(list(SloRule)))
def test_the_less_is_left_to_clocks_the_less_requests_the_measured_load_is_of(
    low: float, times: float, rule: SloRule
) -> None:
    few, many = (float(left_to_clocks(most, rule=rule)) for most in (low, low * times))
    assert 0 < few <= many
    assert few / low <= many / (low * times) + 1e-9 <= 1 + 1e-9
    # What is left and two deviations of its mean over the meter's time are the whole.
    whole = low if rule is not SloRule.FIVE_TIMES_ALONE else 0.85 * low
    assert few + 2.0 * (few / (2 * TIME_CONSTANT_S)) ** 0.5 == pytest.approx(whole)


def test_the_cheapest_clock_is_not_always_the_lowest_that_is_able() -> None:
    # Where resting costs nothing and being awake much, a slow step costs more than a quick one.
    measured = spec(MODERN)
    steep = measured.model_copy(
        update={
            "gpu": measured.gpu.model_copy(update={"loaded_idle_watts": 0}),
            "power": measured.power.model_copy(update={"static_watts": 300.0}),
        }
    )
    model, load = Profile.from_spec(steep), mix(RequestClass.LS)
    lowest = ladder_clocks(model)[0]
    ladder = build_ladder(model, load=load, slo=SLO, tensor_parallel=4)
    first = ladder.steps[0].max_tokens_per_s / tokens_per_s(load)
    assert usable_per_s(model, load=load, clock_mhz=lowest) > first / 2
    assert ladder.steps[0].clock_mhz > lowest


def test_where_no_clock_keeps_the_slo_there_is_the_highest_alone() -> None:
    never = Slo(ttft_ms=dict.fromkeys(RequestClass, 1.0), tbt_ms=dict.fromkeys(RequestClass, 1.0))
    for load, slo in ((mix(RequestClass.LL), never), ({RequestClass.LL: ClassLoad(0.0, 2000.0, 400.0)}, SLO)):
        assert build_ladder(profile(MODERN), load=load, slo=slo, tensor_parallel=4) == Ladder(steps=(), safe_mhz=1980)


@pytest.mark.parametrize(
    ("tokens", "waiting", "running", "current", "wanted", "why"),
    [
        (500.0, 0, 4, None, 1005, "the first choice follows the load"),
        (1000.0, 0, 4, None, 1005, "a step holds up to its load"),
        (1001.0, 0, 4, 1005, 1380, "up at once"),
        (9000.0, 0, 4, 1005, 1980, "above all steps: the safe clock"),
        (1950.0, 0, 4, 1680, 1680, "down only with a margin"),
        (1700.0, 0, 4, 1680, 1380, "low enough for the lower step, margin included"),
        (850.0, 0, 4, 1980, 1005, "down as far as the margin lets"),
        (950.0, 0, 4, 1980, 1380, "and no further"),
        (None, 0, 4, 1005, 1980, "unknown load"),
        (500.0, None, 4, 1005, 1980, "unknown queue"),
        (500.0, 0, None, 1005, 1980, "unknown batch"),
        (500.0, 2, 0, 1005, 1005, "a queue of two is none yet"),
        (500.0, 3, 0, 1005, 1980, "a queue that grows"),
        (500.0, 9, 20, 1005, 1005, "a queue shorter than half the batch is none"),
        (500.0, 10, 20, 1005, 1980, "one as long as half the batch is"),
    ],
)
def test_an_agents_choice(  # noqa: PLR0917 - a table
    tokens: float | None, waiting: int | None, running: int | None, current: int | None, wanted: int, why: str
) -> None:
    found = select_clock(LADDER, tokens_per_s=tokens, waiting=waiting, running=running, current_mhz=current)
    assert found == wanted, why


@given(tokens=st.floats(0.0, 5000.0), current=st.sampled_from([None, 1005, 1380, 1680, 1980]))
def test_a_choice_is_kept_while_the_load_stays_and_always_carries_it(tokens: float, current: int | None) -> None:
    chosen = select_clock(LADDER, tokens_per_s=tokens, waiting=0, running=1, current_mhz=current)
    assert chosen >= ladder_clock(LADDER, tokens_per_s_of_instance=tokens)
    assert select_clock(LADDER, tokens_per_s=tokens, waiting=0, running=1, current_mhz=chosen) == chosen
