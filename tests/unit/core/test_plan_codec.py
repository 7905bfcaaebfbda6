"""A stored plan comes back exactly, and garbage is refused with what to do."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core import plan_codec
from dynamollm.core.classes import RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import ClassLoad, GroupPlan, Ladder, LadderStep, Plan, PoolPlan

positive = st.floats(min_value=0, max_value=1e9, allow_nan=False)
count = st.integers(min_value=0, max_value=1000)
clock = st.integers(min_value=210, max_value=1980)
ladders = st.builds(
    Ladder, steps=st.lists(st.builds(LadderStep, positive, clock), max_size=4).map(tuple), safe_mhz=clock
)
groups = st.builds(
    GroupPlan, tensor_parallel=st.sampled_from([1, 2, 4, 8]), instances=count, ladder=ladders, clock_mhz=clock
)
classes = st.sampled_from(list(RequestClass))
pools = st.builds(
    PoolPlan,
    name=st.sampled_from(["ss", "mm", "ll"]),
    classes=st.lists(classes, unique=True).map(tuple),
    rate_per_s=positive,
    capacity_per_s=positive,
    groups=st.lists(groups, max_size=3).map(tuple),
    load=st.dictionaries(classes, st.builds(ClassLoad, positive, positive, positive)),
    capacity_by_tp=st.dictionaries(st.sampled_from([2, 4, 8]), positive),
    gpu_budget=count,
    power_w=positive,
)
plans = st.builds(
    Plan,
    pools=st.lists(pools, max_size=3).map(tuple),
    scale_decided_s=positive,
    shard_decided_s=positive,
    power_w=positive,
    reason=st.text(),
    message=st.text(),
    runner_up=st.text(),
    binding=st.text(),
    downscale=st.dictionaries(st.text(), st.lists(st.tuples(positive, count), max_size=3).map(tuple)),
    basis=st.text(),
    gpu_cap=st.none() | count,
    gpu_cap_until_s=positive,
    correction=st.floats(1.0, 3.0),
    corrected_s=positive,
    bursts=st.floats(1.0, 1.5),
)


@given(plan=plans)
def test_a_plan_comes_back_exactly_from_json(plan: Plan) -> None:
    assert plan_codec.decode(json.loads(json.dumps(plan_codec.encode(plan)))) == plan


EMPTY = Plan(pools=(), scale_decided_s=1.0, shard_decided_s=2.0, power_w=3.0, reason="Initial", message="m")


def test_keys_are_camel_case() -> None:
    assert {"scaleDecidedS", "shardDecidedS", "powerW", "runnerUp"} <= plan_codec.encode(EMPTY).keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"scaleDecidedS": "soon"}, "scaleDecidedS is 'soon'"),
        ({"powerW": float("nan")}, "powerW is nan"),
        ({"pools": [{"name": "ll"}]}, r"pools\.0"),
        ({"pools": 7}, "pools is 7"),
    ],
)
def test_garbage_is_refused_with_its_place_and_a_remedy(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        plan_codec.decode({**plan_codec.encode(EMPTY), **change})
    assert "remove status.plan" in str(caught.value)


@pytest.mark.parametrize("garbage", [[], "plan", None, 3])
def test_what_is_no_object_is_refused(garbage: Any) -> None:
    with pytest.raises(InvalidInputError, match="version None"):
        plan_codec.decode(garbage)
