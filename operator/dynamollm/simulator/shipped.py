"""What is simulated where nothing else is asked for: the profiles of the package, and the SLOs of the paper's service."""

from pathlib import Path
from typing import Any, Final

from dynamollm.adapters.manifests import API_VERSION, Document, profile_path, read_one, spec_of
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.profile import Profile
from dynamollm.core.records import Service
from dynamollm.core.service import service_from_spec

_SERVICE: Final = Document(
    "the sample service",
    {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {"name": "service", "namespace": "simulation"},
        "spec": {
            "model": {"name": "meta-llama/Llama-2-70b-chat-hf"},
            "engine": {"type": "Simulated"},
            "gpu": {"product": "NVIDIA-H100-80GB-HBM3"},
            "profileRef": {"name": "h100-llama2-70b-vllm"},
            "slo": {
                "percentile": 99,
                "ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000},
                "tbtMilliseconds": 100,
            },
        },
    },
)


def open_profile(name: str, *, startup_s: float | None = None, loaded_idle_w: float | None = None) -> Profile:
    """Return ``modern``, ``paper``, or the PerformanceProfile in a file; with another start-up time or idle power.

    Raises:
        InvalidInputError: there is no such file, or no profile in it.
    """
    document = read_one(profile_path(name), "PerformanceProfile")
    spec = spec_of(PerformanceProfileSpec, document)
    changes: dict[str, Any] = {}
    if startup_s is not None:
        changes["startup_seconds"] = round(startup_s)
    if loaded_idle_w is not None:
        changes["gpu"] = spec.gpu.model_copy(update={"loaded_idle_watts": round(loaded_idle_w)})
    return Profile.from_spec(spec.model_copy(update=changes), name=document.name)


def sample_service(path: Path | None) -> Service:
    """Return the InferenceService in a manifest, or the paper's: Llama-2 70B on H100s with its SLOs.

    Raises:
        InvalidInputError: there is no such file, or no service in it.
    """
    document = _SERVICE if path is None else read_one(path, "InferenceService")
    spec = spec_of(InferenceServiceSpec, document)
    return service_from_spec(document.namespace, document.name, spec)
