"""More load than the GPUs carry, and less than a ladder's first step: what plans say of watts and latency there."""

from dataclasses import replace

from decision_world import make_service
from model_fixtures import MODERN, PAPER, SLO, profile

from dynamollm.core.capacity import capacity_per_s, operating_point
from dynamollm.core.classes import RequestClass
from dynamollm.core.records import ClassLoad, Limits, Load, PolicyName, Service
from dynamollm.core.whatif import expected_latency, nodes_for, plan_for_load

LL, LS, SS = (RequestClass(c) for c in ("LL", "LS", "SS"))


def long_requests(rate_per_s: float) -> Load:
    return {LL: ClassLoad(rate_per_s, 2200.0, 420.0)}


def one_node(**limits: int) -> Service:
    return make_service(policy=PolicyName.JOINT, slo=SLO, limits=Limits(max_gpus=8, **limits))


def test_watts_of_an_overload_are_those_of_the_highest_clock_and_never_fall_with_the_load() -> None:
    service = one_node()
    plans = [
        plan_for_load(service, profile(MODERN), long_requests(rate), nodes=nodes_for(service), now_s=1e9)
        for rate in (5.0, 6.9, 7.4, 8.0, 9.0, 12.0)
    ]
    watts = [plan.power_w for plan in plans]
    assert watts == sorted(watts)
    (group,) = plans[3].pools[0].groups
    assert (group.tensor_parallel, group.instances, group.clock_mhz) == (4, 2, 1980)
    each = operating_point(
        profile(MODERN), load=long_requests(4.0), slo=SLO, tensor_parallel=4, clock_mhz=1980
    ).power_w  # fmt: skip
    assert abs(watts[3] - 2 * each) < 1.0


def test_no_more_instances_are_overloaded_than_the_limit_of_watts_allows() -> None:
    service = one_node(max_watts=3900)
    for rate in (7.4, 8.0, 9.0, 20.0):
        plan = plan_for_load(service, profile(MODERN), long_requests(rate), nodes=nodes_for(service), now_s=1e9)
        assert 0 < plan.power_w <= 3900
        assert plan.gpus < 8


def test_half_of_the_requests_are_no_later_than_all_but_a_hundredth() -> None:
    service = one_node()
    for rate in (0.001, 2.0, 8.0, 9.0):
        plan = plan_for_load(service, profile(MODERN), long_requests(rate), nodes=nodes_for(service), now_s=1e9)
        for one in expected_latency(service, profile(MODERN), plan):
            assert one.ttft_p50_ms <= one.ttft_p99_ms
            assert one.tbt_p50_ms <= one.tbt_p99_ms


def test_no_token_takes_less_than_where_nobody_else_is() -> None:
    for name in (MODERN, PAPER):
        alone_ms = profile(name).decode_ms(batch=1, context_tokens=145.0, tensor_parallel=2, clock_mhz=1980)
        point = operating_point(
            profile(name),
            load={SS: ClassLoad(0.001, 120.0, 50.0)},
            slo=SLO,
            tensor_parallel=2,
            clock_mhz=1980,
            percentile=50.0,
        )
        assert point.tbt_ms[SS] >= alone_ms * 0.99


def test_what_keeps_the_slo_at_a_low_rate_alone_carries_that() -> None:
    load = {LS: ClassLoad(1.0, 6000.0, 30.0)}
    rates = [capacity_per_s(profile(PAPER), load=load, slo=SLO, tensor_parallel=tp, clock_mhz=1140) for tp in (2, 4, 8)]
    assert 0 < rates[0] < rates[1] < rates[2]


def test_what_is_waited_for_is_said_to_draw_what_it_will_when_it_is_overloaded() -> None:
    strict = replace(SLO, ttft_ms=dict.fromkeys(RequestClass, 400.0))  # TP 8 alone keeps that
    plans = [
        plan_for_load(
            replace(one_node(**limits), slo=strict),
            profile(MODERN),
            long_requests(8.0),
            nodes=nodes_for(one_node()),
            now_s=1e9,
        )
        for limits in ({}, {"max_watts": 3900})
    ]
    assert [[(g.tensor_parallel, g.instances) for p in plan.pools for g in p.groups] for plan in plans] == [
        [(8, 1)]
    ] * 2
    assert plans[0].power_w == plans[1].power_w > 3900
