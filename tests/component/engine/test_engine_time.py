"""The engine's own histograms against the pure model: exact simulated seconds, whatever the machine was doing."""

import asyncio
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest

from component.engine.conftest import SCALE, EngineProcess, StartEngine, eventually
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.batching import Batch
from dynamollm.core.profile import Profile
from lab import nvml as standin

INPUT, OUTPUT = 1500, 120
IDLE_W = 115.0
"""Of a GPU that holds the model and does nothing."""


@dataclass(frozen=True)
class Alone:
    """What the model says of one request that is alone."""

    ttft_s: float
    end_s: float
    decode_w: list[float]
    """Of each GPU, in each step after the first token."""


def alone(spec: dict[str, Any], *, clock_mhz: int, tensor_parallel: int = 2, output_tokens: int = OUTPUT) -> Alone:
    profile = Profile.from_spec(PerformanceProfileSpec.model_validate(spec))
    batch = Batch(profile, tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)
    batch.submit(1, input_tokens=INPUT, output_tokens=output_tokens, priority=0, arrival_s=0.0)
    now_s = 0.0
    ttft_s = None
    decode_w = []
    while (step := batch.next_step()) is not None:
        now_s += step.duration_s
        if ttft_s is not None:
            decode_w.append(step.power_w)
        elif 1 in step.tokens:
            ttft_s = now_s
    assert ttft_s is not None
    return Alone(ttft_s, now_s, decode_w)


async def test_the_models_own_times_end_a_stream_that_asks_for_them(
    start_engine: StartEngine, profile_spec: dict[str, Any]
) -> None:
    engine = await start_engine(tensor_parallel=2)
    async with engine.post(prompt=[1] * INPUT, tokens=OUTPUT, timing=True) as response:
        *_, comment, done = (await response.text()).removesuffix("\n\n").split("\n\n")
    expected = alone(profile_spec, clock_mhz=1980)
    assert done == "data: [DONE]"
    assert comment == f": simulated first_ms={expected.ttft_s * 1e3:.3f} last_ms={expected.end_s * 1e3:.3f}"


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
    assert metrics["vllm:time_to_first_token_seconds_sum"] == pytest.approx(2 * expected.ttft_s, rel=1e-6)
    assert metrics["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(2 * expected.end_s, rel=1e-6)
    assert metrics["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(
        2 * (expected.end_s - expected.ttft_s) / (OUTPUT - 1), rel=1e-6
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


def lock(gpus: dict[str, str], clock_mhz: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # pynvml opens the library by name, which finds one that is loaded already.
    ctypes.CDLL(str(standin.ensure_library() / standin.LIBRARY_NAME))
    monkeypatch.setenv("DYNAMOLLM_NVML_STATE", gpus["DYNAMOLLM_NVML_STATE"])
    pynvml.nvmlInit()
    for uuid in gpus["NVIDIA_VISIBLE_DEVICES"].split(","):
        pynvml.nvmlDeviceSetGpuLockedClocks(pynvml.nvmlDeviceGetHandleByUUID(uuid), clock_mhz, clock_mhz)
    pynvml.nvmlShutdown()


async def test_the_clock_of_its_gpus_slows_it_down(
    start_engine: StartEngine, profile_spec: dict[str, Any], gpus: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine(env=gpus)
    await run_one(engine)
    lock(gpus, 900, monkeypatch)
    await run_one(engine)
    fast, slow = (alone(profile_spec, clock_mhz=clock_mhz) for clock_mhz in (1980, 900))
    assert slow.ttft_s > 1.3 * fast.ttft_s
    metrics = await engine.metrics()
    assert metrics["vllm:time_to_first_token_seconds_sum"] == pytest.approx(fast.ttft_s + slow.ttft_s, rel=1e-6)
    assert metrics["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(fast.end_s + slow.end_s, rel=1e-6)


async def test_its_gpus_draw_what_the_model_says(
    start_engine: StartEngine, profile_spec: dict[str, Any], gpus: dict[str, str]
) -> None:
    engine = await start_engine(env=gpus)
    file = Path(gpus["DYNAMOLLM_NVML_STATE"])
    uuids = gpus["NVIDIA_VISIBLE_DEVICES"].split(",")

    def drawn_w() -> set[float]:
        return {standin.read(state_file=file).gpu(uuid).power_w for uuid in uuids}

    async def decoding() -> bool:
        return all(least_w <= watts <= most_w for watts in drawn_w())

    async def resting() -> bool:
        return drawn_w() == {IDLE_W}

    assert await resting()
    steps_w = alone(profile_spec, clock_mhz=1980, output_tokens=4000).decode_w
    # To the milliwatt, as the stand-in keeps it.
    least_w, most_w = min(steps_w) - 0.001, max(steps_w) + 0.001
    assert least_w > 1.2 * IDLE_W
    response = await engine.post(prompt=[1] * INPUT, tokens=4000)
    # The mean of a tenth of a second is published: once there is no prompt in it, that of decoding.
    await eventually(decoding)
    assert standin.read(state_file=file).gpus[3].power_w == 75
    response.close()
    await eventually(resting)


@pytest.mark.parametrize(
    ("arguments", "first"), [((), "unimportant"), (("--scheduling-policy", "priority"), "important")]
)
async def test_order_of_service(start_engine: StartEngine, arguments: tuple[str, ...], first: str) -> None:
    # One sequence at a time: the others wait until the client of the running one leaves, a minute before it would end.
    engine = await start_engine(*arguments, scale=2.0, engine={"maxSequences": 1})
    running = await engine.post(tokens=4000)
    await running.content.readany()

    async def send(name: str, priority: int) -> str:
        # Whoever is served first ends first; only the right one ends soon.
        async with engine.post(tokens=1 if name == first else 4000, priority=priority) as response:
            await response.read()
        return name

    async def waiting(count: int) -> bool:
        return (await engine.metrics())["vllm:num_requests_waiting"] == count

    unimportant = asyncio.create_task(send("unimportant", 5))
    await eventually(lambda: waiting(1))
    important = asyncio.create_task(send("important", 1))
    await eventually(lambda: waiting(2))
    running.close()
    done, others = await asyncio.wait({unimportant, important}, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [first]
    metrics = await engine.metrics()
    assert metrics["vllm:request_queue_time_seconds_sum"] > 0
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
