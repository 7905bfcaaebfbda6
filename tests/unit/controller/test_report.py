"""Merge patches, conditions and what of a status is worth a write."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.api.common import Condition
from dynamollm.controller.conditions import Conditions, transitions
from dynamollm.controller.report import difference, without_measured
from unit.controller.world import merge

VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), VALUES, max_size=4)


@given(OBJECTS, OBJECTS)
def test_the_difference_makes_one_object_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge(copy.deepcopy(old), difference(old, new)) == new


@given(OBJECTS)
def test_equal_objects_have_no_difference(body: dict[str, Any]) -> None:
    assert difference(body, copy.deepcopy(body)) == {}


def test_measured_fields_are_no_news() -> None:
    before = {"power": {"expectedWatts": 3, "observedWatts": 1}, "energyWattHours": 5, "slo": {"byClass": []}}
    after = {"power": {"expectedWatts": 3, "observedWatts": 2}, "energyWattHours": 6}
    assert without_measured(before) == without_measured(after) == {"power": {"expectedWatts": 3}}


# ------------------------------------------------------------------ conditions
def begun(status: str = "True") -> Condition:
    return Condition(type="Ready", status=status, reason="Old", message="old", last_transition_time="then")  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "since"), [("True", "then"), ("False", "now"), ("Unknown", "now")])
def test_the_transition_time_moves_with_the_status_alone(status: Any, since: str) -> None:
    conditions = Conditions(previous=[begun()], now="now", generation=3)
    conditions.set("Ready", status, "New", "new")
    (ready,) = conditions.result()
    assert (ready.last_transition_time, ready.reason, ready.observed_generation) == (since, "New", 3)


def test_a_condition_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="Redy"):
        Conditions(previous=[], now="now", generation=1).set("Redy", "True", "A", "b")


EVENTS = [
    # before, after, whether there is an event, and whether it warns
    (None, "True", None),
    (None, "False", True),
    ("True", "True", None),
    ("True", "False", True),
    ("False", "True", False),
    ("True", "Unknown", None),
    ("Unknown", "False", True),
    ("Unknown", "True", False),
]


@pytest.mark.parametrize(("before", "after", "warning"), EVENTS)
def test_events_are_transitions(before: str | None, after: str, warning: bool | None) -> None:  # noqa: FBT001 - a table
    found = transitions([begun(before)] if before else [], [begun(after)])
    assert [one.warning for one in found] == ([] if warning is None else [warning])
