"""Every rule and every bound of the CRDs, on a real API server: what it accepts, and what it refuses in what words."""

import copy
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Protocol

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.inferenceservice_status import InferenceServiceStatus
from dynamollm.api.names import GROUP, POLICIES, PROFILES, SERVICES, VERSION
from integration.crd_bounds import COMPANIONS, BoundCase, bound_cases, fields, locate, schemas
from integration.crd_objects import COMPLETE, MINIMAL_SERVICE, NAMESPACE, ROOT, SERVICE, merged
from integration.crd_rule_case import RuleCase
from integration.crd_rules import RULE_CASES, rules

pytestmark = pytest.mark.integration

PLURALS = {"InferenceService": SERVICES, "PerformanceProfile": PROFILES, "ClusterPolicy": POLICIES}
BOUND_CASES = sorted(bound_cases(), key=lambda case: case.id)


class Cluster(Protocol):
    """What these tests need of the fixture."""

    kubeconfig: Any

    def kubectl(self, *args: str, stdin: str | None = None) -> str: ...


class Api:
    """Dry runs against the API server, with unknown fields refused as kubectl has it."""

    def __init__(self, objects: client.CustomObjectsApi) -> None:
        self._objects = objects

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        body, plural = copy.deepcopy(manifest), PLURALS[manifest["kind"]]
        options: dict[str, str] = {"field_validation": "Strict", "dry_run": "All"}
        try:
            if manifest["kind"] == "InferenceService":
                body["metadata"]["namespace"] = NAMESPACE
                created = self._objects.create_namespaced_custom_object(
                    GROUP, VERSION, NAMESPACE, plural, body, **options
                )
            else:
                created = self._objects.create_cluster_custom_object(GROUP, VERSION, plural, body, **options)
        except ApiException as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return body  # another test has made one of this name: it was validated before that was noticed
        return _as_dict(created)

    def patch_status(self, status: dict[str, Any], *, accept: str = "application/json") -> dict[str, Any]:
        patched = self._objects.patch_namespaced_custom_object_status(
            GROUP,
            VERSION,
            NAMESPACE,
            SERVICES,
            "standing",
            {"status": status},
            field_validation="Strict",
            dry_run="All",
            _content_type="application/merge-patch+json",
            _headers={"Accept": accept},
        )
        return _as_dict(patched)

    def try_out(self, manifest: dict[str, Any], part: str) -> None:
        """Create it, or patch its status: dry."""
        if part == "status":
            self.patch_status(manifest["status"])
        else:
            self.create({key: value for key, value in manifest.items() if key != "status"})


def _as_dict(answer: Any) -> dict[str, Any]:
    assert isinstance(answer, dict)
    return answer


def message_of(error: ApiException) -> str:
    assert error.body is not None
    message: str = json.loads(error.body)["message"]
    return message


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    names = [f"crd/{plural}.{GROUP}" for plural in PLURALS.values()]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=120s", *names)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    connection = config.new_client_from_config(config_file=str(cluster.kubeconfig))
    api = Api(client.CustomObjectsApi(connection))
    standing = merged(SERVICE, {"metadata": {"name": "standing", "namespace": NAMESPACE}, "status": None})
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(standing))
    yield api
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    connection.close()


# ------------------------------------------------------------------ nothing is left out
def test_every_rule_has_a_case() -> None:
    assert sorted((case.kind, case.field, case.message) for case in RULE_CASES) == sorted(rules())


@pytest.mark.parametrize("kind", COMPLETE)
def test_the_complete_objects_have_every_field(kind: str) -> None:
    schema = schemas()[kind]
    for part in schema["properties"].keys() & {"spec", "status"}:
        for field, _ in fields(schema["properties"][part], part):
            assert any(locate(document, field) is not None for document in COMPLETE[kind]), f"{kind}: {field}"


def test_every_companion_belongs_to_a_bound() -> None:
    assert COMPANIONS.keys() <= {f"{case.field} {case.keyword}" for case in BOUND_CASES}


# ------------------------------------------------------------------ rules and bounds
@pytest.mark.parametrize("case", RULE_CASES, ids=lambda case: f"{case.kind}-{case.message.split(':')[0]}")
def test_a_rule(api: Api, case: RuleCase) -> None:
    for patch in case.accepted:
        api.create(merged(case.document, patch))
    for patch, words in case.rejected:
        with pytest.raises(ApiException) as refused:
            api.create(merged(case.document, patch))
        assert refused.value.status == 422
        assert words in message_of(refused.value)


@pytest.mark.parametrize("case", BOUND_CASES, ids=lambda case: case.id)
def test_a_bound(api: Api, case: BoundCase) -> None:
    part = case.field.partition(".")[0]
    for manifest in case.accepted:
        api.try_out(manifest, part)
    with pytest.raises(ApiException) as refused:
        api.try_out(case.rejected, part)
    assert refused.value.status == 422
    assert case.name in message_of(refused.value)


# ------------------------------------------------------------------ what users do
@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"slo": {"tbtMilliseconds": 0}}, "spec.slo.tbtMilliseconds: Invalid value: 0"),
        (
            {"slo": {"overrides": [{"class": "XL", "tbtMilliseconds": 1}]}},
            'spec.slo.overrides[0].class: Unsupported value: "XL": supported values: "SS", "SM", "SL"',
        ),
        ({"gpu": {"tensorParallel": [2, 2]}}, "spec.gpu.tensorParallel[1]: Duplicate value: 2"),
        ({"slo": None}, "spec.slo: Required value"),
        ({"limits": {"maxGPUs": "96"}}, 'spec.limits.maxGPUs: Invalid value: "string"'),
    ],
)
def test_a_refusal_in_the_schemas_own_words_names_field_value_and_remedy(
    api: Api, patch: dict[str, Any], words: str
) -> None:
    with pytest.raises(ApiException) as refused:
        api.create(merged(MINIMAL_SERVICE, {"spec": patch}))
    assert words in message_of(refused.value)


def test_a_field_that_does_not_exist_is_refused(api: Api) -> None:
    with pytest.raises(ApiException) as refused:
        api.create(merged(MINIMAL_SERVICE, {"spec": {"limits": {"maxGpus": 4}}}))
    assert 'unknown field "spec.limits.maxGpus"' in message_of(refused.value)


def test_the_api_server_fills_in_the_defaults_of_the_models(api: Api) -> None:
    created = api.create(MINIMAL_SERVICE)
    assert InferenceServiceSpec.model_validate(created["spec"]) == InferenceServiceSpec.model_validate(
        MINIMAL_SERVICE["spec"]
    )
    assert created["spec"]["limits"] == {"minInstances": 1, "maxGPUs": 96}
    assert created["spec"]["engine"]["type"] == "VLLM"


def test_a_status_is_kept_whole(api: Api) -> None:
    status = api.patch_status(SERVICE["status"])["status"]
    assert status == SERVICE["status"]
    assert InferenceServiceStatus.model_validate(status).to_resource() == SERVICE["status"]


def test_the_columns_show_the_status(api: Api) -> None:
    table = api.patch_status(SERVICE["status"], accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    shown = {
        column["name"]: cell
        for column, cell in zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True)
        if column["priority"] == 0 and column["name"] != "Age"
    }
    assert shown == {
        "Name": "standing",
        "Ready": "True",
        "Policy": "SinglePool",
        "GPUs": "4/96",
        "Pools": 1,
        "Clock": "1005-1980 MHz",
        "Power": "14.1 kW",
        "SLO": "99.4 %",
        "Plan": "holding",
    }


def test_the_short_name_and_the_category_find_the_service(cluster: Cluster, api: Api) -> None:  # noqa: ARG001 - in place
    for name in ("dllm", "dynamollm"):
        names = cluster.kubectl("get", name, "-n", NAMESPACE, "-o", "name").split()
        assert f"inferenceservice.{GROUP}/standing" in names


def test_a_status_cannot_come_in_with_the_spec(api: Api) -> None:
    assert "status" not in api.create(merged(MINIMAL_SERVICE, {"status": {"planSummary": "forged"}}))
