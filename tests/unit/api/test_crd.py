from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dynamollm.api.crd import RESOURCES, CustomResource, custom_resource_definition, render
from dynamollm.cli.crd import command

CRDS = Path(__file__).parents[3] / "crds"
YAML_1_1_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}

each_resource = pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)


def schema_of(resource: CustomResource) -> dict[str, Any]:
    version: dict[str, Any] = custom_resource_definition(resource)["spec"]["versions"][0]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


FIELDS = [
    pytest.param(schema, id=f"{resource.kind}{path}")
    for resource in RESOURCES
    for part in ("spec", "status")
    if part in schema_of(resource)["properties"]
    for path, schema in walk(schema_of(resource)["properties"][part], f".{part}")
]


@each_resource
def test_the_committed_crd_is_what_the_models_say(resource: CustomResource) -> None:
    assert (CRDS / resource.file_name).read_text() == render(resource), "run `make crds`"


def test_no_other_crd_is_committed() -> None:
    assert {path.name for path in CRDS.iterdir()} == {resource.file_name for resource in RESOURCES}


@pytest.mark.parametrize("schema", FIELDS)
def test_every_field_is_bounded(schema: dict[str, Any]) -> None:
    bounds = {
        "string": {"maxLength"},
        "integer": {"minimum", "maximum"},
        "number": {"minimum", "maximum"},
        "array": {"maxItems"},
        "object": {"maxProperties"} if "additionalProperties" in schema else set(),
        "boolean": set(),
    }[schema["type"]]
    assert "enum" in schema or bounds <= schema.keys()


@pytest.mark.parametrize("schema", [field for field in FIELDS if not str(field.id).endswith(("]", "}"))])
def test_every_field_says_what_it_is(schema: dict[str, Any]) -> None:
    assert schema["description"].endswith(".")


@each_resource
def test_the_default_of_an_object_repeats_the_defaults_of_its_fields(resource: CustomResource) -> None:
    # The API server checks it against the rules before it fills in nested defaults, so it must be whole.
    for path, schema in walk(schema_of(resource), ""):
        if schema["type"] == "object" and "default" in schema:
            fields = schema["properties"].items()
            nested = {name: field["default"] for name, field in fields if "default" in field}
            assert {name: value for name, value in schema["default"].items() if value != {}} == nested, path
            assert not schema.get("required"), f"{path}: the default would be refused"


@each_resource
def test_nothing_that_users_write_is_a_boolean_of_yaml_1_1(resource: CustomResource) -> None:
    # The API server's clients read YAML 1.1, where a property called `n` becomes `false`.
    for path, schema in walk(schema_of(resource)["properties"]["spec"], ".spec"):
        words = [*schema.get("properties", {}), *schema.get("enum", [])]
        assert not {word.lower() for word in words} & YAML_1_1_BOOLEANS, path


@each_resource
def test_every_rule_has_a_message_that_says_more_than_the_rule(resource: CustomResource) -> None:
    for path, schema in walk(schema_of(resource), ""):
        for rule in schema.get("x-kubernetes-validations", []):
            assert rule["message"] != rule["rule"], path
            assert "\n" not in rule["message"], f"{path}: the API server refuses line breaks"


def test_the_service_has_a_short_name_a_status_subresource_and_the_columns_of_the_design() -> None:
    definition = custom_resource_definition(RESOURCES[0])
    version = definition["spec"]["versions"][0]
    assert definition["spec"]["names"]["shortNames"] == ["dllm"]
    assert version["subresources"] == {"status": {}}
    columns = [column["name"] for column in version["additionalPrinterColumns"] if not column.get("priority")]
    assert columns == ["Ready", "Policy", "GPUs", "Pools", "Clock", "Power", "SLO", "Plan", "Age"]


@each_resource
def test_every_printer_column_names_a_field_that_exists(resource: CustomResource) -> None:
    fields = {path for path, _ in walk(schema_of(resource), "")} | {".metadata.creationTimestamp"}
    for column in resource.columns:
        assert column.json_path.replace('[?(@.type=="Ready")]', "[]") in fields


def test_the_command_prints_what_kubectl_can_apply() -> None:
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert list(yaml.safe_load_all(result.output)) == [custom_resource_definition(resource) for resource in RESOURCES]


def test_the_command_writes_one_file_per_kind(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "new")])
    assert result.exit_code == 0
    written = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert written == {resource.file_name: render(resource) for resource in RESOURCES}
