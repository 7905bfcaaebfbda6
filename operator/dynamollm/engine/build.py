"""Puts an engine together from a profile file and settings."""

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from dynamollm.adapters.clock import Clock
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.batching import Batch
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.profile import Profile
from dynamollm.engine.gpus import Accelerators, open_accelerators
from dynamollm.engine.metrics import EngineMetrics
from dynamollm.engine.pacer import Pacer
from dynamollm.engine.server import EngineServer

MAX_MODEL_TOKENS: Final = 32_768
"""Longest context, where the KV cache does not end it earlier."""


def read_profile(path: Path) -> Profile:
    """Return the profile in a file that holds a PerformanceProfile's spec as JSON.

    Raises:
        InvalidInputError: the file is not there or not such a spec.
    """
    try:
        return Profile.from_spec(PerformanceProfileSpec.model_validate_json(path.read_bytes()))
    except OSError as error:
        raise InvalidInputError(
            f"--profile-file {path}: {error.strerror}; give a file with a PerformanceProfile's spec"
        ) from None
    except ValidationError as error:
        raise InvalidInputError(f"--profile-file {path} is not the spec of a PerformanceProfile: {error}") from None


def build_server(
    *,
    model: str,
    tensor_parallel: int,
    profile_file: Path,
    by_priority: bool,
    startup_s: float | None,
    clock: Clock,
) -> tuple[EngineServer, Accelerators]:
    """Return an engine that is ready to serve, and its GPUs, which the caller closes.

    Args:
        model: the name that requests must give.
        tensor_parallel: GPUs of this instance.
        profile_file: the spec of a PerformanceProfile, JSON.
        by_priority: serve by the requests' priority instead of their arrival.
        startup_s: simulated seconds until healthy; None: the profile's.
        clock: simulated time.
    """
    profile = read_profile(profile_file)
    if tensor_parallel not in profile.tensor_parallel:
        known = ", ".join(map(str, profile.tensor_parallel))
        raise InvalidInputError(f"--tensor-parallel-size is {tensor_parallel}: the profile holds for {known}")
    gpus = open_accelerators(
        tensor_parallel=tensor_parallel, idle_w=profile.loaded_idle_w, max_clock_mhz=profile.max_clock_mhz
    )
    metrics = EngineMetrics(model=model)
    batch = Batch(profile, tensor_parallel=tensor_parallel, clock_mhz=gpus.clock_mhz(), by_priority=by_priority)
    pacer = Pacer(batch=batch, clock=clock, gpus=gpus, metrics=metrics, idle_w=profile.loaded_idle_w)
    server = EngineServer(
        model=model,
        pacer=pacer,
        engine_metrics=metrics,
        clock=clock,
        max_model_tokens=min(MAX_MODEL_TOKENS, profile.kv_capacity_tokens(tensor_parallel)),
        startup_s=profile.startup_s if startup_s is None else startup_s,
    )
    return server, gpus
