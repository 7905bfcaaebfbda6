"""Make docs/api.md from the models of the custom resources: every field, rule, printer column and condition."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dynamollm.api.crd import RESOURCES, CustomResource, custom_resource_definition
from dynamollm.api.inferenceservice_status import CONDITIONS
from dynamollm.api.names import GROUP, VERSION

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "api.md"

INTRODUCTION: Final = f"""\
<!-- Made by hack/make_api_docs.py (`make crds`); edit the docstrings in operator/dynamollm/api instead. -->
# API reference: {GROUP}/{VERSION}

The unit of a number is in its name: `…Seconds`, `…Milliseconds`, `…MHz`, `…Watts`, `…Percent`; `…BasisPoints` are
hundredths of a percent, `…PerSecondMilli` thousandths per second, `…MicroUSD` millionths of a US dollar. Coefficients of
profiles may have decimals, everything else is an integer. Times, latencies, power and energy are those of the cluster; where
`DYNAMOLLM_TIME_SCALE` shortens them for a demonstration, they are simulated ones.

The bounds below and the rules after each table are checked by the API server: what breaks one is refused with a
message that names the field and its value. `kubectl explain {RESOURCES[0].plural}.spec` shows the same descriptions.
A field that does not exist is an error too (kubectl's default, `--validate=strict`).
Samples are in [manifests/samples](../manifests/samples), profiles in [manifests/profiles](../manifests/profiles).
"""


def page() -> str:
    """Return docs/api.md."""
    return "\n".join([INTRODUCTION, *(line for resource in RESOURCES for line in _kind(resource))])


def _kind(resource: CustomResource) -> Iterator[str]:
    definition = custom_resource_definition(resource)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    names = [f"`{name}`" for name in (resource.crd_name, *resource.short_names)]
    yield f"## {resource.kind}\n"
    yield f"{resource.description}\n"
    yield f"{'Namespaced' if resource.namespaced else 'Cluster-scoped'}; for kubectl: {', '.join(names)}.\n"
    for part, child in schema["properties"].items():
        if part not in {"spec", "status"}:
            continue
        yield f"### {resource.kind}: {part}\n"
        yield from _table(("Field", "Type", "Default", "Meaning"), _fields(child))
    yield f"### {resource.kind}: rules\n"
    yield from _table(("At", "Rule", "Refused with"), _rules(schema, ""))
    if resource.status is not None:
        yield f"### {resource.kind}: conditions\n"
        yield from _table(("Condition", "True when"), ((f"`{name}`", text) for name, text in CONDITIONS.items()))
    yield f"### {resource.kind}: columns of `kubectl get`\n"
    yield from _table(
        ("Column", "Shows", "Field"),
        (
            (column.name.upper(), column.description + (" With `-o wide`." * column.wide), f"`{column.json_path}`")
            for column in resource.columns
        ),
    )


def _fields(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield f"`{path}`", _type(child), _default(child, required=name in required), child["description"]
        if child["type"] == "array":
            yield from _fields(child["items"], f"{path}[].")
        else:
            yield from _fields(child, f"{path}.")


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    match schema["type"]:
        case "integer" | "number":
            above = "above " if schema.get("exclusiveMinimum") else ""
            return f"{schema['type']}, {above}{schema['minimum']} to {schema['maximum']}"
        case "string":
            pattern = f" that match `{schema['pattern']}`" if "pattern" in schema else ""
            return f"string, {schema.get('minLength', 0)} to {schema['maxLength']} characters{pattern}"
        case "array":
            count = f"{schema.get('minItems', 0)} to {schema['maxItems']}"
            keys = schema.get("x-kubernetes-list-map-keys")
            unique = f", one per {', '.join(keys)}" if keys else ""
            unique = ", each once" if schema.get("x-kubernetes-list-type") == "set" else unique
            return f"list of {count}{unique}: {_type(schema['items'])}"
        case "object" if "additionalProperties" in schema:
            return f"map of up to {schema['maxProperties']}: {_type(schema['additionalProperties'])}"
        case kind:
            return str(kind)


def _default(schema: Mapping[str, Any], *, required: bool) -> str:
    if required:
        return "**required**"
    if schema["type"] == "object" or schema.get("default") in (None, [], ""):
        return ""
    default = schema["default"]
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, ...]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"`{path.removeprefix('.') or 'the object'}`", f"`{rule['rule']}`", rule["message"]
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for row in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="file to write")
    arguments = parser.parse_args()
    arguments.out.write_text(page())
    print(arguments.out)


if __name__ == "__main__":
    main()
