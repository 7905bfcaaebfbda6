from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from dynamollm.api.common import LIST_SET, Rule, Spec, list_map
from dynamollm.api.crd_schema import structural_schema


class Leaf(Spec):
    """A leaf."""

    size_mhz: Annotated[int, Field(ge=1, le=9)] = 3
    """Its size."""
    unset: Annotated[int | None, Field(ge=0)] = None
    """Nothing."""


class Required(Spec):
    """Something with a required field."""

    name: Annotated[str, Field(max_length=5)]
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(rule="self.name != 'x'", message="not x", holds=lambda self: self.name != "x"),
    )


class Example(Spec):
    """One of everything
    over two lines."""

    leaf: Leaf = Leaf()
    """The leaf here."""
    maybe: Leaf | None = None
    exact: Literal["One"] = "One"
    choice: Literal["A", "B"] = "A"
    ratio: Annotated[float, Field(gt=0)]
    degrees: Annotated[tuple[int, ...], Field(max_length=3, json_schema_extra=LIST_SET)] = (1, 2)
    named: Annotated[tuple[Required, ...], Field(max_length=2, json_schema_extra=list_map("name"))] = ()
    labels: Annotated[dict[str, Annotated[str, Field(max_length=7)]], Field(default_factory=dict, max_length=4)]
    opaque: Annotated[
        dict[str, Any] | None, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    ] = None


LEAF = {
    "type": "object",
    "properties": {
        "sizeMHz": {"description": "Its size.", "type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "unset": {"description": "Nothing.", "type": "integer", "minimum": 0},
    },
}


def test_every_construct_becomes_its_structural_form() -> None:
    assert structural_schema(Example) == {
        "description": "One of everything over two lines.",
        "type": "object",
        "required": ["ratio"],
        "properties": {
            "leaf": LEAF | {"description": "The leaf here.", "default": {"sizeMHz": 3}},
            "maybe": LEAF | {"description": "A leaf."},
            "exact": {"type": "string", "enum": ["One"], "default": "One"},
            "choice": {"type": "string", "enum": ["A", "B"], "default": "A"},
            "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "degrees": {
                "type": "array",
                "maxItems": 3,
                "default": [1, 2],
                "items": {"type": "integer"},
                "x-kubernetes-list-type": "set",
            },
            "named": {
                "type": "array",
                "maxItems": 2,
                "default": [],
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "description": "Something with a required field.",
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "maxLength": 5}},
                    "x-kubernetes-validations": [{"rule": "self.name != 'x'", "message": "not x"}],
                },
            },
            "labels": {
                "type": "object",
                "maxProperties": 4,
                "additionalProperties": {"type": "string", "maxLength": 7},
            },
            "opaque": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }


class Union(BaseModel):
    value: int | str


class AnyProperties(BaseModel):
    value: dict[str, Any]


class KeyPattern(BaseModel):
    value: dict[Annotated[str, Field(pattern="^a$")], str]


class AnyType(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    value: Any


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Union, r"Union\.value: a union of 2 types"),
        (AnyProperties, r"AnyProperties\.value: any properties"),
        (KeyPattern, r"KeyPattern\.value: no translation for patternProperties"),
        (AnyType, r"AnyType\.value: a structural schema needs one type"),
    ],
)
def test_what_a_crd_cannot_say_is_an_error_that_names_the_field(model: type[BaseModel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        structural_schema(model)
