"""What all custom resources share: the base models, CEL rules as annotations, and the request classes' names."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

RequestClassName = Literal["SS", "SM", "SL", "MS", "MM", "ML", "LS", "LM", "LL"]
"""The nine request classes, input length first (`core.classes.RequestClass` has the same)."""

_UNITS: Final = {"Mhz": "MHz", "Gpu": "GPU", "Gpus": "GPUs", "Usd": "USD", "Kwh": "KWh"}
"""Units and acronyms that plain camelCase misspells."""
_UNIT: Final = re.compile("(" + "|".join(_UNITS) + ")(?![a-z])")


def camel_case(name: str) -> str:
    """Return the name of a field in the custom resource: camelCase with units spelled right (``clockMHz``)."""
    return _UNIT.sub(lambda match: _UNITS[match[0]], to_camel(name))


RULE_BROKEN: Final = "rule_broken"
"""Type of pydantic's error where a rule is broken: its message says it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A CEL rule that the API server checks; its message names the field, the value and the remedy."""

    rule: str
    message: str
    """The message without values: shown only where ``detail`` cannot be evaluated."""
    detail: str | None = None
    """The message with a %d or %s for each of ``values``; absent: ``message`` says it all."""
    values: tuple[str, ...] = ()
    """CEL expressions."""
    field_path: str | None = None
    holds: Callable[[Any], bool]
    """The rule in Python, over the model: for whoever reads a manifest without an API server."""
    found: Callable[[Any], tuple[Any, ...]] = lambda _: ()
    """The same values in Python."""

    def check(self, subject: Any) -> None:
        """Check the rule in Python; both are held against the same cases, so that they say the same.

        Raises:
            PydanticCustomError: it is broken, with the message that the API server has.
        """
        if self.holds(subject):
            return
        values = tuple(json.dumps(value) if isinstance(value, list) else value for value in self.found(subject))
        text = self.message if self.detail is None else self.detail % values
        raise PydanticCustomError(RULE_BROKEN, "{text}", {"text": text})

    def to_schema(self) -> dict[str, str]:
        """Return the entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.rule, "message": self.message}
        if self.detail is not None:
            # Not `'…' + string(value)`: the API server takes the length of string(int) for unbounded and refuses the
            # CRD as too costly. dyn() since a CEL list here holds values of one type only.
            values = ", ".join(f"dyn({value})" for value in self.values)
            entry["messageExpression"] = f"'{self.detail}'.format([{values}])"
        if self.field_path is not None:
            entry["fieldPath"] = self.field_path
        return entry


class _Resource(BaseModel):
    """Field names in camelCase, descriptions from the docstrings below the fields, CEL rules from ``rules``."""

    model_config = ConfigDict(
        alias_generator=camel_case,
        populate_by_name=True,
        frozen=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules over this object."""

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.to_schema() for rule in cls.rules]
        return schema

    def to_resource(self) -> dict[str, Any]:
        """Return the model as the API server keeps it: camelCase, JSON types, absent where unset (None)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Spec(_Resource):
    """A part of a spec: what a user wrote. A field that does not exist is refused."""

    model_config = ConfigDict(extra="forbid")
    root_rules: ClassVar[tuple[Rule, ...]] = ()
    """On the spec of a resource: rules over metadata.name, which a spec does not know; in Python, over the name alone."""


class Status(_Resource):
    """A part of a status: what the operator wrote. Fields of another version are ignored."""

    model_config = ConfigDict(extra="ignore")


class NameRef(Spec):
    """A reference to a cluster-scoped object by name."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the object."""


Generation = Annotated[int | None, Field(ge=0, le=2**53 - 1)]
"""A metadata.generation; the bound is the largest integer that every JSON reader keeps."""


class Condition(Status):
    """One aspect of an object's state, in the form that ``kubectl wait --for=condition=…`` reads."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """Which aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=128)] = ""
    """Stable CamelCase word for scripts: why it has this status."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """One sentence for the person on call: what is so, and what to do."""
    last_transition_time: Annotated[str, Field(max_length=32)] = ""
    """RFC 3339: since when it has had this status."""
    observed_generation: Generation = None
    """metadata.generation of the spec that this condition speaks about."""


def list_map(*keys: str) -> dict[str, Any]:
    """Return the schema entries of a list whose items are told apart by these keys; duplicates are refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: Final[Mapping[str, str]] = {"x-kubernetes-list-type": "set"}
"""Schema entry of a list of scalars without duplicates; goes with ``each_once``."""


def each_once(values: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse what the API server refuses in such a list.

    Raises:
        PydanticCustomError: a value is there twice.
    """
    if len(set(values)) < len(values):
        raise PydanticCustomError("each_once", "Each value may be there once")
    return values
