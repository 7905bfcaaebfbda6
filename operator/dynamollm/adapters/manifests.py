"""Manifests in files: several documents each, Lists unpacked, errors with file and line; and those of the package itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from dynamollm.api.common import RULE_BROKEN, Spec
from dynamollm.api.names import GROUP, VERSION
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import meant

API_VERSION: Final = f"{GROUP}/{VERSION}"
_SUFFIXES: Final = (".yaml", ".yml", ".json")

PROFILES: Final = {"modern": "h100-llama2-70b-vllm.yaml", "paper": "h100-llama2-70b-vllm2023.yaml"}
"""Profiles that come with the package, by their short names."""

_REPOSITORY: Final = Path(__file__).parents[3] / "manifests/profiles"

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document."""

    where: str
    """File and line, for messages."""
    body: Any

    @property
    def kind(self) -> str:
        """Its kind, empty where it has none."""
        return str(self.body.get("kind", "")) if isinstance(self.body, Mapping) else ""

    @property
    def name(self) -> str:
        """Its metadata.name.

        Raises:
            InvalidInputError: it has none.
        """
        metadata = self.body.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"{self.where}: metadata.name is {name!r}: give the {self.kind} a name")
        return name

    @property
    def namespace(self) -> str:
        """Its metadata.namespace, else kubectl's own default."""
        return str(self.body["metadata"].get("namespace") or "default")


def read_documents(files: Sequence[Path]) -> tuple[Document, ...]:
    """Return the documents of files, of the YAML files in folders, and of Lists (``kubectl get -o yaml``).

    Raises:
        InvalidInputError: a file is not there or not YAML.
    """
    paths = [path for file in files for path in _expanded(file)]
    return tuple(part for path in paths for document in _documents(path) for part in _unpacked(document))


def read_value(path: Path) -> Document:
    """Return the one document of a file, YAML or JSON.

    Raises:
        InvalidInputError: the file is not there, not YAML, empty, or has several.
    """
    documents = list(_documents(path))
    if len(documents) != 1:
        raise InvalidInputError(f"{path} has {len(documents)} documents: give a file with one")
    return documents[0]


def read_one(path: Path, kind: str) -> Document:
    """Return the one document of this kind that a file has; others may be beside it.

    Raises:
        InvalidInputError: the file is not there or not YAML, or has none or several of them.
    """
    found = [document for document in read_documents([path]) if document.kind == kind]
    if len(found) != 1:
        raise InvalidInputError(f"{path} has {len(found) or 'no'} {kind}: give a file with the manifest of one")
    return found[0]


def profile_path(name: str) -> Path:
    """Return the file of a profile of the package by its short name; any other name is a path.

    Raises:
        InvalidInputError: it is no file, and looks like a short name.
    """
    if name not in PROFILES:
        path = Path(name)
        if path.name == name and not path.suffix and not path.exists():
            raise InvalidInputError(f"profile {name!r}: {meant(name, PROFILES)}, or a file that is there")
        return path
    # In a wheel the profiles lie inside the package; in a checkout they are where users find them.
    packaged = Path(str(files("dynamollm") / "profiles" / PROFILES[name]))
    return packaged if packaged.exists() else _REPOSITORY / PROFILES[name]


def spec_of(model: type[AnySpec], document: Document) -> AnySpec:
    """Return the spec of a document of our own.

    Raises:
        InvalidInputError: another version, or a field is wrong: names it, its value and what is allowed.
    """
    version = document.body.get("apiVersion")
    if version != API_VERSION:
        raise InvalidInputError(f"{document.where}: apiVersion is {version!r}: this version reads {API_VERSION}")
    if "spec" not in document.body:
        raise InvalidInputError(f"{document.where}: the {document.kind} has no spec: see docs/api.md")
    try:
        for rule in model.root_rules:
            rule.check(document.name)
        # As the API server has it: a number in quotes is text.
        return model.model_validate_json(json.dumps(document.body["spec"], default=str), strict=True)
    except PydanticCustomError as error:
        raise InvalidInputError(f"{document.where}: {error.message()}") from None
    except ValidationError as error:
        raise InvalidInputError(f"{document.where}: {_first(error.errors()[0])}") from None


def _first(error: ErrorDetails) -> str:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    remedy = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    match error["type"]:
        case "missing":
            return f"spec{field} is missing: add it (docs/api.md)"
        case "extra_forbidden":
            return f"spec{field} is no field: remove it, or see docs/api.md for its name"
        case kind if kind == RULE_BROKEN:
            return error["msg"]
        case _:
            return f"spec{field} is {error['input']!r}: {remedy}"


def _expanded(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not files:
        raise InvalidInputError(f"-f {path} is a folder without {' or '.join(_SUFFIXES)} files: give manifests")
    yield from files


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, as kubectl does: of two values one would go unread."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Return a mapping.

        Raises:
            MarkedYAMLError: a key is there twice.
        """
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
            known.add(str(key.value))
        return super().construct_mapping(node, deep)


def _documents(path: Path) -> Iterator[Document]:
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}: give a file that is there") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path} is not text: give a YAML file") from None
    try:
        yield from _parsed(path, text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        raise InvalidInputError(f"{path}{line}: not YAML, {error.problem}: correct that line") from None
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{path}: not YAML, {' '.join(str(error).split())}: correct it") from None
    except ValueError as error:
        # What looks like a date, or as a number of another base, and is none.
        raise InvalidInputError(f"{path}: a value is none ({error}): correct it, or put it in quotes") from None
    except RecursionError:
        raise InvalidInputError(f"{path}: lists or maps are nested too deeply: give a manifest") from None


def _parsed(path: Path, text: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            body = None if node is None else loader.construct_document(node)
            if node is not None and body is not None:
                yield Document(f"{path}:{node.start_mark.line + 1}", body)
    finally:
        loader.dispose()


def _unpacked(document: Document) -> Iterator[Document]:
    items = document.body.get("items") if document.kind.endswith("List") else None
    if isinstance(items, list):
        for index, item in enumerate(items):
            yield Document(f"{document.where}, items[{index}]", item)
    else:
        yield document
