"""Pod Security Standards: which pods of a service a namespace that enforces one admits, by a real API server."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.controller.objects.common import Owner
from dynamollm.controller.objects.engine import engine_deployment
from dynamollm.controller.objects.router import router_objects
from integration.crd_objects import SERVICE_WITH_USER
from lab.backend import Cluster
from lab.errors import LabError
from lab.paths import REPOSITORY

pytestmark = pytest.mark.integration

SAMPLE: Final = yaml.safe_load((REPOSITORY / "manifests/samples/demo.yaml").read_text())
PROFILE: Final = PerformanceProfileSpec.model_validate(
    yaml.safe_load((REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm.yaml").read_text())["spec"]
)
LEVELS: Final = ("baseline", "restricted")
ACCOUNT: Final = {"apiVersion": "v1", "kind": "ServiceAccount"}


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster) -> Iterator[dict[str, str]]:
    """A namespace for each level, with the account of a router."""
    made = {level: f"security-{level}" for level in LEVELS}
    for level, name in made.items():
        labels = {"pod-security.kubernetes.io/enforce": level}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        account = {**ACCOUNT, "metadata": {"name": "chat-router", "namespace": name}}
        for one in (body, account):
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(one))
    yield made
    cluster.kubectl("delete", "namespace", *made.values(), "--wait=false")


def template(part: str, namespace: str, **pods: Any) -> dict[str, Any]:
    """Return the pod template of a router, or of an engine of some type."""
    simulated = part in ("router", "Simulated")
    engine = {"type": "Simulated"} if simulated else {"type": part, "image": "engine:1", "podTemplate": pods}
    spec = InferenceServiceSpec.model_validate({**SAMPLE["spec"], "engine": engine})
    owner = Owner(namespace=namespace, name="chat", uid="u", spec=spec, image="ours:1")
    if part == "router":
        body = router_objects(owner)[-1]
    else:
        body = engine_deployment(owner, PROFILE, pool="ll", tensor_parallel=4, replicas=1)
    found: dict[str, Any] = body["spec"]["template"]
    return found


def admitted(cluster: Cluster, part: str, namespace: str, **pods: Any) -> str:
    """Return why a pod is not admitted; empty where it is."""
    body = template(part, namespace, **pods)
    metadata = {**body["metadata"], "name": "tried", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body["spec"]}
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    except LabError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("part", ["router", "Simulated"])
def test_pods_of_our_own_image_are_admitted_everywhere(cluster: Cluster, namespaces: dict[str, str], part: str) -> None:
    for namespace in namespaces.values():
        assert admitted(cluster, part, namespace) == ""


ENGINES: Final = ("VLLM", "SGLang", "TensorRTLLM")


@pytest.mark.parametrize("part", ENGINES)
def test_engines_of_others_lack_only_a_user_that_is_not_root(
    cluster: Cluster, namespaces: dict[str, str], part: str
) -> None:
    assert admitted(cluster, part, namespaces["baseline"]) == ""
    why = admitted(cluster, part, namespaces["restricted"])
    _, found, lacks = why.partition('violates PodSecurity "restricted:latest": ')
    assert found, why
    assert lacks == 'runAsNonRoot != true (pod or container "engine" must set securityContext.runAsNonRoot=true)'


@pytest.mark.parametrize("part", ENGINES)
def test_engines_of_others_are_admitted_everywhere_with_a_user(
    cluster: Cluster, namespaces: dict[str, str], part: str
) -> None:
    # Of all priority classes these are always there.
    template = {**SERVICE_WITH_USER["spec"]["engine"]["podTemplate"], "priorityClassName": "system-node-critical"}
    for namespace in namespaces.values():
        assert admitted(cluster, part, namespace, runAsUser=2000) == ""
        assert admitted(cluster, part, namespace, **template) == ""
