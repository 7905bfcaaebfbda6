"""The runner-up: noted in a line, read again, and told why it was not taken."""

from dataclasses import replace

import pytest

from dynamollm.adapters.manifests import PROFILES
from dynamollm.core.classes import RequestClass
from dynamollm.core.mix import gpus
from dynamollm.core.policies.base import Reason
from dynamollm.core.policies.filled import mix_of
from dynamollm.core.policies.noted import OtherMix, OtherPools, note_mix, note_pools, noted
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Limits, Load, Plan, PolicyName, Service
from dynamollm.core.runnerup import Lost, runner_up
from dynamollm.core.whatif import nodes_for, plan_for_load
from dynamollm.simulator.shipped import open_profile, sample_service

PROFILE: Profile = open_profile(next(iter(PROFILES)))
SS, MM, LL = RequestClass.SS, RequestClass.MM, RequestClass.LL
LOAD: Load = {SS: ClassLoad(5.0, 120, 50), MM: ClassLoad(6.0, 600, 200), LL: ClassLoad(2.5, 2200, 420)}


def service(**changes: object) -> Service:
    return replace(sample_service(None), policy=PolicyName.JOINT, **changes)


def plan_of(one: Service) -> Plan:
    return plan_for_load(one, PROFILE, LOAD, nodes=nodes_for(one), now_s=1e9)


def test_notes_are_read_as_they_were_written() -> None:
    notes = [note_pools([(SS, MM), (LL,)], more_w=-41.0), note_mix("ll", ({2: 1, 4: 12}, 6453.0))]
    assert noted("; ".join(notes)) == [
        OtherPools(((SS, MM), (LL,)), -41.0),
        OtherMix("ll", {2: 1, 4: 12}, 6453.0),
    ]
    assert (noted(""), noted("words of another version; ll: none"), note_mix("ll", None)) == ([], [], "")


def test_the_cheapest_of_those_noted_is_told_whole() -> None:
    one = service()
    plan = plan_of(one)
    largest = plan.pools[-1]
    mix = {4: 9}
    notes = ["pools SS | MM | LL: +900 W", note_mix(largest.name, (mix, largest.power_w + 50))]
    found = runner_up(one, PROFILE, replace(plan, runner_up="; ".join(notes)), changes=False)
    assert found is not None
    (pool,) = found.pools
    assert (found.parted, pool.name, mix_of(pool), found.lost) == (False, largest.name, mix, Lost.DEARER)
    assert found.more_w == pytest.approx(50, abs=1)
    assert found.share == pytest.approx(50 / plan.power_w, abs=1e-3)
    assert found.gpus == plan.gpus - gpus(mix_of(largest)) + 36
    assert all(group.clock_mhz in PROFILE.clocks_mhz for group in pool.groups)


def test_other_pools_are_told_with_instances_and_clocks() -> None:
    one = service()
    plan = replace(plan_of(one), runner_up="pools SS | MM | LL: +900 W")
    found = runner_up(one, PROFILE, plan, changes=False)
    assert found is not None
    assert found.parted
    assert [pool.classes for pool in found.pools] == [(SS,), (MM,), (LL,)]
    assert found.capacity_per_s >= sum(part.rate_per_s for part in LOAD.values())
    assert all(group.clock_mhz in PROFILE.clocks_mhz for pool in found.pools for group in pool.groups)


def test_a_policy_that_turns_no_clock_has_a_runner_up_at_the_highest() -> None:
    one = replace(service(), policy=PolicyName.SCALE_SHARD)
    found = runner_up(one, PROFILE, replace(plan_of(one), runner_up="ll: 9×TP4 at 9000 W"), changes=False)
    assert found is not None
    assert [group.clock_mhz for pool in found.pools for group in pool.groups] == [PROFILE.max_clock_mhz]


@pytest.mark.parametrize(
    ("note", "changes", "short", "lost"),
    [
        ("pools SS | MM | LL: +900 W", False, False, Lost.DEARER),
        ("pools SS | MM | LL: -20 W", False, False, Lost.MORE_POOLS),
        ("pools SS MM LL: -200 W", True, False, Lost.IN_FORCE),
        ("pools SS MM | LL: +0 W", False, False, Lost.EQUAL),
        ("ll: 40×TP8 at 100 W", False, True, Lost.MORE_GPUS),
        ("ll: 1×TP2 at 100 W", False, True, Lost.CARRIES_LESS),
    ],
)
def test_why_it_was_not_taken(*, note: str, changes: bool, short: bool, lost: Lost) -> None:
    one = service()
    plan = replace(plan_of(one), runner_up=note)
    assert len(plan.pools) == 2
    if short:
        plan = replace(plan, reason=Reason.CAPACITY_UNAVAILABLE)
    found = runner_up(one, PROFILE, plan, changes=changes)
    assert found is not None
    assert found.lost is lost


def test_where_nothing_is_noted_there_is_none() -> None:
    one = service(limits=Limits(max_gpus=96))
    plan = plan_of(one)
    for note in ("", "pools SS | LM: +3 W", "xl: 1×TP2 at 9 W"):
        assert runner_up(one, PROFILE, replace(plan, runner_up=note), changes=False) is None


@pytest.mark.parametrize("change", ["correction", "bursts"])
def test_the_runner_up_carries_as_little_as_the_plan_counts_on(change: str) -> None:
    one = service()
    plan = replace(plan_of(one), runner_up="ll: 9×TP4 at 9000 W")
    careful = replace(plan, **{change: 1.4}, corrected_s=plan.shard_decided_s)
    usual, less = (runner_up(one, PROFILE, each, changes=False) for each in (plan, careful))
    assert usual is not None
    assert less is not None
    assert less.capacity_per_s < usual.capacity_per_s
