"""Reading what GPUs there are: nodes as kubectl prints them, with pods or without, or a short list."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from dynamollm.adapters.manifests import Document, read_documents
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.controller.inventory import held_gpus, node_gpus
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import NodeGpus
from dynamollm.core.words import counted

_FIELDS: Final = ("name", "gpus", "free", "count")
_MOST: Final = 100_000
"""Nodes of a kind, and GPUs of a node: a typing error beyond it."""
T = TypeVar("T")

_SHAPE: Final = "give `kubectl get nodes -o yaml`, `kubectl get nodes,pods -A -o yaml`, or a map nodes: [{gpus: 8, free: 8, count: 12}]"


def read_inventory(path: Path, spec: InferenceServiceSpec) -> tuple[tuple[NodeGpus, ...], bool]:
    """Return the nodes that the service's engines may run on, and whether what pods hold there is counted.

    Raises:
        InvalidInputError: the file has no node of the service's GPU, or names a field that is wrong.
    """
    documents = read_documents([path])
    nodes = [document.body for document in documents if document.kind == "Node"]
    if nodes:
        pods = [document for document in documents if document.kind == "Pod"]
        held = _each(pods, lambda pod: held_gpus([pod], resource=spec.gpu.resource))
        on_nodes: Counter[str] = Counter()
        for one in held:
            on_nodes.update(one)
        by_node = _each(
            [document for document in documents if document.kind == "Node"],
            lambda node: node_gpus([node], spec=spec, held=on_nodes),
        )
        found = tuple(sorted((node for some in by_node for node in some), key=lambda node: node.name))
        if not found:
            raise InvalidInputError(
                f"{path} has {counted(len(nodes), 'node')}, and none with label nvidia.com/gpu.product={spec.gpu.product} and what "
                "spec.engine.podTemplate.nodeSelector asks for: give nodes that have"
            )
        return found, bool(pods)
    if len(documents) == 1 and isinstance(documents[0].body, Mapping) and "nodes" in documents[0].body:
        return _short_list(path, documents[0]), False
    kinds = ", ".join(sorted({document.kind or "no kind" for document in documents})) or "nothing"
    raise InvalidInputError(f"{path} has {kinds}, and no Node: {_SHAPE}")


def _each(documents: Sequence[Document], read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """Return what is read of each document.

    Raises:
        InvalidInputError: one is not what kubectl prints; names it.
    """
    found = []
    for document in documents:
        try:
            found.append(read(document.body))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"{document.where}: this {document.kind} is not what kubectl prints ({type(error).__name__}: {error}): {_SHAPE}"
            ) from None
    return found


def _short_list(path: Path, document: Document) -> tuple[NodeGpus, ...]:
    entries = document.body["nodes"]
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise InvalidInputError(f"{path}: nodes is {entries!r}: {_SHAPE}")
    found: list[NodeGpus] = []
    for index, entry in enumerate(entries):
        found += _nodes(path, f"nodes[{index}]", entry)
    return tuple(found)


def _nodes(path: Path, where: str, entry: Any) -> list[NodeGpus]:
    if not isinstance(entry, Mapping):
        raise InvalidInputError(f"{path}: {where} is {entry!r}: give {', '.join(_FIELDS)}")
    if unknown := [str(field) for field in entry if field not in _FIELDS]:
        raise InvalidInputError(f"{path}: {where}.{unknown[0]} is no field: use {', '.join(_FIELDS)}")
    gpus = _integer(path, f"{where}.gpus", entry.get("gpus"), least=1)
    free = _integer(path, f"{where}.free", entry.get("free", gpus), least=0)
    if free > gpus:
        raise InvalidInputError(
            f"{path}: {where}.free is {free}, and the node has {counted(gpus, 'GPU')}: give at most those"
        )
    count = _integer(path, f"{where}.count", entry.get("count", 1), least=1)
    name = str(entry.get("name", where))
    return [
        NodeGpus(name=name if count == 1 else f"{name}-{number}", allocatable=gpus, free=free)
        for number in range(count)
    ]


def _integer(path: Path, field: str, value: Any, *, least: int) -> int:
    if type(value) is not int or not least <= value <= _MOST:
        raise InvalidInputError(f"{path}: {field} is {value!r}: give an integer of {least} or more, up to {_MOST}")
    return value
