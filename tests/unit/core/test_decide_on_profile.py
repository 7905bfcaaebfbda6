"""Decisions on the shipped H100 profiles: the whole way from a manifest to a plan."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from decision_world import World, make_service
from model_fixtures import MODERN, PAPER, paper_mix
from model_fixtures import profile as shipped

from dynamollm.core.capacity import capacity_table, operating_point, single_mix
from dynamollm.core.classes import ClassBoundaries, Length, RequestClass
from dynamollm.core.decide import decide, sizing_of
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.margins import Reserve
from dynamollm.core.mix import size_pools
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Observation, Order, Plan, PolicyName, Service, Slo
from dynamollm.core.sizing import ProfileSizing

TTFT_MS = {Length.SHORT: 250.0, Length.MEDIUM: 400.0, Length.LONG: 2000.0}
SLO = Slo(ttft_ms={c: TTFT_MS[c.input_length] for c in RequestClass}, tbt_ms=dict.fromkeys(RequestClass, 100.0))
SERVICE = make_service(slo=SLO)
LENGTHS = {c: (part.input_tokens, part.output_tokens) for c, part in typical_lengths(ClassBoundaries()).items()}


@pytest.fixture(scope="module", params=[MODERN, PAPER])
def profile(request: pytest.FixtureRequest) -> Profile:
    return shipped(request.param)


def look(rate_per_s: float) -> tuple[World, Observation]:
    world = World(nodes={f"n{i:02d}": 8 for i in range(12)})
    return world, world.observe(paper_mix(rate_per_s, end_s=world.now_s))


def decided(service: Service, profile: Profile, rate_per_s: float) -> Plan:
    world, observation = look(rate_per_s)
    return decide(service, profile, observation, now_s=world.now_s, available_gpus=96)


@pytest.mark.parametrize("rate_per_s", [0.5, 10.0])
def test_the_load_is_carried_below_the_highest_clock_and_at_fewer_watts_than_single_pool(
    profile: Profile, rate_per_s: float
) -> None:
    plan = decided(SERVICE, profile, rate_per_s)
    assert plan.reason == "Initial"
    assert all(pool.capacity_per_s >= pool.rate_per_s for pool in plan.pools)
    assert sum(pool.rate_per_s for pool in plan.pools) == pytest.approx(rate_per_s)
    assert any(group.clock_mhz < profile.max_clock_mhz for pool in plan.pools for group in pool.groups)
    single = decided(replace(SERVICE, policy=PolicyName.SINGLE_POOL), profile, rate_per_s)
    assert plan.power_w < 0.8 * single.power_w


def test_the_plan_on_a_profile_is_its_own_fixed_point(profile: Profile) -> None:
    world, observation = look(5.0)
    plan = decide(SERVICE, profile, observation, now_s=world.now_s, available_gpus=96)
    again = decide(SERVICE, profile, replace(observation, plan=plan), now_s=world.now_s, available_gpus=96)
    assert again == plan


@pytest.mark.parametrize("policy", [PolicyName.SINGLE_POOL_ELASTIC, PolicyName.JOINT])
def test_more_load_never_means_fewer_watts(profile: Profile, policy: PolicyName) -> None:
    service = replace(SERVICE, policy=policy)
    watts = [decided(service, profile, float(rate)).power_w for rate in np.geomspace(0.2, 12.0, 25)]
    assert all(more >= less * (1 - 1e-9) for less, more in pairwise(watts))


def test_degrees_that_the_profile_does_not_know_are_left_out_and_none_left_is_an_error(profile: Profile) -> None:
    some = decided(replace(SERVICE, tensor_parallel=(4, 16)), profile, 2.0)
    assert {group.tensor_parallel for pool in some.pools for group in pool.groups} == {4}
    with pytest.raises(InvalidInputError, match=r"gpu.tensorParallel \[16\]"):
        decided(replace(SERVICE, tensor_parallel=(16,)), profile, 2.0)


def test_answers_do_not_depend_on_what_was_asked_before(profile: Profile) -> None:
    """They are remembered by mix, and a mix at another rate is another pool."""
    low, high = (
        {c: replace(part, rate_per_s=rate) for c, part in typical_lengths(ClassBoundaries()).items()}
        for rate in (0.1, 3.0)
    )
    used = ProfileSizing(profile=profile, slo=SLO)
    for mix in (low, high, low):
        fresh = ProfileSizing(profile=profile, slo=SLO)
        asked = used.capacity_per_s(load=mix, tensor_parallel=4)
        assert asked == pytest.approx(fresh.capacity_per_s(load=mix, tensor_parallel=4), rel=1e-9)
        assert used.ladder(load=mix, tensor_parallel=4) == fresh.ladder(load=mix, tensor_parallel=4)


def test_the_table_says_what_is_said_one_by_one(profile: Profile) -> None:
    sizing = ProfileSizing(profile=profile, slo=SLO)
    mixes = [
        {c: replace(part, rate_per_s=rate) for c, part in typical_lengths(ClassBoundaries()).items()}
        for rate in (0.01, 0.2, 1.0, 7.0)
    ]
    sized = size_pools(sizing, mixes, tensor_parallel=(4, 8))
    for mix, one in zip(mixes, sized, strict=True):
        for degree in (4, 8):
            asked = sizing.capacity_per_s(load=mix, tensor_parallel=degree)
            assert one.capacity_by_tp[degree] == pytest.approx(asked, rel=1e-9)
    # The larger the pool, the more each of its instances carries.
    by_size = [one.capacity_by_tp[8] for one in sized]
    assert by_size == sorted(by_size)
    assert by_size[0] < by_size[-1]


def test_a_pool_keeps_the_slo_at_rates_that_one_alone_does_not(profile: Profile) -> None:
    mix = {c: replace(part, rate_per_s=1.0) for c, part in typical_lengths(ClassBoundaries()).items()}
    at = {"tensor_parallel": 8, "clock_mhz": profile.max_clock_mhz}
    asked = single_mix(mix)
    assert asked is not None
    one = capacity_table(
        profile,
        asked,
        slo=SLO,
        order=Order.FIRST_COME_FIRST_SERVED,
        tensor_parallel=(8,),
        clocks_mhz=(profile.max_clock_mhz,),
    )
    each = float(one.in_pool(8)[0, 0, 0])
    # A little below: both are found to within half a percent.
    scale = 0.98 * each / sum(part.rate_per_s for part in mix.values())
    assert not operating_point(profile, load=mix, slo=SLO, scale=scale, **at).meets_slo
    pooled = operating_point(profile, load=mix, slo=SLO, scale=scale, instances=8, **at)
    assert pooled.meets_slo
    assert not operating_point(profile, load=mix, slo=SLO, scale=1.05 * scale, instances=8, **at).meets_slo


def test_what_instances_are_worth_follows_the_service(profile: Profile) -> None:
    load = {c: ClassLoad(20.0 * share, *LENGTHS[c]) for c, share in PRIOR_SHARE.items()}

    def carries(service: Service, *, reserve: float = 1.0) -> float:
        return sizing_of(service, profile, reserve=Reserve(reserve)).capacity_per_s(load=load, tensor_parallel=8)

    free = carries(SERVICE)
    assert carries(replace(SERVICE, routers=8)) < 0.99 * free
    assert carries(replace(SERVICE, pins=replace(SERVICE.pins, clock_mhz=1005))) < 0.99 * free
    assert carries(SERVICE, reserve=1.2) < 0.99 * free


def test_what_is_kept_of_clocks_is_kept_of_ladders_alone(profile: Profile) -> None:
    load = {c: ClassLoad(20.0 * share, *LENGTHS[c]) for c, share in PRIOR_SHARE.items()}
    usual, cool, warm = (
        sizing_of(SERVICE, profile, reserve=one) for one in (Reserve(), Reserve(pooled=0.8), Reserve(clocks=1.2))
    )
    of = {"load": load, "tensor_parallel": 8}
    carried = {one.capacity_per_s(**of) for one in (usual, cool, warm)}
    assert len(carried) == 1
    most, more, less = (one.ladder(**of).steps[-1].max_tokens_per_s for one in (usual, cool, warm))
    assert more > 1.02 * most
    assert less < 0.9 * most
    assert Reserve(1.1, 1.0, 0.9).times(1.2) == Reserve(1.1 * 1.2, 1.2, 0.9)


@pytest.mark.parametrize("rate_per_s", [0.5, 500.0])
def test_a_pool_whose_slo_no_instance_keeps_draws_what_it_serves(profile: Profile, rate_per_s: float) -> None:
    """Not an idle instance's watts; of a load beyond what it takes, those of the largest batch."""
    service = replace(SERVICE, slo=replace(SLO, ttft_ms=dict.fromkeys(RequestClass, 0.1)))
    plan = decided(service, profile, rate_per_s)
    (pool,) = plan.pools
    (group,) = pool.groups
    assert (plan.reason, group.tensor_parallel, group.instances) == ("SLOUnattainable", 8, 1)
    sizing = sizing_of(service, profile, reserve=Reserve())
    drawn_w = sizing.power_w(load=pool.load, tensor_parallel=8, clock_mhz=profile.max_clock_mhz, scale=1.0)
    assert (plan.power_w, pool.power_w) == (drawn_w, drawn_w)
    assert drawn_w > 1.2 * 8 * profile.loaded_idle_w
    # What it draws counts: within fewer watts a smaller instance serves it.
    limited = replace(service, limits=replace(service.limits, max_watts=0.99 * drawn_w))
    smaller = decided(limited, profile, rate_per_s)
    assert smaller.gpus < 8
    assert smaller.power_w <= 0.99 * drawn_w
