"""What is made from the chart, or copied into it, is what is committed; manifests/base is the chart's default output."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import make_chart
from lab.helm import Helm, Manifest, key
from lab.paths import REPOSITORY


def test_what_is_committed_is_what_is_made(helm: Helm) -> None:
    for path, text in make_chart.made(helm).items():
        assert path.read_text() == text, f"{path.relative_to(REPOSITORY)}: run `make chart`"


@pytest.mark.parametrize(
    "folder", [make_chart.BASE, make_chart.CHART / "files/crds", make_chart.make_dashboards.FOLDER]
)
def test_nothing_else_is_committed(helm: Helm, folder: Path) -> None:
    made = {path for path in make_chart.made(helm) if path.parent == folder}
    assert set(folder.iterdir()) - {folder / name for name in make_chart.BY_HAND} == made


HELMS_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")
HELMS_ANNOTATIONS = ("helm.sh/resource-policy", "checksum/config")


def without_helms(body: Manifest) -> Manifest:
    """Return an object of the chart without what only means something to helm."""
    plain = copy.deepcopy(body)
    for metadata in (plain["metadata"], plain.get("spec", {}).get("template", {}).get("metadata", {})):
        for entries, names in (("labels", HELMS_LABELS), ("annotations", HELMS_ANNOTATIONS)):
            for name in names:
                metadata.get(entries, {}).pop(name, None)
        if metadata.get("annotations") == {}:
            del metadata["annotations"]
    return plain


def test_definitions_and_base_are_the_charts_default_output(helm: Helm) -> None:
    def read(path: Path) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all(path.read_text()))

    listed = read(make_chart.BASE / "kustomization.yaml")[0]["resources"]
    applied = [body for name in listed for body in read(make_chart.BASE / name)]
    by_hand = [body for body in applied if body["kind"] == "Namespace"]
    assert [body["metadata"]["labels"] for body in by_hand] == [{"pod-security.kubernetes.io/enforce": "privileged"}]
    ours = {key(body): body for body in applied if body not in by_hand}
    for path in make_chart.CRDS.glob("*.yaml"):
        (crd,) = read(path)
        ours[key(crd)] = crd
    charts = {
        key(body): without_helms(body)
        for body in helm.template()
        if "helm.sh/hook" not in body["metadata"].get("annotations", {})
    }
    for kind, name in charts:
        if kind == "CustomResourceDefinition":
            del charts[kind, name]["metadata"]["labels"]
    assert ours == charts


def test_the_table_has_every_value() -> None:
    text = """
a:
  # -- What b is.
  b: 1
  c:
    # -- What d is.
    d: [x, {y: z}]
# -- What e is.
e: {}
"""
    assert make_chart.values_table(text).splitlines()[2:] == [
        "| `a.b` | `1` | What b is. |",
        "| `a.c.d` | `[x, {y: z}]` | What d is. |",
        "| `e` | `{}` | What e is. |",
    ]


def test_no_value_is_without_a_line() -> None:
    values = yaml.safe_load((make_chart.CHART / "values.yaml").read_text())
    told = {path for path, _, _ in make_chart._documented((make_chart.CHART / "values.yaml").read_text().splitlines())}

    def leaves(part: Any, path: str) -> list[str]:
        if path in told or not isinstance(part, dict) or not part:
            return [path]
        return [leaf for name, value in part.items() for leaf in leaves(value, f"{path}.{name}".strip("."))]

    assert set(leaves(values, "")) == told
