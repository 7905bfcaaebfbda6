"""What the chart renders to, over a matrix of values."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamollm.api.names import SYSTEM_NAMESPACE
from lab.helm import CHART, RELEASE, Helm, Manifest, key
from lab.paths import REPOSITORY
from lab.prometheus import _POD_LABELS

CRDS = sorted((REPOSITORY / "crds").glob("*.yaml"))
DEFAULT = [
    ("PodDisruptionBudget", "dynamollm-operator"),
    ("NetworkPolicy", "dynamollm-agent"),
    ("NetworkPolicy", "dynamollm-operator"),
    ("PriorityClass", "dynamollm-agent"),
    ("PriorityClass", "dynamollm-operator"),
    ("ServiceAccount", "dynamollm-agent"),
    ("ServiceAccount", "dynamollm-operator"),
    ("ConfigMap", "dynamollm-config"),
    ("CustomResourceDefinition", "clusterpolicies.dynamollm.io"),
    ("CustomResourceDefinition", "inferenceservices.dynamollm.io"),
    ("CustomResourceDefinition", "performanceprofiles.dynamollm.io"),
    ("ClusterRole", "dynamollm-agent"),
    ("ClusterRole", "dynamollm-operator"),
    ("ClusterRole", "dynamollm-router"),
    ("ClusterRoleBinding", "dynamollm-agent"),
    ("ClusterRoleBinding", "dynamollm-operator"),
    ("Role", "dynamollm-agent"),
    ("Role", "dynamollm-operator"),
    ("RoleBinding", "dynamollm-agent"),
    ("RoleBinding", "dynamollm-operator"),
    ("DaemonSet", "dynamollm-agent"),
    ("Deployment", "dynamollm-operator"),
]
ADMISSION = [
    (kind, f"dynamollm-operator-{name}")
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    for name in ("bindings", "owned", "pods", "specs")
]
DEFAULT += ADMISSION
AGENT = {(kind, name) for kind, name in DEFAULT if name == "dynamollm-agent"}
DEFINITIONS = {(kind, name) for kind, name in DEFAULT if kind == "CustomResourceDefinition"}
PRIORITIES = {(kind, name) for kind, name in DEFAULT if kind == "PriorityClass"}
POLICIES = {(kind, name) for kind, name in DEFAULT if kind == "NetworkPolicy"}
MONITORS = {("PodMonitor", f"dynamollm-{part}") for part in ("operator", "agent", "services")}


def is_hook(body: Manifest) -> bool:
    return "helm.sh/hook" in body["metadata"].get("annotations", {})


def objects(helm: Helm, values: dict[str, Any] | None = None) -> dict[tuple[str, str], Manifest]:
    found = [body for body in helm.template(values) if not is_hook(body)]
    made = {key(body): body for body in found}
    assert len(made) == len(found), "two objects of one name"
    return made


def hooks(helm: Helm, values: dict[str, Any] | None = None) -> dict[tuple[str, str], Manifest]:
    return {key(body): body for body in helm.template(values) if is_hook(body)}


def pod(body: Manifest) -> Any:
    return body["spec"] if body["kind"] == "Pod" else body["spec"]["template"]["spec"]


def test_it_lints(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


def test_a_package_of_it_renders_to_the_same(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.iterdir()
    assert package.name == "dynamollm-0.1.0.tgz"
    assert helm.run("template", RELEASE, str(package), "--namespace", SYSTEM_NAMESPACE) == helm.render()


def test_its_definitions_are_the_repositorys(helm: Helm) -> None:
    rendered = objects(helm)
    for path in CRDS:
        crd = yaml.safe_load(path.read_text())
        ours = rendered["CustomResourceDefinition", crd["metadata"]["name"]]
        assert ours["spec"] == crd["spec"]
        assert ours["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


# ------------------------------------------------------------------ which objects there are
MATRIX: list[tuple[dict[str, Any], set[tuple[str, str]], set[tuple[str, str]]]] = [
    ({}, set(), set()),
    ({"agent": {"enabled": False}}, AGENT - PRIORITIES, set()),
    ({"crds": {"install": False}}, DEFINITIONS, set()),
    ({"priorityClasses": {"create": False}}, PRIORITIES, set()),
    ({"networkPolicy": {"enabled": False}}, POLICIES, set()),
    ({"admissionPolicies": {"enabled": False}}, set(ADMISSION), set()),
    ({"networkPolicy": {"restrictEgress": True}}, set(), set()),
    ({"monitoring": {"podMonitors": {"enabled": True}}}, set(), MONITORS),
    ({"monitoring": {"prometheusRule": {"enabled": True}}}, set(), {("PrometheusRule", "dynamollm")}),
    ({"monitoring": {"dashboards": {"enabled": True}}}, set(), {("ConfigMap", "dynamollm-dashboards")}),
    (
        {"agent": {"enabled": False}, "monitoring": {"podMonitors": {"enabled": True}}},
        AGENT - PRIORITIES,
        MONITORS - {("PodMonitor", "dynamollm-agent")},
    ),
    ({"operator": {"replicas": 3}, "uninstall": {"services": "Delete"}}, set(), set()),
]


@pytest.mark.parametrize(("values", "without", "besides"), MATRIX, ids=[json.dumps(case[0]) for case in MATRIX])
def test_a_value_adds_and_removes_what_it_says(
    helm: Helm, values: dict[str, Any], without: set[tuple[str, str]], besides: set[tuple[str, str]]
) -> None:
    assert set(objects(helm, values)) == (set(DEFAULT) - without) | besides


@pytest.mark.parametrize("values", [case[0] for case in MATRIX], ids=[json.dumps(case[0]) for case in MATRIX])
def test_every_object_has_its_labels_and_its_namespace(helm: Helm, values: dict[str, Any]) -> None:
    cluster_wide = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}
    cluster_wide |= {kind for kind, _ in ADMISSION}
    for body in helm.template(values):
        metadata = body["metadata"]
        assert ("namespace" in metadata) == (body["kind"] not in cluster_wide), key(body)
        assert metadata.get("namespace", "dynamollm-system") == "dynamollm-system"
        assert (
            metadata["labels"]
            | {
                "app.kubernetes.io/part-of": "dynamollm",
                "app.kubernetes.io/managed-by": "Helm",
                "helm.sh/chart": "dynamollm-0.1.0",
            }
            == metadata["labels"]
        )


def test_what_only_an_uninstall_or_a_test_needs_exists_in_it_alone(helm: Helm) -> None:
    kinds = {body["metadata"]["annotations"]["helm.sh/hook"]: set() for body in hooks(helm).values()}  # type: ignore[var-annotated]
    for (kind, name), body in hooks(helm).items():
        kinds[body["metadata"]["annotations"]["helm.sh/hook"]].add((kind, name))
    rights = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    assert kinds == {
        "pre-delete": {(kind, "dynamollm-uninstall") for kind in (*rights, "Job")},
        "test": {(kind, "dynamollm-check") for kind in (*rights, "Pod")},
    }


# ------------------------------------------------------------------ pods
def pods(helm: Helm, values: dict[str, Any] | None = None) -> dict[str, Any]:
    with_pods = [body for body in helm.template(values) if body["kind"] in ("Deployment", "DaemonSet", "Job", "Pod")]
    return {body["metadata"]["name"].removeprefix("dynamollm-"): pod(body) for body in with_pods}


IMAGES = [
    ({}, "dynamollm/dynamollm:0.1.0"),
    ({"image": {"repository": "r.example:5000/x/y", "tag": "7"}}, "r.example:5000/x/y:7"),
    ({"image": {"tag": "7", "digest": "sha256:" + "a" * 64}}, "dynamollm/dynamollm@sha256:" + "a" * 64),
]


@pytest.mark.parametrize(("values", "image"), IMAGES, ids=[image for _, image in IMAGES])
def test_one_image_for_all_parts(helm: Helm, values: dict[str, Any], image: str) -> None:
    found = pods(helm, values)
    assert {container["image"] for spec in found.values() for container in spec["containers"]} == {image}
    environment = {entry["name"]: entry.get("value") for entry in found["operator"]["containers"][0]["env"]}
    assert environment["DYNAMOLLM_IMAGE"] == image


def test_no_pod_may_more_than_it_needs(helm: Helm) -> None:
    for name, spec in pods(helm).items():
        (container,) = spec["containers"]
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert "privileged" not in context
        assert not {"hostPID", "hostNetwork", "hostIPC"} & set(spec)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]
        if name == "agent":
            assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
            assert [volume["hostPath"]["path"] for volume in spec["volumes"]] == [
                "/var/lib/kubelet/pod-resources",
                "/var/lib/dynamollm",
            ]
        else:
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert "volumes" not in spec


def test_operator_and_agent_are_probed_and_have_their_priority(helm: Helm) -> None:
    found = pods(helm)
    for part in ("operator", "agent"):
        assert found[part]["priorityClassName"] == f"dynamollm-{part}"
        assert {"livenessProbe", "readinessProbe"} <= set(found[part]["containers"][0])


def test_a_priority_class_of_the_users_wins_and_without_any_there_is_none(helm: Helm) -> None:
    own = {"operator": {"priorityClassName": "mine"}, "priorityClasses": {"create": False}}
    found = pods(helm, own)
    assert found["operator"]["priorityClassName"] == "mine"
    assert "priorityClassName" not in found["agent"]


PLACEMENT: dict[str, Any] = {
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "k", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "podLabels": {"team": "llm"},
    "podAnnotations": {"note": "x"},
}


@pytest.mark.parametrize("part", ["operator", "agent"])
def test_placement_and_labels_go_to_the_pods(helm: Helm, part: str) -> None:
    kind = {"operator": "Deployment", "agent": "DaemonSet"}[part]
    selector = {"nvidia.com/gpu.present": "true"} if part == "agent" else {}
    made = objects(helm, {part: PLACEMENT, "imagePullSecrets": [{"name": "pull"}]})[kind, f"dynamollm-{part}"]
    spec, metadata = pod(made), made["spec"]["template"]["metadata"]
    assert spec["nodeSelector"] == selector | {"zone": "a"}  # helm merges maps
    assert spec["tolerations"] == PLACEMENT["tolerations"]
    assert spec["affinity"] == PLACEMENT["affinity"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert metadata["labels"]["team"] == "llm"
    assert metadata["annotations"]["note"] == "x"
    assert made["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()


def test_the_agent_takes_a_runtime_class_paths_and_mounts(helm: Helm) -> None:
    agent = pods(
        helm,
        {
            "agent": {
                "runtimeClassName": "nvidia",
                "podResourcesPath": "/p",
                "statePath": "/s",
                "extraEnv": [{"name": "LD_LIBRARY_PATH", "value": "/lib/x"}],
                "extraVolumes": [{"name": "lib", "hostPath": {"path": "/opt"}}],
                "extraVolumeMounts": [{"name": "lib", "mountPath": "/lib/x"}],
            }
        },
    )["agent"]
    (container,) = agent["containers"]
    assert agent["runtimeClassName"] == "nvidia"
    assert [volume["hostPath"]["path"] for volume in agent["volumes"]] == ["/p", "/s", "/opt"]
    assert container["env"][-1] == {"name": "LD_LIBRARY_PATH", "value": "/lib/x"}
    assert container["volumeMounts"][-1] == {"name": "lib", "mountPath": "/lib/x"}


def test_other_settings_make_other_operator_pods(helm: Helm) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = objects(helm, values)["Deployment", "dynamollm-operator"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"operator": {"replicas": 2}})
    assert checksum({}) != checksum({"prometheus": {"url": "http://other:9090"}})


def test_settings_reach_the_parts(helm: Helm) -> None:
    values = {
        "prometheus": {"url": "https://p.example/x", "scrapeIntervalSeconds": 1.5},
        "simulation": {"timeScale": 8},
    }
    assert objects(helm, values)["ConfigMap", "dynamollm-config"]["data"] == {
        "PROMETHEUS_URL": "https://p.example/x",
        "SCRAPE_INTERVAL_SECONDS": "1.5",
        "DYNAMOLLM_TIME_SCALE": "8",
        "DYNAMOLLM_TIME_ANCHOR": "0",
    }


# ------------------------------------------------------------------ the network
URLS = [
    ("http://prometheus.monitoring.svc:9090", 9090),
    ("https://prometheus.example.com", 443),
    ("http://10.0.0.1/prefix", 80),
]


@pytest.mark.parametrize(("url", "port"), URLS)
def test_what_goes_out_is_dns_the_api_server_and_prometheus(helm: Helm, url: str, port: int) -> None:
    values = {"networkPolicy": {"restrictEgress": True}, "prometheus": {"url": url}}
    made = objects(helm, values)
    spec = made["NetworkPolicy", "dynamollm-operator"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [[entry["port"] for entry in rule["ports"]] for rule in spec["egress"]] == [
        [53, 53],
        [443, 6443, 16443],
        [port],
    ]
    agent = made["NetworkPolicy", "dynamollm-agent"]["spec"]
    assert agent["egress"][-1]["to"][0]["podSelector"]["matchLabels"] == {"dynamollm.io/component": "engine"}


def test_by_default_only_what_comes_in_is_restricted_to_named_ports(helm: Helm) -> None:
    made = objects(helm, {"networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]}})
    for part in ("operator", "agent"):
        policy = made["NetworkPolicy", f"dynamollm-{part}"]["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        assert policy["ingress"][0] == {
            "ports": [{"protocol": "TCP", "port": "metrics"}],
            "from": [{"namespaceSelector": {}}],
        }
        kind = {"operator": "Deployment", "agent": "DaemonSet"}[part]
        ports = {entry["name"] for entry in pod(made[kind, f"dynamollm-{part}"])["containers"][0]["ports"]}
        assert {rule["ports"][0]["port"] for rule in policy["ingress"]} == ports


# ------------------------------------------------------------------ metrics
INTERVALS = [(15, "15000ms", "10000ms"), (1.5, "1500ms", "1500ms"), (0.25, "250ms", "250ms")]


@pytest.mark.parametrize(("seconds", "interval", "timeout"), INTERVALS)
def test_pod_monitors_scrape_as_often_as_the_operator_expects(
    helm: Helm, seconds: float, interval: str, timeout: str
) -> None:
    values = {"monitoring": {"podMonitors": {"enabled": True}}, "prometheus": {"scrapeIntervalSeconds": seconds}}
    monitors = [body for (kind, _), body in objects(helm, values).items() if kind == "PodMonitor"]
    assert len(monitors) == 3
    for body in monitors:
        (endpoint,) = body["spec"]["podMetricsEndpoints"]
        assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (interval, timeout)


def test_pod_monitors_give_the_labels_that_queries_need(helm: Helm) -> None:
    values = {"monitoring": {"podMonitors": {"enabled": True, "labels": {"release": "kps"}}}}
    monitors = {name: body for (kind, name), body in objects(helm, values).items() if kind == "PodMonitor"}
    for body in monitors.values():
        assert body["metadata"]["labels"]["release"] == "kps"
        (endpoint,) = body["spec"]["podMetricsEndpoints"]
        assert endpoint["honorLabels"] is True
        targets = {entry["sourceLabels"][0]: entry["targetLabel"] for entry in endpoint["relabelings"]}
        # As the Prometheus of the local cluster has it.
        assert targets == {
            "__meta_kubernetes_pod_annotation_prometheus_io_path": "__metrics_path__",
            "__meta_kubernetes_namespace": "namespace",
            "__meta_kubernetes_pod_name": "pod",
            "__meta_kubernetes_pod_node_name": "node",
            **{f"__meta_kubernetes_pod_label_{label}": target for label, target in _POD_LABELS.items()},
        }
    services = monitors["dynamollm-services"]["spec"]
    assert services["namespaceSelector"] == {"any": True}


def expressions(helm: Helm) -> Iterator[tuple[str, str]]:
    values = {"monitoring": {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}}
    made = objects(helm, values)
    for rule in made["PrometheusRule", "dynamollm"]["spec"]["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for name, text in made["ConfigMap", "dynamollm-dashboards"]["data"].items():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def test_alerts_and_dashboards_ask_for_metrics_that_exist(helm: Helm) -> None:
    sources = [*(REPOSITORY / "operator/dynamollm").rglob("*.py")]
    exported = set(re.findall(r'"(dynamollm_[a-z_]+)"', "\n".join(path.read_text() for path in sources)))
    exported |= {f"{name}_total" for name in exported} | {f"{name}_bucket" for name in exported}
    for where, expression in expressions(helm):
        asked = set(re.findall(r"dynamollm_[a-z_]+", expression))
        assert asked, where
        assert asked <= exported, where


def test_every_alert_has_a_line_in_the_documentation(helm: Helm) -> None:
    page = (REPOSITORY / "docs/install.md").read_text()
    assert [where for where, _ in expressions(helm) if where.startswith("DynamoLLM") and f"`{where}`" not in page] == []


def test_dashboards_have_no_panel_twice_and_none_over_another(helm: Helm) -> None:
    values = {"monitoring": {"dashboards": {"enabled": True, "annotations": {"folder": "llm"}}}}
    made = objects(helm, values)["ConfigMap", "dynamollm-dashboards"]
    assert made["metadata"]["annotations"] == {"folder": "llm"}
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    for text in made["data"].values():
        panels = json.loads(text)["panels"]
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
        assert len(places) == len({panel["title"] for panel in panels}) == len(panels)
        assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
