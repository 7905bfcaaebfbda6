"""What the operator may write, beyond what RBAC can say: requests with its own token, judged by a real API server."""

import base64
import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
import requests
import yaml

from dynamollm.adapters.kube import APPLY_PATCH, MERGE_PATCH, path_of
from dynamollm.api import names
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.controller.objects.common import Owner
from dynamollm.controller.objects.engine import disruption_budget, engine_deployment, profile_config_map
from dynamollm.controller.objects.engine_start import options_config_map
from dynamollm.controller.objects.router import router_objects
from integration.crd_objects import SERVICE_WITH_USER
from integration.waiting import eventually
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.install import BASE, CRDS
from lab.paths import REPOSITORY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="puts objects of nobody's into the cluster"),
]

Object = dict[str, Any]
OPERATOR: Final = "dynamollm-operator"
SYSTEM: Final = names.SYSTEM_NAMESPACE
POD_LABELS: Final = {names.LABEL_SERVICE: "chat", names.LABEL_COMPONENT: "engine"}
PROFILE: Final = PerformanceProfileSpec.model_validate(
    yaml.safe_load((REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm.yaml").read_text())["spec"]
)
SAMPLE: Final = yaml.safe_load((REPOSITORY / "manifests/samples/demo.yaml").read_text())


def owner(**engine: Any) -> Owner:
    spec = InferenceServiceSpec.model_validate({**SAMPLE["spec"], "engine": engine})
    return Owner(namespace="llm", name="chat", uid="6d1c1e4e-1111-4222-8333-444455556666", spec=spec, image="ours:1")


def deployment(*, tensor_parallel: int = 4, **engine: Any) -> Object:
    return engine_deployment(owner(**engine), PROFILE, pool="ll", tensor_parallel=tensor_parallel, replicas=0)


ENGINE: Final = deployment(type="VLLM", image="engine:1")
ACCOUNT, BINDING, FRONT, ROUTER = router_objects(owner(type="Simulated"))
ROUTING: Final = profile_config_map(owner(type="Simulated"), PROFILE)


@dataclass(frozen=True)
class Api:
    """An API server, asked as one user; nothing that is asked is done."""

    server: str
    authority: str
    token: str

    def ask(self, method: str, where: str, body: Any = None, kind: str = "application/json") -> tuple[int, str]:
        """Return the status and what was said."""
        answer = requests.request(
            *(method, f"{self.server}{where}"),
            params={"dryRun": "All", "fieldManager": "dynamollm", **({"force": "true"} if kind == APPLY_PATCH else {})},
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": kind},
            data=json.dumps(body) if body is not None else None,
            verify=self.authority,
            timeout=30,
        )
        return answer.status_code, str(answer.json().get("message", ""))

    def apply(self, body: Object) -> tuple[int, str]:
        return self.ask("PATCH", path_of(body), body, APPLY_PATCH)

    def patch(self, body: Object, change: Object) -> tuple[int, str]:
        return self.ask("PATCH", path_of(body), change, MERGE_PATCH)


def others(kind: str, name: str, **fields: Any) -> Object:
    """Return an object that no service owns."""
    version = {"Deployment": "apps/v1", "DaemonSet": "apps/v1", "PodDisruptionBudget": "policy/v1"}.get(kind, "v1")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "llm"}, **fields}


def orphan(body: Object) -> Object:
    """Return it without its owner, which is nowhere: it would be collected as garbage."""
    return {**body, "metadata": {key: value for key, value in body["metadata"].items() if key != "ownerReferences"}}


def pod(name: str, labels: dict[str, str]) -> Object:
    body = others("Pod", name, spec={"containers": [{"name": "engine", "image": "engine:1"}]})
    return {**body, "metadata": {**body["metadata"], "labels": labels, "annotations": {"theirs": "1"}}}


CONTEXT: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SETTINGS: Final = others("ConfigMap", "settings", data={"a": "b"})
WEB: Final = others(
    "Deployment",
    "web",
    spec={
        "replicas": 0,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [{"name": "web", "image": "web:1", "securityContext": CONTEXT}],
            },
        },
    },
)
OURS_RUNNING: Final = pod("chat-ll-tp4-0", POD_LABELS)
THEIRS_RUNNING: Final = pod("web-0", {"app": "web"})
AGENTS: Final = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": names.AGENT_DAEMONSET, "namespace": SYSTEM},
    "spec": {name: value for name, value in WEB["spec"].items() if name != "replicas"},
}
SERVICE: Final = {**SAMPLE, "metadata": {"name": "chat", "namespace": "llm", "finalizers": ["dynamollm.io/operator"]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """The operator's rights and the policies, without an operator; and what is in a namespace of users."""
    with LocalCluster.start(LocalClusterOptions(name=f"admission-{os.getpid()}", nodes=1)) as local:
        local.kubectl("create", "namespace", "llm")
        local.kubectl("apply", "-f", str(CRDS))
        local.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(CRDS))
        for file in ("namespace", "operator-rbac", "router-rbac", "admission"):
            local.kubectl("apply", "-f", str(BASE / f"{file}.yaml"))
        there = [SETTINGS, WEB, OURS_RUNNING, THEIRS_RUNNING, AGENTS, SERVICE, orphan(ENGINE)]
        local.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": there}))
        yield local


@pytest.fixture(scope="module")
def operator(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """The API server, asked as the operator, once the policies are in force."""
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    about = view["clusters"][0]["cluster"]
    authority = tmp_path_factory.mktemp("api") / "ca.crt"
    authority.write_bytes(base64.b64decode(about["certificate-authority-data"]))
    token = cluster.kubectl("create", "token", OPERATOR, "-n", SYSTEM).strip()
    api = Api(about["server"], str(authority), token)
    for probe in (
        lambda: api.apply(SETTINGS),
        lambda: api.patch(SERVICE, {"spec": {"policy": "SinglePool"}}),
        lambda: api.apply(with_binding(subjects=[SOMEBODY])),
        lambda: api.apply(with_pod(hostNetwork=True)),
    ):
        eventually(lambda probe=probe: probe()[0] != 200, why="no policy is in force")  # type: ignore[misc] # a default
    return api


def with_binding(**fields: Any) -> Object:
    return {**BINDING, **fields}


def with_pod(**fields: Any) -> Object:
    """Return a new Deployment of a service with other fields in its pods' spec."""
    body = copy.deepcopy(deployment(type="VLLM", image="engine:1", tensor_parallel=8))
    body["spec"]["template"]["spec"] |= fields
    return body


def with_container(**fields: Any) -> Object:
    (container,) = ENGINE["spec"]["template"]["spec"]["containers"]
    return with_pod(containers=[{**container, **fields}])


def owned_by(body: Object, **fields: Any) -> Object:
    reference = {**body["metadata"]["ownerReferences"][0], **fields}
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


def unlabelled(body: Object) -> Object:
    return {**body, "metadata": {**body["metadata"], "labels": {}}}


# ------------------------------------------------------------------ what it does
POD_TEMPLATE = SERVICE_WITH_USER["spec"]["engine"]["podTemplate"]
MADE = [
    ENGINE,
    *(deployment(type=name, image="engine:1") for name in ("SGLang", "TensorRTLLM")),
    deployment(type="Simulated"),
    deployment(type="VLLM", image="engine:1", podTemplate=POD_TEMPLATE, tensor_parallel=2),
    *(ACCOUNT, BINDING, FRONT, ROUTER, ROUTING),
    options_config_map(owner(type="TensorRTLLM", image="engine:1")),
    disruption_budget(owner(type="Simulated"), pool="ll"),
]


@pytest.mark.parametrize("body", MADE, ids=lambda body: f"{body['kind']} {body['metadata']['name']}")
def test_all_that_a_service_is_made_of_is_accepted(operator: Api, body: Object) -> None:
    assert operator.apply(body)[0] in (200, 201), operator.apply(body)


DONE: list[tuple[str, Callable[[Api], tuple[int, str]]]] = [
    (
        "unroutes",
        lambda api: api.patch(OURS_RUNNING, {"metadata": {"annotations": {names.ANNOTATION_UNROUTED_AT: "x"}}}),
    ),
    (
        "routes",
        lambda api: api.patch(OURS_RUNNING, {"metadata": {"annotations": {names.ANNOTATION_UNROUTED_AT: None}}}),
    ),
    ("clocks", lambda api: api.patch(AGENTS, {"metadata": {"annotations": {names.ANNOTATION_CLOCK_PLAN: "{}"}}})),
    ("finalizer", lambda api: api.patch(SERVICE, {"metadata": {"finalizers": None}})),
    ("group goes", lambda api: api.ask("DELETE", path_of(ENGINE))),
]


@pytest.mark.parametrize("does", [case[1] for case in DONE], ids=[case[0] for case in DONE])
def test_what_the_operator_does_is_accepted(operator: Api, does: Callable[[Api], tuple[int, str]]) -> None:
    assert does(operator)[0] == 200, does(operator)


# ------------------------------------------------------------------ what it could do by RBAC alone
OF_OTHERS = "changes no object of others"
OF_NOBODY = "makes nothing that no InferenceService owns"
SPEC = "changes metadata here, never a spec"
PODS = "annotates pods of engines, and relabels none"
ROLE = "binds dynamollm-router to a service's own router"
NODE = "makes no pod in a namespace of its node"
VOLUMES = "emptyDir, ConfigMaps and claims alone"
PRIVILEGES = "without capabilities and without privilege escalation"
ACCOUNTS = "no service account but its service's router's"
SOMEBODY = {"kind": "ServiceAccount", "name": "somebody", "namespace": "llm"}

REFUSED: list[tuple[str, Callable[[Api], tuple[int, str]], str]] = [
    ("a ConfigMap of others", lambda api: api.patch(SETTINGS, {"data": {"a": "c"}}), OF_OTHERS),
    ("a Deployment of others", lambda api: api.patch(WEB, {"spec": {"replicas": 1}}), OF_OTHERS),
    ("deletes a Deployment of others", lambda api: api.ask("DELETE", path_of(WEB)), OF_OTHERS),
    ("a ConfigMap of nobody", lambda api: api.apply(others("ConfigMap", "mine", data={})), OF_NOBODY),
    ("one without its label", lambda api: api.apply({**unlabelled(ACCOUNT)}), OF_NOBODY),
    (
        "one that a Deployment owns",
        lambda api: api.apply(owned_by(FRONT, kind="Deployment", apiVersion="apps/v1")),
        OF_NOBODY,
    ),
    (
        "one that an InferenceService of KServe owns",
        lambda api: api.apply(owned_by(FRONT, apiVersion="serving.kserve.io/v1")),
        OF_NOBODY,
    ),
    (
        "a PodDisruptionBudget of nobody",
        lambda api: api.apply(others("PodDisruptionBudget", "b", spec={"maxUnavailable": 0})),
        OF_NOBODY,
    ),
    (
        "gives up one of its own",
        lambda api: api.patch(ENGINE, {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}),
        OF_NOBODY,
    ),
    ("a pod of others", lambda api: api.patch(THEIRS_RUNNING, {"metadata": {"annotations": {"a": "b"}}}), PODS),
    ("the image of a pod of others", lambda api: another_image(api, THEIRS_RUNNING), SPEC),
    ("the image of a pod of ours", lambda api: another_image(api, OURS_RUNNING), SPEC),
    (
        "the labels of a pod of ours",
        lambda api: api.patch(OURS_RUNNING, {"metadata": {"labels": {"app": "web"}}}),
        PODS,
    ),
    ("the agents' pods", lambda api: api.patch(AGENTS, {"spec": {"template": {"spec": {"hostPID": True}}}}), SPEC),
    ("a service's spec", lambda api: api.patch(SERVICE, {"spec": {"policy": "SinglePool"}}), SPEC),
    ("the role for another account", lambda api: api.apply(with_binding(subjects=[SOMEBODY])), ROLE),
    ("the role for a user", lambda api: api.apply(with_binding(subjects=[USER])), ROLE),
    ("the role for one more", lambda api: api.apply(with_binding(subjects=[*BINDING["subjects"], SOMEBODY])), ROLE),
    ("the role for a router elsewhere", lambda api: api.apply(with_binding(subjects=[ELSEWHERE])), ROLE),
    ("the role for one that is called like no router", lambda api: api.apply(renamed(BINDING, "somebody")), ROLE),
    ("host network", lambda api: api.apply(with_pod(hostNetwork=True)), NODE),
    ("host processes", lambda api: api.apply(with_pod(hostPID=True)), NODE),
    ("host IPC", lambda api: api.apply(with_pod(hostIPC=True)), NODE),
    ("a folder of the node", lambda api: api.apply(with_volume(hostPath={"path": "/"})), VOLUMES),
    ("a Secret", lambda api: api.apply(with_volume(secret={"secretName": "s"})), VOLUMES),
    (
        "a token",
        lambda api: api.apply(with_volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]})),
        VOLUMES,
    ),
    ("a driver's volume", lambda api: api.apply(with_volume(csi={"driver": "secrets-store.csi.k8s.io"})), VOLUMES),
    ("a claim of its own", lambda api: api.apply(with_volume(ephemeral={"volumeClaimTemplate": CLAIM})), VOLUMES),
    ("a server's folder", lambda api: api.apply(with_volume(nfs={"server": "s", "path": "/"})), VOLUMES),
    ("an image", lambda api: api.apply(with_volume(image={"reference": "i"})), VOLUMES),
    ("a file of the pod", lambda api: api.apply(with_volume(downwardAPI={})), VOLUMES),
    ("privileged", lambda api: api.apply(with_container(securityContext={"privileged": True})), PRIVILEGES),
    ("no context", lambda api: api.apply(with_container(securityContext={})), PRIVILEGES),
    ("a capability", lambda api: api.apply(with_container(securityContext=CAPABLE)), PRIVILEGES),
    ("a privileged init container", lambda api: api.apply(with_pod(initContainers=[INIT])), PRIVILEGES),
    ("another account", lambda api: api.apply(with_pod(serviceAccountName="somebody")), ACCOUNTS),
    ("the default account's token", lambda api: api.apply(with_pod(automountServiceAccountToken=True)), ACCOUNTS),
]
USER = {"kind": "User", "name": "chat-router", "apiGroup": "rbac.authorization.k8s.io"}
ELSEWHERE = {"kind": "ServiceAccount", "name": "chat-router", "namespace": "kube-system"}
CAPABLE = {**CONTEXT, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
INIT = {"name": "init", "image": "i", "securityContext": {"privileged": True}}


def another_image(api: Api, body: Object) -> tuple[int, str]:
    change = [{"op": "replace", "path": "/spec/containers/0/image", "value": "evil:1"}]
    return api.ask("PATCH", path_of(body), change, "application/json-patch+json")


def renamed(body: Object, name: str) -> Object:
    subjects = [{**SOMEBODY, "name": name}]
    return {**body, "metadata": {**body["metadata"], "name": name}, "subjects": subjects}


def with_volume(**source: Any) -> Object:
    return with_pod(volumes=[*ENGINE["spec"]["template"]["spec"]["volumes"], {"name": "more", **source}])


@pytest.mark.parametrize(("does", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_rbac_would_let_it_do_is_refused(operator: Api, does: Callable[[Api], tuple[int, str]], why: str) -> None:
    status, said = does(operator)
    assert status == 422, said
    assert why in said


@pytest.mark.parametrize("does", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_nobody_else_is_bounded(cluster: LocalCluster, operator: Api, does: Callable[[Api], tuple[int, str]]) -> None:
    """The same requests by an administrator: it is the operator that the policies are about, and the requests are whole."""
    status, said = does(replace(operator, token=administrator(cluster)))
    assert status in (200, 201), said


def administrator(cluster: LocalCluster) -> str:
    """Return the token of a service account that may do everything."""
    if "admin" not in cluster.kubectl("get", "serviceaccounts", "-n", SYSTEM, "-o", "name"):
        cluster.kubectl("create", "serviceaccount", "admin", "-n", SYSTEM)
        cluster.kubectl(
            *("create", "clusterrolebinding", "admin", "--clusterrole=cluster-admin"),
            f"--serviceaccount={SYSTEM}:admin",
        )
    return cluster.kubectl("create", "token", "admin", "-n", SYSTEM).strip()


def test_no_expression_is_doubtful_to_the_api_server(cluster: LocalCluster, operator: Api) -> None:
    assert operator
    found = json.loads(cluster.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
    assert len(found) == 4
    for body in found:
        name = body["metadata"]["name"]
        eventually(lambda name=name: checked(cluster, name), why=f"{name} is not type-checked")  # type: ignore[misc] # a default
        assert checked(cluster, name) == {"typeChecking": {}}, name


def checked(cluster: LocalCluster, name: str) -> Object:
    body = json.loads(cluster.kubectl("get", "validatingadmissionpolicy", name, "-o", "json"))
    status: Object = body.get("status", {})
    return {"typeChecking": status["typeChecking"]} if "typeChecking" in status else {}
