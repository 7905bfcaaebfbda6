"""Values that the chart refuses, and in what words."""

from typing import Any

import pytest
import yaml

from lab.errors import LabError
from lab.helm import CHART, Helm

REFUSED: list[tuple[dict[str, Any], str]] = [
    # Wrong types.
    ({"operator": {"replicas": "two"}}, "at '/operator/replicas': got string, want integer"),
    ({"agent": {"enabled": "yes"}}, "at '/agent/enabled': got string, want boolean"),
    ({"agent": {"tolerations": {"key": "x"}}}, "at '/agent/tolerations': got object, want array"),
    ({"operator": {"podLabels": {"a": 1}}}, "at '/operator/podLabels/a': got number, want string"),
    ({"imagePullSecrets": ["pull"]}, "at '/imagePullSecrets/0': got string, want object"),
    ({"crds": None, "operator": []}, "at '/operator': got array, want object"),
    # Unknown keys.
    ({"operatr": {}}, "additional properties 'operatr' not allowed"),
    ({"operator": {"replica": 2}}, "at '/operator': additional properties 'replica' not allowed"),
    ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "additional properties 'serviceMonitor' not allowed"),
    ({"agent": {"extraEnv": [{"name": "A", "val": "b"}]}}, "additional properties 'val' not allowed"),
    # Out of bounds.
    ({"operator": {"replicas": -1}}, "at '/operator/replicas': minimum: got -1, want 0"),
    ({"prometheus": {"scrapeIntervalSeconds": 0}}, "at '/prometheus/scrapeIntervalSeconds': minimum"),
    ({"prometheus": {"scrapeIntervalSeconds": 600}}, "at '/prometheus/scrapeIntervalSeconds': maximum"),
    ({"networkPolicy": {"apiServerPorts": [0]}}, "at '/networkPolicy/apiServerPorts/0': minimum"),
    ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts': minItems"),
    ({"priorityClasses": {"value": 2000000000}}, "at '/priorityClasses/value': maximum"),
    ({"simulation": {"timeScale": 0}}, "at '/simulation/timeScale': exclusiveMinimum"),
    # Not one of the words, not of the form.
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of"),
    ({"image": {"digest": "sha256:1"}}, "at '/image/digest': 'sha256:1' does not match pattern"),
    ({"image": {"repository": "x@sha256:1"}}, "at '/image/repository': 'x@sha256:1' does not match pattern"),
    ({"uninstall": {"services": "Maybe"}}, "at '/uninstall/services': value must be one of 'Keep', 'Delete'"),
    ({"prometheus": {"url": ""}}, "at '/prometheus/url': '' does not match pattern"),
    ({"prometheus": {"url": "prometheus:9090"}}, "at '/prometheus/url': 'prometheus:9090' does not match pattern"),
    ({"prometheus": {"url": "http://user:secret@prometheus"}}, "does not match pattern"),
    ({"agent": {"statePath": "var/lib"}}, "at '/agent/statePath': 'var/lib' does not match pattern"),
    ({"agent": {"maxUnavailable": "some"}}, "at '/agent/maxUnavailable'"),
    # Contradictions.
    ({"crds": {"keep": False}}, "Set uninstall.services to Delete, or crds.keep to true"),
    ({"operator": {"podLabels": {"app.kubernetes.io/name": "x"}}}, "operator.podLabels sets app.kubernetes.io/name"),
    ({"agent": {"podAnnotations": {"prometheus.io/port": "1"}}}, "agent.podAnnotations sets prometheus.io/port"),
    ({"agent": {"extraEnv": [{"name": "NODE_NAME", "value": "x"}]}}, "agent.extraEnv sets NODE_NAME"),
    ({"agent": {"extraVolumes": [{"name": "state"}]}}, "agent.extraVolumes has a volume state"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_it_is_refused_and_told_where(helm: Helm, values: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError) as refused:
        helm.render(values)
    assert message in str(refused.value)


def test_what_contradicts_only_with_the_default_is_accepted_without_it(helm: Helm) -> None:
    assert helm.template({"crds": {"keep": False}, "uninstall": {"services": "Delete"}})


@pytest.mark.parametrize("version", ["1.29.14", "1.21.0"])
def test_a_cluster_that_is_too_old_is_refused(helm: Helm, version: str) -> None:
    with pytest.raises(LabError, match=r"requires kubeVersion: >=1\.30\.0-0 which is incompatible with Kubernetes v"):
        helm.render({}, "--kube-version", version)


@pytest.mark.parametrize("version", ["1.30.0", "1.33.4-gke.1010000", "1.37.2"])
def test_a_cluster_that_is_new_enough_is_not(helm: Helm, version: str) -> None:
    assert helm.template({}, "--kube-version", version)


def test_every_value_is_in_the_schema_and_nothing_else(helm: Helm) -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def closed(part: dict[str, Any], values: Any, path: str) -> None:
        if not isinstance(values, dict) or part.get("additionalProperties") != False:  # noqa: E712 - may be a schema
            return
        assert set(part["properties"]) - {"global", "claims"} >= set(values), path
        if path not in {"operator.resources", "agent.resources"}:
            assert set(part["properties"]) - {"global"} == set(values), path
        for name, value in values.items():
            closed(part["properties"][name], value, f"{path}.{name}".strip("."))

    closed(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")
    assert helm.render({"global": {"any": "thing"}})
