"""Alerts and dashboards, asked of the real Prometheus."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from component.addresses import fresh_ip
from lab.helm import Helm
from lab.paths import cache_dir


@pytest.fixture(scope="module")
def made(helm: Helm) -> dict[str, Any]:
    values = {"monitoring": {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}}
    found = {(body["kind"], body["metadata"]["name"]): body for body in helm.template(values)}
    return {
        "rules": found["PrometheusRule", "dynamollm"]["spec"],
        "dashboards": found["ConfigMap", "dynamollm-dashboards"]["data"],
    }


@pytest.fixture(scope="module")
def prometheus(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the rules of the chart and nothing to scrape."""
    binaries = sorted(cache_dir().glob("bin/prometheus-*/prometheus"))
    if not binaries:
        pytest.skip(f"no Prometheus in {cache_dir()}/bin yet: make test builds it")
    folder: Path = tmp_path_factory.mktemp("prometheus")
    (folder / "rules.yml").write_text(yaml.safe_dump(made["rules"]))
    config = {"global": {"evaluation_interval": "200ms"}, "rule_files": [str(folder / "rules.yml")]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{fresh_ip()}:9090"
    process = subprocess.Popen(
        [
            str(binaries[-1]),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    url = f"http://{address}"
    try:
        wait(lambda: requests.get(f"{url}/-/ready", timeout=5).ok)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if condition():
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def rules(url: str) -> dict[str, dict[str, Any]]:
    groups = requests.get(f"{url}/api/v1/rules", timeout=60).json()["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_is_evaluated(prometheus: str, made: dict[str, Any]) -> None:
    names = {rule["alert"] for rule in made["rules"]["groups"][0]["rules"]}
    wait(lambda: {name for name, rule in rules(prometheus).items() if rule["health"] == "ok"} == names)


def test_an_absent_operator_is_the_one_thing_that_alarms_where_nothing_is(prometheus: str) -> None:
    wait(lambda: rules(prometheus)["DynamoLLMOperatorDown"]["state"] == "pending")
    assert {name for name, rule in rules(prometheus).items() if rule["state"] != "inactive"} == {
        "DynamoLLMOperatorDown"
    }


def test_every_panel_asks_what_prometheus_understands(prometheus: str, made: dict[str, Any]) -> None:
    variables = {"$__rate_interval": "1m", "$namespace": ".*", "$service": ".*"}
    asked = 0
    for name, text in made["dashboards"].items():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in variables.items():
                    expression = expression.replace(variable, value)
                answer = requests.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=60).json()
                assert answer["status"] == "success", (name, panel["title"], answer)
                asked += 1
    assert asked > 20
