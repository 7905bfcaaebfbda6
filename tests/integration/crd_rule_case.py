"""A case for a CEL rule in crds/*.yaml, and what cases are written with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from integration.crd_objects import MINIMAL_SERVICE, POLICY, ROOFLINE

Patch = dict[str, Any]

BASES: Mapping[str, dict[str, Any]] = {
    "InferenceService": MINIMAL_SERVICE,
    "PerformanceProfile": ROOFLINE,
    "ClusterPolicy": POLICY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCase:
    """A rule, known by where it stands and by its static message."""

    kind: str
    field: str
    message: str
    accepted: tuple[Patch, ...]
    rejected: tuple[tuple[Patch, str], ...]
    """Merge patches of the base object, and the message that the user reads."""
    base: dict[str, Any] | None = None
    """Where it is not that of the kind."""

    @property
    def document(self) -> dict[str, Any]:
        return self.base or BASES[self.kind]


def name(text: str) -> Patch:
    return {"metadata": {"name": text}}


def spec(**patch: Any) -> Patch:
    return {"spec": patch}
