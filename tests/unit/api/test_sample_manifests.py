from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.common import Spec
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.names import GROUP, VERSION
from dynamollm.api.profile import PerformanceProfileSpec

MANIFESTS = Path(__file__).parents[3] / "manifests"
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
PROFILES = sorted((MANIFESTS / "profiles").glob("*.yaml"))
MODELS: dict[str, type[Spec]] = {
    "InferenceService": InferenceServiceSpec,
    "PerformanceProfile": PerformanceProfileSpec,
    "ClusterPolicy": ClusterPolicySpec,
}


def load(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any]
    (manifest,) = objects(path)
    return manifest


def objects(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def services() -> list[Any]:
    return [
        pytest.param(body, id=body["metadata"]["name"])
        for path in SAMPLES
        for body in objects(path)
        if body["kind"] == "InferenceService"
    ]


@pytest.mark.parametrize("path", [*SAMPLES, *PROFILES], ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path) -> None:
    for manifest in objects(path):
        if manifest["kind"] in ("Namespace", "PersistentVolumeClaim"):
            assert manifest["apiVersion"] == "v1"
            continue
        assert manifest["apiVersion"] == f"{GROUP}/{VERSION}"
        MODELS[manifest["kind"]].model_validate(manifest["spec"])


@pytest.mark.parametrize("manifest", services())
def test_a_sample_service_has_its_namespace_and_its_profile(manifest: dict[str, Any]) -> None:
    assert manifest["metadata"]["namespace"] == load(MANIFESTS / "samples" / "namespace.yaml")["metadata"]["name"]
    spec = InferenceServiceSpec.model_validate(manifest["spec"])
    profile = load(MANIFESTS / "profiles" / f"{spec.profile_ref.name}.yaml")
    assert profile["metadata"]["name"] == spec.profile_ref.name
    measured = PerformanceProfileSpec.model_validate(profile["spec"])
    assert measured.model.name == spec.model.name
    assert measured.gpu.product == spec.gpu.product
    assert set(spec.gpu.tensor_parallel) <= set(measured.tensor_parallel)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_claim_of_a_sample_service_comes_with_it_and_many_nodes_can_mount_it(path: Path) -> None:
    bodies = objects(path)
    claims = {
        (body["metadata"]["namespace"], body["metadata"]["name"]): body["spec"]["accessModes"]
        for body in bodies
        if body["kind"] == "PersistentVolumeClaim"
    }
    wanted = {
        (body["metadata"]["namespace"], volume["persistentVolumeClaim"]["claimName"]): ["ReadWriteMany"]
        for body in bodies
        if body["kind"] == "InferenceService"
        for volume in body["spec"]["engine"].get("podTemplate", {}).get("volumes", [])
    }
    assert claims == wanted


def test_the_samples_of_the_documentation_are_there() -> None:
    assert {path.name for path in SAMPLES} == {
        "namespace.yaml",
        "clusterpolicy.yaml",
        "demo.yaml",
        "inferenceservice-chat.yaml",
        "inferenceservice-advise.yaml",
        "inferenceservice-singlepool.yaml",
        "one-pool.yaml",
        "nine-classes.yaml",
        "shared-budget.yaml",
        "carbon-schedule.yaml",
        "sglang.yaml",
        "tensorrt-llm.yaml",
        "vllm-weights.yaml",
    }


def test_the_chat_sample_has_the_slos_of_the_paper() -> None:
    spec = InferenceServiceSpec.model_validate(load(MANIFESTS / "samples" / "inferenceservice-chat.yaml")["spec"])
    ttft = spec.slo.ttft_milliseconds
    assert (ttft.short, ttft.medium, ttft.long, spec.slo.tbt_milliseconds) == (250, 400, 2000, 100)
    assert spec.engine.type == "Simulated"
