"""From a pydantic model's JSON Schema to the structural OpenAPI v3 schema that a CustomResourceDefinition takes.

The API server knows less than JSON Schema does: no references, no ``additionalProperties: false`` (it prunes instead),
no ``null`` beside a type, exclusive bounds as flags. A keyword that is not translated here is an error, not a guess.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

_KEPT: Final = (
    "type",
    "format",
    "enum",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "default",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
"""What the structural schema may hold, in the order in which a reader wants it."""
_DROPPED: Final = frozenset({"title"})
_NULL: Final = {"type": "null"}


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the structural schema of a model, in camelCase.

    Raises:
        ValueError: the model uses something that a CRD cannot say.
    """
    schema = model.model_json_schema(by_alias=True)
    return _translate(schema, schema.get("$defs", {}), path=model.__name__)


def _translate(schema: Mapping[str, Any], definitions: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    flat = _as_openapi(_flatten(schema, definitions, path=path))
    if "properties" in flat:
        flat["properties"] = {
            name: _translate(child, definitions, path=f"{path}.{name}") for name, child in flat["properties"].items()
        }
    if "items" in flat:
        flat["items"] = _translate(flat["items"], definitions, path=f"{path}[]")
    additional = flat.pop("additionalProperties", False)
    if isinstance(additional, Mapping):
        flat["additionalProperties"] = _translate(additional, definitions, path=f"{path}{{}}")
    elif additional and not flat.get("x-kubernetes-preserve-unknown-fields"):
        raise ValueError(f"{path}: any properties, but not marked x-kubernetes-preserve-unknown-fields")
    unknown = flat.keys() - set(_KEPT) - {"description"}
    if unknown:
        raise ValueError(f"{path}: no translation for {', '.join(sorted(unknown))}")
    if "type" not in flat:
        raise ValueError(f"{path}: a structural schema needs one type")
    description = {"description": _one_paragraph(flat["description"])} if "description" in flat else {}
    return description | {keyword: flat[keyword] for keyword in _KEPT if keyword in flat}


def _flatten(schema: Mapping[str, Any], definitions: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    """Return the schema with its reference and its ``anyOf [X, null]`` resolved; what stands beside them wins."""
    outer = {keyword: value for keyword, value in schema.items() if keyword not in _DROPPED and keyword != "$defs"}
    if "$ref" in outer:
        inner = definitions[outer.pop("$ref").removeprefix("#/$defs/")]
    elif "anyOf" in outer:
        alternatives = [alternative for alternative in outer.pop("anyOf") if alternative != _NULL]
        if len(alternatives) != 1:
            raise ValueError(f"{path}: a union of {len(alternatives)} types; a CRD takes one type or its absence")
        inner = alternatives[0]
    else:
        return outer
    return _flatten(inner, definitions, path=path) | outer


def _as_openapi(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema in OpenAPI's words where JSON Schema says the same in others."""
    flat = dict(schema)
    if "default" in flat:
        # Whole, not {}: the API server checks a default against the rules before nested defaults fill it in.
        default = _without_null(flat.pop("default"))
        flat |= {} if default is None else {"default": default}
    if "const" in flat:
        flat["enum"] = [flat.pop("const")]
    if "exclusiveMinimum" in flat:
        flat["minimum"], flat["exclusiveMinimum"] = flat["exclusiveMinimum"], True
    return flat


def _without_null(value: Any) -> Any:
    """Return a default without its members that are None: unset is absent, not null."""
    if isinstance(value, Mapping):
        return {name: _without_null(member) for name, member in value.items() if member is not None}
    return value


def _one_paragraph(text: str) -> str:
    return " ".join(text.split())
