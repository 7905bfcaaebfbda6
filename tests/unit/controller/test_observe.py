"""Pods and Deployments as the core sees them."""

from typing import Any

import pytest

from dynamollm.adapters.clock import Clock
from dynamollm.api import names
from dynamollm.controller import observe
from dynamollm.core.classes import RequestClass
from dynamollm.core.records import Group, InstanceState

LABELS = {
    names.LABEL_SERVICE: "chat",
    names.LABEL_COMPONENT: "engine",
    names.LABEL_POOL: "ll",
    names.LABEL_TENSOR_PARALLEL: "4",
}
CREATED = "2026-01-01T00:00:00Z"
CREATED_S = 1767225600.0


def pod(*, node: str | None = "a", ready: bool = True, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "labels": LABELS, "creationTimestamp": CREATED, **metadata},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


STATES = [
    (pod(), InstanceState.READY),
    (pod(ready=False), InstanceState.STARTING),
    (pod(node=None, ready=False, phase="Pending"), InstanceState.PENDING),
    (pod(deletionTimestamp=CREATED), InstanceState.TERMINATING),
    (pod(node=None, deletionTimestamp=CREATED, phase="Pending"), InstanceState.TERMINATING),
]


@pytest.mark.parametrize(("body", "state"), STATES)
def test_the_state_of_a_pod(body: dict[str, Any], state: InstanceState) -> None:
    (instance,) = observe.instances([body], clock=Clock(), in_flight={})
    assert instance.state is state
    assert (instance.pool, instance.tensor_parallel, instance.created_s) == ("ll", 4, CREATED_S)
    assert instance.in_flight is None  # unknown, not zero


IGNORED = [
    pod(phase="Failed"),
    pod(phase="Succeeded"),
    pod(labels={**LABELS, names.LABEL_COMPONENT: "router"}),
    pod(labels={**LABELS, names.LABEL_TENSOR_PARALLEL: "many"}),
    pod(labels=None),
]


@pytest.mark.parametrize("body", IGNORED)
def test_what_is_no_instance(body: dict[str, Any]) -> None:
    assert observe.instances([body], clock=Clock(), in_flight={}) == ()


@pytest.mark.parametrize(
    ("annotation", "unrouted_s"),
    [("2026-01-01T00:01:00.500+00:00", CREATED_S + 60.5), ("yesterday", CREATED_S)],
)
def test_since_when_a_pod_is_unrouted(annotation: str, unrouted_s: float) -> None:
    body = pod(annotations={names.ANNOTATION_UNROUTED_AT: annotation})
    (instance,) = observe.instances([body], clock=Clock(), in_flight={"p": 0})
    assert instance.unrouted_s == unrouted_s
    assert instance.in_flight == 0
    assert not instance.serving


def test_times_are_simulated() -> None:
    (instance,) = observe.instances([pod()], clock=Clock(scale=10.0, anchor_s=CREATED_S - 6), in_flight={})
    assert instance.created_s == CREATED_S - 6 + 60


def test_groups_are_the_deployments_of_engines_that_stay() -> None:
    def deployment(**metadata: Any) -> dict[str, Any]:
        return {"metadata": {"name": "d", "labels": LABELS, **metadata}, "spec": {"replicas": 3}}

    found = observe.groups([deployment(), deployment(deletionTimestamp=CREATED), deployment(labels={})])
    assert found == (Group(pool="ll", tensor_parallel=4, replicas=3),)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": {"XX": "ll"}}', '{"classes": 3}'])
def test_a_routing_that_cannot_be_read_is_none(text: str) -> None:
    assert observe.routing({"metadata": {"name": "r"}, "data": {names.ROUTING_KEY: text}}) == {}


def test_routing() -> None:
    body = {"metadata": {"name": "r"}, "data": {names.ROUTING_KEY: '{"classes": {"SS": "ll"}}'}}
    assert observe.routing(body) == {RequestClass.SS: "ll"}
    assert observe.routing(None) == {}
