"""A Prometheus that finds pods through the API server, with a service account of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from lab.apiserver_client import ApiClient
from lab.controlplane import NICE
from lab.processes import Command

NAMESPACE: Final = "monitoring"
_TOKEN_S: Final = 365 * 24 * 3600
_POD_LABELS: Final = {
    "dynamollm_io_service": "service",
    "dynamollm_io_pool": "pool",
    "dynamollm_io_component": "component",
    "dynamollm_io_tensor_parallel": "tensor_parallel",
}
"""Pod labels, as discovery spells them, to the labels of the target."""
_ANNOTATION: Final = "__meta_kubernetes_pod_annotation_prometheus_io_"


def grant_access(api: ApiClient, token_file: Path) -> None:
    """Make Prometheus' service account, what it may see, and its token.

    Raises:
        LabError: the API server refused.
    """
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    name = {"name": "prometheus"}
    api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    api.create(accounts, {"metadata": name})
    api.create(
        f"{rbac}/clusterroles",
        {"metadata": name, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]},
    )
    api.create(
        f"{rbac}/clusterrolebindings",
        {
            "metadata": name,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"},
            "subjects": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": NAMESPACE}],
        },
    )
    answer = api.create(f"{accounts}/prometheus/token", {"spec": {"expirationSeconds": _TOKEN_S}})
    token_file.touch(mode=0o600)
    token_file.write_text(answer["status"]["token"])


def from_outside(*, api_url: str, authority: Path, token_file: Path) -> dict[str, Any]:
    """Return how a Prometheus that is no pod reaches the API server."""
    return {
        "api_server": api_url,
        "authorization": {"credentials_file": str(token_file)},
        "tls_config": {"ca_file": str(authority)},
    }


def configuration(*, scrape_interval_s: float, discovery: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the configuration: pods with the annotation prometheus.io/scrape, on the port and path they name.

    ``discovery`` is how to reach the API server, where Prometheus is no pod itself: see `from_outside`.
    """
    relabel: list[dict[str, Any]] = [
        {"source_labels": [f"{_ANNOTATION}scrape"], "regex": "true", "action": "keep"},
        # A pod that has ended keeps its address for a while.
        {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Pending|Succeeded|Failed", "action": "drop"},
        # Discovery gives one target for each container port; all become the one that the annotation names.
        {
            "source_labels": ["__meta_kubernetes_pod_ip", f"{_ANNOTATION}port"],
            "separator": ":",
            "regex": "(.+:[0-9]+)",
            "target_label": "__address__",
        },
        {"source_labels": [f"{_ANNOTATION}path"], "regex": "(.+)", "target_label": "__metrics_path__"},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
    ]
    relabel += [
        {"source_labels": [f"__meta_kubernetes_pod_label_{label}"], "regex": "(.+)", "target_label": target}
        for label, target in _POD_LABELS.items()
    ]
    interval = f"{round(scrape_interval_s * 1000)}ms"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [
            {
                "job_name": "pods",
                "honor_labels": True,
                "kubernetes_sd_configs": [{"role": "pod", **(discovery or {})}],
                "relabel_configs": relabel,
            }
        ],
    }


def prometheus(
    *, binaries: Mapping[str, Path], state: Path, config: Mapping[str, Any], address: str, port: int
) -> Command:
    """Write the configuration and return Prometheus."""
    file = state / "prometheus.yml"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    return Command(
        "prometheus",
        [
            str(binaries["prometheus"]),
            f"--config.file={file}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            f"--web.listen-address={address}:{port}",
            # A new pod is scraped within a scrape interval of a second or so, not of the default five.
            "--scrape.discovery-reload-interval=1s",
            "--log.level=warn",
        ],
        nice=NICE,
    )
