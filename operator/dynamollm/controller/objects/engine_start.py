"""How each type of engine is started, and where it tells its metrics.

All of them speak OpenAI's API and answer /health on one port. What differs: the command of the image, the spelling of
arguments, how priorities are switched on, and the path of the metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dynamollm.api import names
from dynamollm.api.profile import ProfileEngine
from dynamollm.controller.objects.common import Owner, stamped

PROFILE_KEY: Final = "profile.json"
PROFILE_DIR: Final = "/etc/dynamollm/profile"
OPTIONS_KEY: Final = "trtllm.yaml"
OPTIONS_DIR: Final = "/etc/dynamollm/engine"
_OPTIONS: Final = "return_perf_metrics: true\nenable_iter_perf_stats: true\n"
"""Without the first trtllm-serve has no metrics for Prometheus, without the second none of its queue."""
_PORT: Final = ("--port", str(names.ENGINE_PORT))


@dataclass(frozen=True, slots=True)
class Start:
    """How an engine is started."""

    args: tuple[str, ...]
    """Before the user's own."""
    command: tuple[str, ...] = ()
    """Empty: the image's entry point."""
    metrics_path: str = "/metrics"
    volume: Mapping[str, Any] | None = None
    """Where the files lie that it reads."""
    mount: Mapping[str, Any] | None = None


def engine_start(owner: Owner, profile: ProfileEngine, *, tensor_parallel: int) -> Start:
    """Return how an engine of the service is started on so many GPUs, with the step limits that its profile holds for."""
    return _STARTS[owner.spec.engine.type](owner, profile, str(tensor_parallel))


def by_deadline(owner: Owner) -> bool:
    """Return whether engines serve by the priority that the router gives requests."""
    return owner.spec.engine.scheduling == names.EARLIEST_DEADLINE_FIRST


def options_config_map(owner: Owner) -> dict[str, Any]:
    """Return the ConfigMap with the options of TensorRT-LLM that have no argument."""
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owner.metadata(f"{owner.name}-engine"),
            "data": {OPTIONS_KEY: _OPTIONS},
        }
    )


def _vllm(owner: Owner, profile: ProfileEngine, tensor_parallel: str) -> Start:
    limits = (f"--max-num-batched-tokens={profile.max_batched_tokens}", f"--max-num-seqs={profile.max_sequences}")
    return Start(args=(*_model(owner, tensor_parallel), *_address(owner), *limits, *_priority(owner)))


def _simulated(owner: Owner, _profile: ProfileEngine, tensor_parallel: str) -> Start:
    """Give it the whole profile, limits included."""
    profile = ("--profile-file", f"{PROFILE_DIR}/{PROFILE_KEY}")
    return Start(
        args=("engine", *_model(owner, tensor_parallel), *profile, *_PORT, *_priority(owner)),
        volume={"name": "profile", "configMap": {"name": f"{owner.name}-profile"}},
        mount={"name": "profile", "mountPath": PROFILE_DIR, "readOnly": True},
    )


def _model(owner: Owner, tensor_parallel: str) -> tuple[str, ...]:
    return ("--model", owner.spec.model.name, "--tensor-parallel-size", tensor_parallel)


def _address(owner: Owner) -> tuple[str, ...]:
    """Return the arguments of an engine that is not ours: some listen at 127.0.0.1 alone where they are not told."""
    return ("--host", owner.every_address, *_PORT)


def _priority(owner: Owner) -> tuple[str, ...]:
    return ("--scheduling-policy=priority",) if by_deadline(owner) else ()


def _sglang(owner: Owner, profile: ProfileEngine, tensor_parallel: str) -> Start:
    args = ["--model-path", owner.spec.model.name, "--tp-size", tensor_parallel, *_address(owner), "--enable-metrics"]
    args += ["--chunked-prefill-size", str(profile.max_batched_tokens)]
    args += ["--max-running-requests", str(profile.max_sequences)]
    if by_deadline(owner):
        # Deadlines are priorities: the lowest is the first, as in vLLM.
        args += ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]
    return Start(command=("python3", "-m", "sglang.launch_server"), args=tuple(args))


def _tensorrt_llm(owner: Owner, profile: ProfileEngine, tensor_parallel: str) -> Start:
    limits = ("--max_num_tokens", str(profile.max_batched_tokens), "--max_batch_size", str(profile.max_sequences))
    options = ("--extra_llm_api_options", f"{OPTIONS_DIR}/{OPTIONS_KEY}")
    return Start(
        command=("trtllm-serve", "serve"),
        args=(owner.spec.model.name, "--tp_size", tensor_parallel, *_address(owner), *limits, *options),
        # Its /metrics is JSON of the last iterations.
        metrics_path="/prometheus/metrics",
        volume={"name": "options", "configMap": {"name": f"{owner.name}-engine"}},
        mount={"name": "options", "mountPath": OPTIONS_DIR, "readOnly": True},
    )


_STARTS: Final[Mapping[str, Callable[[Owner, ProfileEngine, str], Start]]] = {
    "VLLM": _vllm,
    "SGLang": _sglang,
    "TensorRTLLM": _tensorrt_llm,
    "Simulated": _simulated,
}
