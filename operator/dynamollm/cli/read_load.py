"""Reading a load: class → requests per second and mean lengths."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dynamollm.adapters.manifests import read_value
from dynamollm.core.classes import BRIEF_TOKENS, RequestClass
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import LEAST_RATE_PER_S, ClassLoad, Load

_FIELDS: Final = ("rate_per_s", "input_tokens", "output_tokens")
_BRIEF: Final = "brief_share"
_MOST_RATE_PER_S: Final = 1e6
"""A typing error: the largest services have thousands."""
_SHAPE: Final = "class → rate_per_s, input_tokens, output_tokens, and brief_share where there are any"


def read_load(path: Path) -> Load:
    """Return the load in a file, YAML or JSON.

    Raises:
        InvalidInputError: names the file, the field, its value and what is allowed.
    """
    document = read_value(path)
    body = document.body
    if not isinstance(body, Mapping) or "kind" in body:
        what = document.kind or type(body).__name__
        raise InvalidInputError(f"{document.where} is a {what}: --load takes a map {_SHAPE}")
    load: dict[RequestClass, ClassLoad] = {}
    for name, fields in body.items():
        if name not in tuple(RequestClass):
            known = ", ".join(RequestClass)
            raise InvalidInputError(f"{path}: {name} is no request class: use {known} (input length first)")
        load[RequestClass(name)] = _class_load(path, name, fields)
    if not any(part.rate_per_s > 0 for part in load.values()):
        raise InvalidInputError(f"{path}: no class has a rate_per_s above 0: give at least one")
    return load


def _class_load(path: Path, name: str, fields: Any) -> ClassLoad:
    if not isinstance(fields, Mapping):
        raise InvalidInputError(f"{path}: {name} is {fields!r}: give {', '.join(_FIELDS)}")
    if unknown := [str(field) for field in fields if field not in (*_FIELDS, _BRIEF)]:
        raise InvalidInputError(f"{path}: {name}.{unknown[0]} is no field: use {', '.join((*_FIELDS, _BRIEF))}")
    values = [_number(path, f"{name}.{field}", fields.get(field)) for field in _FIELDS]
    if values[0] < 0:
        raise InvalidInputError(f"{path}: {name}.rate_per_s is {values[0]:g}: give 0 or more requests per second")
    if 0 < values[0] < LEAST_RATE_PER_S:
        raise InvalidInputError(
            f"{path}: {name}.rate_per_s is {values[0]:g}: give 0, or {LEAST_RATE_PER_S:g} requests per second or more"
        )
    if values[0] > _MOST_RATE_PER_S:
        raise InvalidInputError(
            f"{path}: {name}.rate_per_s is {values[0]:g}: give {_MOST_RATE_PER_S:.0f} requests per second or fewer"
        )
    for field, value in zip(_FIELDS[1:], values[1:], strict=True):
        if value < 1:
            raise InvalidInputError(f"{path}: {name}.{field} is {value:g}: give the mean length, 1 token or more")
    if fields.get(_BRIEF) is None:
        return ClassLoad(*values)
    brief = _number(path, f"{name}.{_BRIEF}", fields[_BRIEF])
    if not 0 <= brief <= 1:
        raise InvalidInputError(
            f"{path}: {name}.{_BRIEF} is {brief:g}: give the share of answers of 2 to {BRIEF_TOKENS} tokens, 0 to 1"
        )
    return replace(ClassLoad(*values), brief_share=brief)


def _number(path: Path, field: str, value: Any) -> float:
    if value is None:
        raise InvalidInputError(f"{path}: {field} is missing: a load is {_SHAPE}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"{path}: {field} is {value!r}: give a number{_as_yaml(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidInputError(f"{path}: {field} is {number}: give a number")
    return number


def _as_yaml(value: Any) -> str:
    """Return how a number that YAML takes for text is written, in words; empty: it is none."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    return f" (YAML takes this for text: write {number!r})" if math.isfinite(number) else ""
