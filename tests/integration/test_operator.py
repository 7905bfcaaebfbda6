"""The operator on a real control plane, installed as a user does it, with its own service account."""

import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from dynamollm.api import names
from integration.waiting import eventually
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.install import install
from lab.paths import REPOSITORY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="needs simulated engines and a faster clock"),
]

SCALE: Final = 20.0
"""A start-up of two minutes takes six seconds."""
SAMPLE: Final = REPOSITORY / "manifests/samples/demo.yaml"
CHILDREN: Final = "deployments,services,serviceaccounts,configmaps,rolebindings,poddisruptionbudgets"
SYSTEM: Final = names.SYSTEM_NAMESPACE


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster of its own, since simulated time is a property of the whole cluster."""
    options = LocalClusterOptions(name=f"operator-{os.getpid()}", nodes=3, time_scale=SCALE)
    with LocalCluster.start(options) as local:
        install(local, prometheus_url=local.prometheus_url, time_scale=SCALE)
        local.kubectl("apply", "-f", str(REPOSITORY / "manifests/profiles"))
        yield local


Apply = Callable[..., str]


@pytest.fixture
def apply(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Apply]:
    """Apply the demo's service with changes, in a namespace of the test's own, and delete it afterwards."""
    namespace = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    cluster.kubectl("create", "namespace", namespace)

    def make(**spec: Any) -> str:
        body = yaml.safe_load(SAMPLE.read_text())
        body["metadata"]["namespace"] = namespace
        body["spec"] |= {"forecast": {"initialRequestsPerMinute": 60}, "limits": {"maxGPUs": 16}} | spec
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        return namespace

    yield make
    cluster.kubectl("delete", "inferenceservices.dynamollm.io", "--all", "-n", namespace, "--timeout=240s")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def get(cluster: LocalCluster, kinds: str, namespace: str, *args: str) -> list[dict[str, Any]]:
    answer = json.loads(cluster.kubectl("get", kinds, "-n", namespace, "-o", "json", *args))
    items: list[dict[str, Any]] = answer["items"]
    return items


def status(cluster: LocalCluster, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = get(cluster, "inferenceservices.dynamollm.io", namespace)[0].get("status", {})
    return found


def condition(cluster: LocalCluster, namespace: str, name: str) -> tuple[str, str]:
    conditions = status(cluster, namespace).get("conditions", [])
    return next(((one["status"], one["reason"]) for one in conditions if one["type"] == name), ("", ""))


def until(cluster: LocalCluster, namespace: str, name: str, *wanted: str, timeout_s: float = 120.0) -> None:
    """Wait until a condition has one of these statuses or reasons."""
    eventually(
        lambda: set(condition(cluster, namespace, name)) & set(wanted),
        timeout_s=timeout_s,
        why=f"{name} of {namespace} is not {wanted}",
    )


def replicas(cluster: LocalCluster, namespace: str) -> dict[str, int]:
    return {body["metadata"]["name"]: body["spec"]["replicas"] for body in get(cluster, "deployments", namespace)}


def children(cluster: LocalCluster, namespace: str) -> dict[str, str]:
    """Return what the operator made, by kind and name, with its version."""
    return {
        f"{body['kind']}/{body['metadata']['name']}": body["metadata"]["resourceVersion"]
        for body in get(cluster, CHILDREN, namespace)
        if body["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "dynamollm"
    }


def operators(cluster: LocalCluster) -> list[dict[str, Any]]:
    return [
        pod
        for pod in get(cluster, "pods", SYSTEM, "-l", "app.kubernetes.io/name=dynamollm-operator")
        if "deletionTimestamp" not in pod["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
    ]


def metric(pod: dict[str, Any], series: str) -> float:
    """Return the sum of these series; NaN, which is like nothing, where the pod has gone meanwhile."""
    try:
        text = requests.get(
            f"http://{pod['status']['podIP']}:{names.OPERATOR_METRICS_PORT}/metrics", timeout=30
        ).content.decode()
    except requests.RequestException:
        return math.nan
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series))


def active(cluster: LocalCluster) -> dict[str, Any] | None:
    return next((pod for pod in operators(cluster) if metric(pod, "dynamollm_operator_active ") == 1), None)


def some_cycles(cluster: LocalCluster, namespace: str, count: int = 8) -> None:
    """Wait until the service has been looked at so many times more."""
    series = f'dynamollm_operator_cycles_total{{namespace="{namespace}"'
    pod = eventually(lambda: active(cluster))
    goal = metric(pod, series) + count
    eventually(lambda: metric(pod, series) >= goal, why=f"the cycles of {namespace} do not turn")


def clock_groups(cluster: LocalCluster) -> set[str]:
    agents = json.loads(cluster.kubectl("get", "daemonset", names.AGENT_DAEMONSET, "-n", SYSTEM, "-o", "json"))
    plan = agents["metadata"].get("annotations", {}).get(names.ANNOTATION_CLOCK_PLAN, '{"groups": {}}')
    return set(json.loads(plan)["groups"])


# ------------------------------------------------------------------ the life of a service
def test_a_service_serves_is_left_alone_and_leaves_nothing(cluster: LocalCluster, apply: Apply) -> None:
    namespace = apply()
    until(cluster, namespace, "Ready", "True")
    until(cluster, namespace, "Converged", "True")

    service = get(cluster, "inferenceservices.dynamollm.io", namespace)[0]
    owners = {
        (owner["kind"], owner["uid"])
        for body in get(cluster, CHILDREN, namespace)
        if body["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "dynamollm"
        for owner in body["metadata"]["ownerReferences"]
    }
    assert owners == {("InferenceService", service["metadata"]["uid"])}
    assert service["metadata"]["finalizers"] == ["dynamollm.io/operator"]
    # kopf keeps no notes in the object.
    assert set(service["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    groups = {f"{namespace}/chat/{pool['name']}/{group['tensorParallel']}" for pool in service["status"]["pools"]
              for group in pool["groups"]}  # fmt: skip
    eventually(lambda: groups <= clock_groups(cluster), why="the clock plan lacks groups")

    # The Deployments' own status settles a moment after their pods do.
    some_cycles(cluster, namespace)
    before = children(cluster, namespace)
    plan = service["status"]["plan"]
    some_cycles(cluster, namespace)
    assert children(cluster, namespace) == before
    assert plan["pools"] == status(cluster, namespace)["plan"]["pools"] or plan["reason"] == "LoadUnknown"

    cluster.kubectl("delete", "inferenceservices.dynamollm.io", "chat", "-n", namespace, "--timeout=240s")
    eventually(lambda: not children(cluster, namespace), why="objects are left")
    eventually(lambda: not get(cluster, "pods", namespace), why="pods are left")
    eventually(lambda: not clock_groups(cluster) & groups, why="the clock plan still has the service")


def test_another_order_of_service_replaces_the_engines(cluster: LocalCluster, apply: Apply) -> None:
    namespace = apply(engine={"type": "Simulated", "scheduling": "EarliestDeadlineFirst"})
    until(cluster, namespace, "Ready", "True")

    def orders() -> set[str | None]:
        pods = get(cluster, "pods", namespace, "-l", f"{names.LABEL_COMPONENT}=engine")
        return {pod["metadata"]["annotations"].get(names.ANNOTATION_SCHEDULING) for pod in pods}

    def ask() -> int:
        router = get(cluster, "pods", namespace, "-l", f"{names.LABEL_COMPONENT}=router")[0]["status"]["podIP"]
        body = {"model": "meta-llama/Llama-2-70b-chat-hf", "prompt": "Hello", "max_tokens": 5}
        return requests.post(f"http://{router}:{names.ROUTER_PORT}/v1/completions", json=body, timeout=30).status_code

    assert orders() == {"EarliestDeadlineFirst"}
    assert ask() == 200
    change = {"spec": {"engine": {"scheduling": "FirstComeFirstServed"}}}
    cluster.kubectl("patch", "dllm", "chat", "-n", namespace, "--type=merge", "-p", json.dumps(change))
    eventually(lambda: ask() == 200 and orders() == {None}, why="engines still serve by deadline")


def test_requests_that_miss_their_slo_are_learned_from(cluster: LocalCluster, apply: Apply) -> None:
    # The model's time to a first token is within 40 ms; at this pace of time HTTP alone takes as much.
    namespace = apply(
        profileRef={"name": "h100-llama2-70b-vllm"},
        slo={
            "ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000},
            "tbtMilliseconds": 100,
            "overrides": [{"class": "SS", "ttftMilliseconds": 40}],
        },
        forecast={"initialRequestsPerMinute": 0},
    )
    until(cluster, namespace, "Ready", "True")
    router = get(cluster, "pods", namespace, "-l", f"{names.LABEL_COMPONENT}=router")[0]["status"]["podIP"]
    body = {"model": "meta-llama/Llama-2-70b-chat-hf", "prompt": "Hello", "max_tokens": 5, "stream": True}

    def told() -> bool:
        for _ in range(10):
            answer = requests.post(f"http://{router}:{names.ROUTER_PORT}/v1/completions", json=body, timeout=30)
            assert answer.status_code == 200
        events = {event["reason"] for event in get(cluster, "events", namespace)}
        return "SLOMissed" in events and status(cluster, namespace)["plan"]["correction"] > 1

    eventually(told, timeout_s=240.0, why="misses change no plan")
    series = f'dynamollm_operator_plan_correction_ratio{{namespace="{namespace}"'
    pod = eventually(lambda: active(cluster))
    eventually(lambda: metric(pod, series) > 1, why="the correction is not told")


def test_advise_plans_and_touches_nothing(cluster: LocalCluster, apply: Apply) -> None:
    namespace = apply(mode="Advise")
    until(cluster, namespace, "Planned", "True")
    assert status(cluster, namespace)["advice"]["pools"]
    assert "plan" not in status(cluster, namespace)
    before = get(cluster, "inferenceservices.dynamollm.io", namespace)[0]["metadata"]["resourceVersion"]
    some_cycles(cluster, namespace)
    assert children(cluster, namespace) == {}
    assert get(cluster, "inferenceservices.dynamollm.io", namespace)[0]["metadata"]["resourceVersion"] == before
    assert not any(group.startswith(f"{namespace}/") for group in clock_groups(cluster))


def test_a_missing_profile_is_a_condition_and_the_service_goes_on_once_it_is_there(
    cluster: LocalCluster, apply: Apply, tmp_path: Path
) -> None:
    namespace = apply(mode="Advise", profileRef={"name": "later"})
    until(cluster, namespace, "ProfileValid", "ProfileNotFound")
    assert condition(cluster, namespace, "Planned") == ("False", "ProfileNotFound")
    profile = yaml.safe_load((REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm.yaml").read_text())
    profile["metadata"] = {"name": "later"}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    cluster.kubectl("apply", "-f", str(tmp_path / "profile.json"))
    until(cluster, namespace, "ProfileValid", "True")
    until(cluster, namespace, "Planned", "True")


def test_paused_keeps_everything(cluster: LocalCluster, apply: Apply) -> None:
    namespace = apply()
    until(cluster, namespace, "Ready", "True")
    apply(paused=True)
    until(cluster, namespace, "Paused", "True")
    name = next(name for name in replicas(cluster, namespace) if not name.endswith("-router"))
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas=0")
    some_cycles(cluster, namespace)
    assert replicas(cluster, namespace)[name] == 0
    apply()
    until(cluster, namespace, "Paused", "False")
    eventually(lambda: replicas(cluster, namespace)[name] > 0, why="the operator did not put it right")


# ------------------------------------------------------------------ what goes wrong
def test_without_prometheus_nothing_is_taken_away(cluster: LocalCluster, apply: Apply) -> None:
    namespace = apply()
    until(cluster, namespace, "Converged", "True")
    until(cluster, namespace, "MetricsAvailable", "True")
    before = replicas(cluster, namespace)
    try:
        install(cluster, prometheus_url="http://127.0.0.1:9", time_scale=SCALE)
        cluster.kubectl("rollout", "restart", "deployment/dynamollm-operator", "-n", SYSTEM)
        until(cluster, namespace, "MetricsAvailable", "PrometheusUnreachable")
        some_cycles(cluster, namespace)
        assert replicas(cluster, namespace) == before
        assert condition(cluster, namespace, "Ready") == ("True", "Serving")
    finally:
        install(cluster, prometheus_url=cluster.prometheus_url, time_scale=SCALE)
        cluster.kubectl("rollout", "restart", "deployment/dynamollm-operator", "-n", SYSTEM)
        cluster.kubectl("rollout", "status", "deployment/dynamollm-operator", "-n", SYSTEM, "--timeout=240s")
    until(cluster, namespace, "MetricsAvailable", "True")


@contextmanager
def holders(cluster: LocalCluster, file: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch who holds the operator's lease; a line for each change, empty while nobody does."""
    holder = ("-o", 'jsonpath={.spec.holderIdentity}{"\\n"}')
    with (
        file.open("w") as out,
        subprocess.Popen(
            ["kubectl", "get", "lease", names.OPERATOR_LEASE, "-n", SYSTEM, "--watch", *holder],
            env=os.environ | cluster.environment(),
            stdout=out,
        ) as watch,
    ):
        try:
            eventually(file.read_text, why="the lease cannot be watched")
            yield lambda: file.read_text().splitlines()
        finally:
            watch.kill()


def test_a_second_replica_stands_by_and_takes_over(cluster: LocalCluster, apply: Apply, tmp_path: Path) -> None:
    namespace = apply(mode="Advise")
    until(cluster, namespace, "Planned", "True")
    first = eventually(lambda: active(cluster))
    cluster.kubectl("scale", "deployment/dynamollm-operator", "-n", SYSTEM, "--replicas=2")
    try:
        # Alive and ready, and not active.
        both = eventually(lambda: pods if len(pods := operators(cluster)) == 2 else None, why="no standby")
        assert sum(metric(pod, "dynamollm_operator_active ") for pod in both) == 1
        with holders(cluster, tmp_path / "holders") as seen:
            cluster.kubectl("delete", "pod", first["metadata"]["name"], "-n", SYSTEM, "--wait=false")
            # The standby, or the pod that replaces the first: whoever asks sooner.
            eventually(
                lambda: (now := active(cluster)) and now["metadata"]["name"] != first["metadata"]["name"],
                why="nobody took over",
            )
            # The lease was let go, and did not have to run out.
            eventually(lambda: "" in seen(), why="the lease was not let go")
        some_cycles(cluster, namespace, 2)
    finally:
        cluster.kubectl("scale", "deployment/dynamollm-operator", "-n", SYSTEM, "--replicas=1")


FORBIDDEN = [
    ("list", "secrets"),
    ("delete", "pods"),
    ("create", "clusterrolebindings"),
    ("delete", "namespaces"),
    ("update", "inferenceservices.dynamollm.io"),
]


@pytest.mark.parametrize(("verb", "resource"), FORBIDDEN)
def test_the_operator_may_do_no_more_than_it_does(cluster: LocalCluster, verb: str, resource: str) -> None:
    account = f"system:serviceaccount:{SYSTEM}:dynamollm-operator"
    request = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account,
            "resourceAttributes": {
                "verb": verb,
                "resource": resource.split(".", 1)[0],
                "group": resource.partition(".")[2],
                "namespace": "default",
            },
        },
    }
    answer = json.loads(cluster.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(request)))
    assert answer["status"]["allowed"] is False
