"""Makes what follows from the chart, and what the chart copies: `make chart`.

crds/ → the chart's files/crds; the chart's default output → manifests/base; values.yaml and roles → the tables in
docs/install.md.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

import make_dashboards
from lab.binaries import ensure_tools
from lab.helm import CHART, Helm
from lab.paths import REPOSITORY
from lab.progress import Progress

CRDS: Final = REPOSITORY / "crds"
BASE: Final = REPOSITORY / "manifests/base"
PAGE: Final = REPOSITORY / "docs/install.md"
BY_HAND: Final = ("namespace.yaml",)
"""What is in manifests/base and not in the chart: helm makes the namespace (--create-namespace)."""
_HELMS: Final = re.compile(
    r"^ *(app\.kubernetes\.io/managed-by: Helm|helm\.sh/.*|checksum/.*"
    r"|# Settings are read at start: other ones need other pods\.|# Routers that stay need it\.)\n",
    re.MULTILINE,
)
"""Lines that only mean something to helm."""
_EMPTY_ANNOTATIONS: Final = re.compile(r"^( *)annotations:\n(?!\1 )", re.MULTILINE)
_HEAD: Final = "# Made from charts/dynamollm (`make chart`): change it there.\n"
_MARK: Final = "<!-- {0}: made by `make chart` -->\n", "<!-- end of {0} -->\n"


# ------------------------------------------------------------------ manifests/base
def base(rendered: str) -> dict[str, str]:
    """Return the files of manifests/base for what ``helm template`` printed, hooks and definitions left out."""
    files: dict[str, list[str]] = {}
    for document in re.split(r"^---\n", rendered, flags=re.MULTILINE):
        found = re.match(r"\s*# Source: dynamollm/templates/(\S+)\n", document)
        if found and "/" not in found[1] and found[1] != "crds.yaml":
            text = _EMPTY_ANNOTATIONS.sub("", _HELMS.sub("", document[found.end() :])).strip()
            files.setdefault(found[1], []).append(f"{text}\n")
    made = {name: _HEAD + "---\n".join(texts) for name, texts in files.items()}
    # kubectl applies them in this order: the namespace first, then as helm does, priority classes and rights before pods.
    made["kustomization.yaml"] = _kustomization([*BY_HAND, *files])
    return made


def _kustomization(resources: list[str]) -> str:
    lines = "".join(f"  - {name}\n" for name in resources)
    return (
        f"{_HEAD}"
        "# What a cluster needs for dynamollm besides crds/: kubectl apply -k manifests/base\n"
        "# Set your Prometheus in an overlay that patches ConfigMap dynamollm-config (docs/install.md).\n"
        "apiVersion: kustomize.config.k8s.io/v1beta1\n"
        "kind: Kustomization\n"
        f"resources:\n{lines}"
    )


# ------------------------------------------------------------------ the table of values
def values_table(text: str) -> str:
    """Return the table for values.yaml: each value's path, default, and the comment `# -- …` above it."""
    rows = "".join(
        f"| `{path}` | `{_default(value)}` | {comment} |\n" for path, value, comment in _documented(text.splitlines())
    )
    return f"| value | default | |\n|---|---|---|\n{rows}"


def _documented(lines: list[str]) -> Iterator[tuple[str, Any, str]]:
    values, parents, comment = yaml.safe_load("\n".join(lines)), [], ""
    for line in lines:
        if found := re.match(r" *# -- (.*)", line):
            comment = found[1]
            continue
        found = re.match(r"( *)(\w+):", line)
        if found is None:
            continue
        parents = [*parents[: len(found[1]) // 2], found[2]]
        if comment:
            yield ".".join(parents), _at(values, parents), comment
            comment = ""


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def _default(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


# ------------------------------------------------------------------ the table of rights
def rights_table(rendered: str) -> str:
    """Return the table of what each role may do, and of the comment above each rule that says why."""
    rows = []
    for document in re.split(r"^---\n", rendered, flags=re.MULTILINE):
        role = yaml.safe_load(document)
        if not role or "rules" not in role:
            continue
        part = role["metadata"]["name"].removeprefix("dynamollm-")
        where = "its own namespace" if role["kind"] == "Role" else _WHERE.get(part, "the cluster")
        for rule, why in zip(role["rules"], _reasons(document), strict=True):
            groups = [f".{group}" if group else "" for group in rule["apiGroups"]]
            resources = ", ".join(f"`{name}{group}`" for group in groups for name in rule["resources"])
            names = ", ".join(f"`{name}`" for name in rule.get("resourceNames", []))
            only = f", only {names}" if names else ""
            rows.append(f"| {part} | {where} | {resources}{only} | {', '.join(rule['verbs'])} | {why} |\n")
    order = sorted(rows, key=lambda row: _ORDER.index(row.split(" | ")[0].removeprefix("| ")))
    return f"| part | in | what | verbs | why |\n|---|---|---|---|---|\n{''.join(order)}"


_WHERE: Final = {"router": "its service's namespace"}
"""Bound there by the operator."""
_ORDER: Final = ("operator", "agent", "router", "uninstall", "check")


def _reasons(document: str) -> Iterator[str]:
    """Yield the comment above each rule; a rule without one has that of the rule before."""
    _, _, rules = document.partition("\nrules:\n")
    comment: list[str] = []
    why = ""
    for line in rules.splitlines():
        if found := re.match(r"  # (.*)", line):
            comment.append(found[1])
        elif line.startswith("  - "):
            why, comment = " ".join(comment) or why, []
            yield why


def with_table(page: str, name: str, table: str) -> str:
    """Return the page with a table between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    begin, end = (mark.format(name) for mark in _MARK)
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE} has no {begin!r} … {end!r}")
    return f"{before}{begin}{table}{end}{after}"


# ------------------------------------------------------------------ all of it
def made(helm: Helm) -> dict[Path, str]:
    """Return the text of every file that is made."""
    files = {CHART / "files/crds" / path.name: path.read_text() for path in sorted(CRDS.glob("*.yaml"))}
    files |= {make_dashboards.FOLDER / name: text for name, text in make_dashboards.dashboards().items()}
    rendered = helm.render()
    files |= {BASE / name: text for name, text in base(rendered).items()}
    page = with_table(PAGE.read_text(), "values", values_table((CHART / "values.yaml").read_text()))
    files[PAGE] = with_table(page, "rights", rights_table(rendered))
    return files


def main() -> None:
    """Write them, and remove from manifests/base what is made no more."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    helm = Helm(ensure_tools(Progress())["helm"])
    # Definitions first: the chart that is rendered has them in it.
    for path in CRDS.glob("*.yaml"):
        (CHART / "files/crds" / path.name).write_text(path.read_text())
    files = made(helm)
    for path, text in files.items():
        path.write_text(text)
    for path in set(BASE.glob("*.yaml")) - set(files) - {BASE / name for name in BY_HAND}:
        path.unlink()


if __name__ == "__main__":
    main()
