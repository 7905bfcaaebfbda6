"""The bounds in crds/*.yaml as cases: a value on the bound, which is accepted, and one just beyond, which is not."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from integration.crd_objects import COMPLETE, ROOT, merged

Path = tuple[str | int, ...]

NOT_BOUNDS = {
    "description",
    "type",
    "default",
    "properties",
    "items",
    "additionalProperties",
    "exclusiveMinimum",  # with minimum
    "x-kubernetes-list-type",  # `set` and `map` are bounds: see _duplicates
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",  # see crd_rules
}

TENSOR_PARALLEL = (1, 2, 4, 8, 16, 3, 5, 6, 7)
"""TP degrees of sets and keys: first those that divide a node of 16. Other integers there count from 0."""

COMPANIONS: Mapping[str, Any] = {
    # What must change with a value on its bound, so that no rule refuses it.
    "spec.gpu.perNode minimum": {"gpu": {"tensorParallel": [1]}, "pins": {"tensorParallel": 1}},
    "spec.gpu.tensorParallel minItems": {"pins": {"tensorParallel": 2}},
    "spec.gpu.tensorParallel[] maximum": {"gpu": {"perNode": 16}},
    "spec.gpu.tensorParallel maxItems": {"gpu": {"perNode": 16}},
    "spec.limits.minInstances maximum": {"limits": {"maxGPUs": 100_000}, "pins": {"instances": 1_000}},
    "spec.limits.maxGPUs minimum": {
        "limits": {"minInstances": 1},
        "gpu": {"tensorParallel": [1]},
        "pins": {"tensorParallel": 1, "instances": 1},
    },
    "spec.pins.tensorParallel minimum": {"gpu": {"tensorParallel": [1]}},
    "spec.pins.tensorParallel maximum": {"gpu": {"perNode": 16, "tensorParallel": [16]}},
    "spec.pins.instances minimum": {"limits": {"minInstances": 1}},
    "spec.pins.instances maximum": {"limits": {"maxGPUs": 100_000}},
    "spec.pins.pools maximum": {"policy": "DynamoLLM", "pins": {"instances": 9}},
    "spec.classes.inputTokens.short maximum": {"classes": {"inputTokens": {"medium": 10_000_000}}},
    "spec.classes.inputTokens.medium minimum": {"classes": {"inputTokens": {"short": 1}}},
    "spec.classes.outputTokens.short maximum": {"classes": {"outputTokens": {"medium": 10_000_000}}},
    "spec.classes.outputTokens.medium minimum": {"classes": {"outputTokens": {"short": 1}}},
    "spec.intervals.clockSeconds maximum": {"intervals": {"shardSeconds": 86_400, "scaleSeconds": 86_400}},
    "spec.intervals.shardSeconds maximum": {"intervals": {"scaleSeconds": 86_400}},
    "spec.intervals.scaleSeconds minimum": {"intervals": {"shardSeconds": 1, "clockSeconds": 1}},
    "spec.gpu.idleWatts maximum": {"gpu": {"loadedIdleWatts": 5_000, "tdpWatts": 5_000}},
    "spec.gpu.loadedIdleWatts minimum": {"gpu": {"idleWatts": 0}},
    "spec.gpu.loadedIdleWatts maximum": {"gpu": {"tdpWatts": 5_000}},
    "spec.gpu.tdpWatts minimum": {"gpu": {"idleWatts": 0, "loadedIdleWatts": 0}},
    "spec.gpu.clocks.minMHz minimum": {"gpu": {"clocks": {"stepMHz": 1}}},
    "spec.gpu.clocks.minMHz maximum": {
        "gpu": {"clocks": {"maxMHz": 10_000, "stepMHz": 1}},
        "validRange": {"minClockMHz": 10_000},
    },
    "spec.gpu.clocks.maxMHz minimum": {
        "gpu": {"clocks": {"minMHz": 1, "stepMHz": 1}},
        "validRange": {"minClockMHz": 1},
    },
    "spec.gpu.clocks.maxMHz maximum": {"gpu": {"clocks": {"stepMHz": 1}}},
    "spec.gpu.clocks.stepMHz maximum": {"gpu": {"clocks": {"maxMHz": 2_210}}},
    "spec.validRange.minClockMHz minimum": {"gpu": {"clocks": {"minMHz": 1, "stepMHz": 1}}},
    "spec.validRange.minClockMHz maximum": {"gpu": {"clocks": {"maxMHz": 10_000, "stepMHz": 1}}},
    "spec.latency.perTensorParallel minItems": {"tensorParallel": [2]},
    "spec.latency.perTensorParallel[].tensorParallel minimum": {"tensorParallel": [4]},
    "spec.latency.perTensorParallel[].tensorParallel maximum": {"tensorParallel": [4]},
}


PATTERNS: Mapping[str, tuple[list[str], str]] = {
    # Accepted, the first one with an end that may be repeated; and refused.
    r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$": (["8", "1.5", "500m", "64Gi"], "8 cores"),
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$": (
        ["nvidia.com/gpu", "example.com/mig-1g.5gb"],
        "gpu",
    ),
    r"^[-._A-Za-z][-._A-Za-z0-9]*$": (["HF_TOKEN", "a.b-c"], "1A"),
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": (["weights", "a-1"], "a.b"),
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": (["weights", "a-1.b"], "Weights"),
    r"^(/\.?[-A-Za-z0-9_@+][-A-Za-z0-9_.@+]*)+$": (["/weights", "/root/.cache/a.b", "/opt/v1"], "/opt/../etc"),
}


ALONE: Mapping[str, str] = {"mountPath": "/x{index}"}
"""Fields of a list's items that a rule wants to differ, besides its keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCase:
    """One keyword of one field."""

    kind: str
    field: str
    """As in ``spec.slo.overrides[].class``."""
    keyword: str
    accepted: tuple[dict[str, Any], ...]
    rejected: dict[str, Any]
    name: str
    """The last name of the field: what the API server's message must hold."""

    @property
    def id(self) -> str:
        return f"{self.kind}.{self.field}-{self.keyword}"


def schemas() -> dict[str, dict[str, Any]]:
    """Return the OpenAPI schema of every kind in crds/."""
    crds = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    return {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds}


def fields(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return every field below, and itself, with its schema."""
    yield prefix, schema
    for name, child in schema.get("properties", {}).items():
        yield from fields(child, f"{prefix}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{prefix}[]")
    if "additionalProperties" in schema:
        yield from fields(schema["additionalProperties"], f"{prefix}{{}}")


def locate(document: Any, field: str) -> Path | None:
    """Return where the field first stands in the document, or None."""
    steps = field.replace("[]", ".[]").replace("{}", ".{}").split(".")
    return _locate(document, steps)


def _locate(document: Any, steps: list[str]) -> Path | None:
    if not steps:
        return ()
    step, rest = steps[0], steps[1:]
    candidates: list[str | int]
    match step:
        case "[]":
            candidates = list(range(len(document))) if isinstance(document, list) else []
        case "{}":
            candidates = list(document) if isinstance(document, dict) else []
        case _:
            candidates = [step] if isinstance(document, dict) and step in document else []
    for candidate in candidates:
        found = _locate(document[candidate], rest)
        if found is not None:
            return (candidate, *found)
    return None


def value_at(document: Any, path: Path) -> Any:
    """Return the value there."""
    for step in path:
        document = document[step]
    return document


def bound_cases() -> Iterator[BoundCase]:
    """Return a case for every bound of every field of every kind."""
    for kind, schema in schemas().items():
        for part in ("spec", "status"):
            if part not in schema["properties"]:
                continue
            for field, child in fields(schema["properties"][part], part):
                yield from _cases(kind, field, child)


def _cases(kind: str, field: str, schema: Mapping[str, Any]) -> Iterator[BoundCase]:
    document = next(document for document in COMPLETE[kind] if locate(document, field) is not None)
    path = locate(document, field)
    assert path is not None
    value = value_at(document, path)
    for keyword in schema.keys() - NOT_BOUNDS:
        if keyword == "required":
            for name in schema["required"]:
                yield BoundCase(
                    kind=kind,
                    field=f"{field}.{name}",
                    keyword=keyword,
                    accepted=(document,),
                    rejected=_without(document, (*path, name)),
                    name=name,
                )
            continue
        accepted, rejected = _values(keyword, schema, value)
        companion = {"spec": COMPANIONS.get(f"{field} {keyword}", {})}
        yield BoundCase(
            kind=kind,
            field=field,
            keyword=keyword,
            accepted=tuple(_with(merged(document, companion), path, each) for each in accepted),
            rejected=_with(merged(document, companion), path, rejected),
            name=field.replace("[]", "").replace("{}", "").rpartition(".")[2],
        )
    if schema.get("x-kubernetes-list-type") in {"set", "map"}:
        yield BoundCase(
            kind=kind,
            field=field,
            keyword="duplicate",
            accepted=(document,),
            rejected=_with(document, path, [*value, value[0]]),
            name=field.rpartition(".")[2],
        )


def _values(keyword: str, schema: Mapping[str, Any], value: Any) -> tuple[list[Any], Any]:
    """Return the accepted values and the rejected one."""
    bound = schema[keyword]
    step = 1 if schema.get("type") == "integer" else 0.001
    values: dict[str, Callable[[], tuple[list[Any], Any]]] = {
        "minimum": lambda: ([bound + step], bound) if schema.get("exclusiveMinimum") else ([bound], bound - step),
        "maximum": lambda: ([bound], bound + step),
        "minLength": lambda: ([_text(schema, bound)], _text(schema, bound - 1)),
        "maxLength": lambda: ([_text(schema, bound)], _text(schema, bound + 1)),
        "pattern": lambda: PATTERNS[bound],
        "enum": lambda: (bound, "Unknown-Word"),
        "minItems": lambda: ([value[:bound]], value[: bound - 1]),
        "maxItems": lambda: ([_items(schema, value, bound)], _items(schema, value, bound + 1)),
        "maxProperties": lambda: ([_properties(value, bound)], _properties(value, bound + 1)),
    }
    return values[keyword]()


def _text(schema: Mapping[str, Any], length: int) -> str:
    """Return a text of this length that the pattern, if any, accepts."""
    example = PATTERNS[schema["pattern"]][0][0] if "pattern" in schema else "x"
    return (example + example[-1] * length)[:length]


def _items(schema: Mapping[str, Any], value: list[Any], count: int) -> list[Any]:
    """Return a list of so many items, told apart where the list is a set or a map."""
    item, keys = schema["items"], schema.get("x-kubernetes-list-map-keys")
    if keys:
        # An item with the most fields is the model for all; keys first, so that the bound stays the only fault.
        return [
            {
                **value[0],
                **{name: text.format(index=index) for name, text in ALONE.items() if name in value[0]},
                keys[0]: _scalar(item["properties"][keys[0]], index),
            }
            for index in range(count)
        ]
    if item["type"] == "object":
        return [value[0]] * count
    return [_scalar(item, index) for index in range(count)]


def _scalar(schema: Mapping[str, Any], index: int) -> Any:
    if "enum" in schema:
        return schema["enum"][index % len(schema["enum"])]
    if schema["type"] != "integer":
        return f"x{index}"
    return TENSOR_PARALLEL[index] if schema["minimum"] else index


def _properties(value: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {f"name{index}": next(iter(value.values())) for index in range(count)}


def _with(document: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(document)
    value_at(result, path[:-1])[path[-1]] = value
    return result


def _without(document: dict[str, Any], path: Path) -> dict[str, Any]:
    result = copy.deepcopy(document)
    del value_at(result, path[:-1])[path[-1]]
    return result
