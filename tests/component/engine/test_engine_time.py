"""The engine's own histograms against the pure model: exact simulated seconds, whatever the machine was doing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from component.engine.conftest import SCALE, EngineProcess, StartEngine, eventually
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.batching import Batch
from dynamollm.core.profile import Profile
from lab import nvml as standin

INPUT, OUTPUT = 1500, 120


def alone(spec: dict[str, Any], *, clock_mhz: int, tensor_parallel: int = 2) -> dict[str, float]:
    """Return what the model says of one request that is alone: TTFT, end, and joules per GPU."""
    profile = Profile.from_spec(PerformanceProfileSpec.model_validate(spec))
    batch = Batch(profile, tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
    batch.submit(1, input_tokens=INPUT, output_tokens=OUTPUT, priority=0, arrival_s=0.0)
    now_s = busy_j = 0.0
    ttft_s = None
    while (step := batch.next_step()) is not None:
        now_s += step.duration_s
        busy_j += step.duration_s * step.power_w
        if ttft_s is None and 1 in step.tokens:
            ttft_s = now_s
    assert ttft_s is not None
    return {"ttft_s": ttft_s, "end_s": now_s, "busy_j": busy_j}


async def test_the_models_own_times_end_a_stream_that_asks_for_them(
    start_engine: StartEngine, profile_spec: dict[str, Any]
) -> None:
    engine = await start_engine(tensor_parallel=2)
    async with engine.post(prompt=[1] * INPUT, tokens=OUTPUT, timing=True) as response:
        *_, comment, done = (await response.text()).removesuffix("\n\n").split("\n\n")
    expected = alone(profile_spec, clock_mhz=1980)
    assert done == "data: [DONE]"
    assert comment == f": simulated first_ms={expected['ttft_s'] * 1e3:.3f} last_ms={expected['end_s'] * 1e3:.3f}"


async def run_one(engine: EngineProcess) -> None:
    async with engine.post(prompt=[1] * INPUT, tokens=OUTPUT) as response:
        assert (await response.read()).count(b"data: ") == OUTPUT + 1


@pytest.mark.parametrize("tensor_parallel", [2, 8])
async def test_a_request_alone_takes_what_the_model_says(
    start_engine: StartEngine, profile_spec: dict[str, Any], tensor_parallel: int
) -> None:
    engine = await start_engine(tensor_parallel=tensor_parallel)
    for _ in range(2):
        await run_one(engine)
    expected = alone(profile_spec, clock_mhz=1980, tensor_parallel=tensor_parallel)
    metrics = await engine.metrics()
    assert metrics["vllm:time_to_first_token_seconds_sum"] == pytest.approx(2 * expected["ttft_s"], rel=1e-6)
    assert metrics["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(2 * expected["end_s"], rel=1e-6)
    assert metrics["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(
        2 * (expected["end_s"] - expected["ttft_s"]) / (OUTPUT - 1), rel=1e-6
    )
    assert metrics["vllm:inter_token_latency_seconds_count"] == 2 * (OUTPUT - 1)
    assert metrics["vllm:request_queue_time_seconds_sum"] == pytest.approx(0, abs=1e-6)
    assert metrics["vllm:prompt_tokens_total"] == 2 * INPUT
    assert metrics["vllm:generation_tokens_total"] == 2 * OUTPUT
    assert metrics["vllm:request_success_total{stop}"] == 2


@pytest.fixture
def gpus(tmp_path: Path) -> dict[str, str]:
    """Environment of a process that sees two stand-in GPUs."""
    file = tmp_path / "gpus"
    uuids = standin.create(state_file=file, node="gpu-node-02", gpus=4, time_scale=SCALE)
    return {
        "LD_LIBRARY_PATH": str(standin.ensure_library()),
        "DYNAMOLLM_NVML_STATE": str(file),
        "NVIDIA_VISIBLE_DEVICES": ",".join(uuids[:2]),
    }


def lock(gpus: dict[str, str], clock_mhz: int) -> None:
    import ctypes  # noqa: PLC0415 - as the rest of this helper, about the stand-in alone
    import os  # noqa: PLC0415

    import pynvml  # noqa: PLC0415

    ctypes.CDLL(str(standin.ensure_library() / standin.LIBRARY_NAME))
    os.environ |= {"DYNAMOLLM_NVML_STATE": gpus["DYNAMOLLM_NVML_STATE"]}
    pynvml.nvmlInit()
    for uuid in gpus["NVIDIA_VISIBLE_DEVICES"].split(","):
        pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByUUID(uuid), clock_mhz, clock_mhz)
    pynvml.nvmlShutdown()


async def test_the_clock_of_its_gpus_slows_it_down(
    start_engine: StartEngine, profile_spec: dict[str, Any], gpus: dict[str, str]
) -> None:
    engine = await start_engine(env=gpus)
    await run_one(engine)
    lock(gpus, 900)
    await run_one(engine)
    fast, slow = (alone(profile_spec, clock_mhz=clock_mhz) for clock_mhz in (1980, 900))
    assert slow["ttft_s"] > 1.3 * fast["ttft_s"]
    metrics = await engine.metrics()
    assert metrics["vllm:time_to_first_token_seconds_sum"] == pytest.approx(fast["ttft_s"] + slow["ttft_s"], rel=1e-6)
    assert metrics["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(fast["end_s"] + slow["end_s"], rel=1e-6)


async def test_its_gpus_draw_what_the_model_says(
    start_engine: StartEngine, profile_spec: dict[str, Any], gpus: dict[str, str]
) -> None:
    engine = await start_engine(env=gpus)
    file = Path(gpus["DYNAMOLLM_NVML_STATE"])
    uuids = gpus["NVIDIA_VISIBLE_DEVICES"].split(",")

    def at_rest() -> bool:
        return {standin.read(state_file=file).gpu(uuid).power_w for uuid in uuids} == {115}

    async def rested() -> bool:
        return at_rest()

    assert at_rest()
    loop = asyncio.get_running_loop()
    before, began = standin.read(state_file=file), loop.time()
    for _ in range(4):
        await run_one(engine)
    await eventually(rested)
    after, elapsed_s = standin.read(state_file=file), (loop.time() - began) * SCALE
    model = alone(profile_spec, clock_mhz=1980)
    expected_j = 4 * (model["busy_j"] - 115 * model["end_s"]) + 115 * elapsed_s
    for uuid in uuids:
        assert after.gpu(uuid).energy_j - before.gpu(uuid).energy_j == pytest.approx(expected_j, rel=0.1)
    assert after.gpus[3].power_w == 75


@pytest.mark.parametrize(
    ("arguments", "first"), [((), "unimportant"), (("--scheduling-policy", "priority"), "important")]
)
async def test_order_of_service(start_engine: StartEngine, arguments: tuple[str, ...], first: str) -> None:
    # One sequence at a time: who waits, waits for the end of the running one.
    engine = await start_engine(*arguments, engine={"maxSequences": 1})
    running = await engine.post(tokens=300)
    await running.content.readany()
    ended: list[str] = []

    async def send(name: str, priority: int) -> None:
        async with engine.post(tokens=50, priority=priority) as response:
            await response.read()
        ended.append(name)

    async def waiting(count: int) -> bool:
        return (await engine.metrics())["vllm:num_requests_waiting"] == count

    unimportant = asyncio.create_task(send("unimportant", 5))
    await eventually(lambda: waiting(1))
    important = asyncio.create_task(send("important", 1))
    await eventually(lambda: waiting(2))
    await asyncio.gather(running.read(), unimportant, important)
    assert ended[0] == first
    metrics = await engine.metrics()
    assert metrics["vllm:request_queue_time_seconds_sum"] > 0
