"""The demo's manifests as the values that the core takes."""

from pathlib import Path
from typing import Any

import yaml

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.profile import Profile
from dynamollm.core.records import Service
from dynamollm.core.service import service_from_spec


def document(manifest: Path) -> dict[str, Any]:
    """Return the object in a manifest."""
    parsed: dict[str, Any] = yaml.safe_load(manifest.read_text())
    return parsed


def read_service(manifest: Path) -> Service:
    """Return the InferenceService in a manifest."""
    parsed = document(manifest)
    metadata = parsed["metadata"]
    return service_from_spec(
        metadata["namespace"], metadata["name"], InferenceServiceSpec.model_validate(parsed["spec"])
    )


def read_profile(manifest: Path) -> Profile:
    """Return the PerformanceProfile in a manifest."""
    parsed = document(manifest)
    return Profile.from_spec(PerformanceProfileSpec.model_validate(parsed["spec"]), name=parsed["metadata"]["name"])
