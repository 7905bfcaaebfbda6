"""How each type of engine is started: command, arguments, where its metrics are, what it reads."""

from dataclasses import replace
from typing import Any

import pytest

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec, ProfileEngine
from dynamollm.controller.objects.common import Owner
from dynamollm.controller.objects.engine import engine_deployment
from dynamollm.controller.objects.engine_start import engine_start, options_config_map
from unit.controller import world
from unit.controller.world import SAMPLE, World

MODEL = "meta-llama/Llama-2-70b-chat-hf"
ADDRESS = ("--host", "0.0.0.0", "--port", "8000")
LIMITS = ProfileEngine(max_sequences=128, max_batched_tokens=1024)
PROFILE = PerformanceProfileSpec.model_validate(world.PROFILE["spec"]).model_copy(update={"engine": LIMITS})
VLLM_LIMITS = ("--max-num-batched-tokens=1024", "--max-num-seqs=128")
SGLANG_LIMITS = ("--chunked-prefill-size", "1024", "--max-running-requests", "128")
TRTLLM_LIMITS = ("--max_num_tokens", "1024", "--max_batch_size", "128")
EDF = {"scheduling": "EarliestDeadlineFirst"}


def owner(**engine: Any) -> Owner:
    spec = {**SAMPLE["spec"], "engine": {"image": "engine:1", **engine}}
    return Owner(namespace="llm", name="chat", uid="u", spec=InferenceServiceSpec.model_validate(spec), image="ours:1")


STARTS: list[tuple[dict[str, Any], tuple[str, ...], tuple[str, ...], str]] = [
    ({"type": "VLLM"}, (), ("--model", MODEL, "--tensor-parallel-size", "4", *ADDRESS, *VLLM_LIMITS), "/metrics"),
    (
        {"type": "VLLM", **EDF},
        (),
        ("--model", MODEL, "--tensor-parallel-size", "4", *ADDRESS, *VLLM_LIMITS, "--scheduling-policy=priority"),
        "/metrics",
    ),
    (
        {"type": "SGLang"},
        ("python3", "-m", "sglang.launch_server"),
        ("--model-path", MODEL, "--tp-size", "4", *ADDRESS, "--enable-metrics", *SGLANG_LIMITS),
        "/metrics",
    ),
    (
        {"type": "SGLang", **EDF},
        ("python3", "-m", "sglang.launch_server"),
        (
            *("--model-path", MODEL, "--tp-size", "4", *ADDRESS, "--enable-metrics", *SGLANG_LIMITS),
            *("--enable-priority-scheduling", "--schedule-low-priority-values-first"),
        ),
        "/metrics",
    ),
    (
        {"type": "TensorRTLLM"},
        ("trtllm-serve", "serve"),
        (
            MODEL,
            "--tp_size",
            "4",
            *ADDRESS,
            *TRTLLM_LIMITS,
            "--extra_llm_api_options",
            "/etc/dynamollm/engine/trtllm.yaml",
        ),
        "/prometheus/metrics",
    ),
    (
        {"type": "Simulated", "image": None},
        (),
        (
            *("engine", "--model", MODEL, "--tensor-parallel-size", "4"),
            *("--profile-file", "/etc/dynamollm/profile/profile.json", "--port", "8000"),
        ),
        "/metrics",
    ),
]


@pytest.mark.parametrize(("engine", "command", "args", "path"), STARTS, ids=[str(case[0]) for case in STARTS])
def test_an_engine_is_started_as_its_documentation_says(
    engine: dict[str, Any], command: tuple[str, ...], args: tuple[str, ...], path: str
) -> None:
    start = engine_start(owner(**engine), LIMITS, tensor_parallel=4)
    assert (start.command, start.args, start.metrics_path) == (command, args, path)


@pytest.mark.parametrize("engine", [case[0] for case in STARTS], ids=[str(case[0]) for case in STARTS])
def test_the_pod_has_it_and_the_users_arguments_last(engine: dict[str, Any]) -> None:
    who = owner(**engine, args=["--mine"])
    start = engine_start(who, LIMITS, tensor_parallel=4)
    template = engine_deployment(who, PROFILE, pool="ll", tensor_parallel=4, replicas=1)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container.get("command", []) == list(start.command)
    assert container["args"] == [*start.args, "--mine"]
    assert template["metadata"]["annotations"]["prometheus.io/path"] == start.metrics_path
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    # NCCL's shared memory, where GPUs are real.
    assert ("shm" in mounted) == (engine["type"] != "Simulated")


@pytest.mark.parametrize("engine", [case[0] for case in STARTS], ids=[str(case[0]) for case in STARTS])
def test_no_engine_may_more_than_its_image_needs(engine: dict[str, Any]) -> None:
    body = engine_deployment(owner(**engine), PROFILE, pool="ll", tensor_parallel=4, replicas=1)
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    # Others' images run as root and write caches into their home; ours does neither.
    ours = engine["type"] == "Simulated"
    assert context.get("readOnlyRootFilesystem", False) == ours
    assert pod["securityContext"].get("runAsNonRoot", False) == ours


def test_engines_of_a_cluster_with_ipv6_addresses_listen_there() -> None:
    start = engine_start(replace(owner(type="VLLM"), every_address="::"), LIMITS, tensor_parallel=4)
    assert start.args[start.args.index("--host") + 1] == "::"


async def test_tensorrt_llm_finds_its_options() -> None:
    there = World()
    there.put_service(engine={"type": "TensorRTLLM", "image": "engine:1"})
    await there.settle()
    options = options_config_map(owner(type="TensorRTLLM"))
    assert there.kube.of("ConfigMap")["chat-engine"]["data"] == options["data"]
    assert options["data"] == {"trtllm.yaml": "return_perf_metrics: true\nenable_iter_perf_stats: true\n"}
