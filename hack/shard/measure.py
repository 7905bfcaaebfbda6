"""Measure the steps of one GPU's part of Llama-2-70B: ``python3 hack/shard/measure.py FILE.json``, on a machine with an H100.

What a GPU of a tensor-parallel instance does in a step, without its peers: all 80 layers (at TP 2, where they do not fit, 40
of them twice) with the weights and KV heads that fall to it, no all-reduce, no host between steps (each step is one CUDA
graph). Some steps also with pauses between them: what an instance draws that is busy part of the time. Weights are random, prompts and caches too:
time does not depend on them, power little. Clocks and power limit are left as they are found; NVML is only read.
``hack/shard/compare.py`` holds a shipped profile to the result.

Needs PyTorch with CUDA and pynvml, and nothing of this project.
"""

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pynvml
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

HIDDEN, LAYERS, FEED_FORWARD, HEADS, KV_HEADS, HEAD, WORDS = 8192, 80, 28672, 64, 8, 128, 32000
DEGREES: Final = {8: 80, 4: 80, 2: 40}
"""TP degree → layers in memory: at TP 2 all of them leave no room for caches on one GPU."""
DECODES: Final = tuple((batch, context) for context in (512, 2048) for batch in (1, 8, 32, 64, 128))
PROMPTS: Final = (128, 512, 1024, 2048, 4096, 8192)
MIXED: Final = ((256, 32, 1024), (1024, 32, 1024), (1024, 128, 1024))
"""Prompt tokens, batch, context."""
BUSY: Final = (0.25, 0.5, 0.75)
PAUSED: Final = ((0, 32, 1024), (1024, 0, 0), (1024, 32, 1024))
"""Steps that are also run with pauses, so that they take these shares of the time."""
WARM_S, MEASURED_S, IDLE_S, SAMPLE_S = 0.7, 2.0, 5.0, 0.02
BACKENDS: Final = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)

Tensor = torch.Tensor


@torch.compile(dynamic=True)
def normed(x: Tensor, more: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Add to the residual stream and return it normalised, and itself."""
    x = x + more
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight, x


@torch.compile(dynamic=True)
def gated(both: Tensor) -> Tensor:
    """Return SiLU(gate) × up."""
    gate, up = both.chunk(2, dim=-1)
    return functional.silu(gate) * up


@torch.compile(dynamic=True)
def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return heads with their positions; x: [token, head, HEAD]."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


@dataclass(frozen=True)
class Step:
    """What one step does."""

    prompt_tokens: int
    batch: int
    context: int
    """Tokens that each sequence of the batch holds."""

    @property
    def tokens(self) -> int:
        """Tokens that go through the linear layers."""
        return self.prompt_tokens + self.batch


class Shard:
    """The weights of one GPU of an instance."""

    def __init__(self, degree: int, layers: int) -> None:
        self.heads, self.kv_heads = HEADS // degree, KV_HEADS // degree
        query, key, forward = self.heads * HEAD, self.kv_heads * HEAD, FEED_FORWARD // degree

        def weight(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) / math.sqrt(columns)

        self.layers = [
            (
                weight(query + 2 * key, HIDDEN),
                weight(HIDDEN, query),
                weight(2 * forward, HIDDEN),
                weight(HIDDEN, forward),
            )
            for _ in range(layers)
        ]
        self.scale = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.head = weight(WORDS // degree, HIDDEN)

    def prepared(self, step: Step) -> Callable[[], Any]:
        """Return a step that is run by a call."""
        x = torch.randn(step.tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
        angles = torch.rand(step.tokens, 1, HEAD // 2, device="cuda") * 6
        cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        caches = [
            torch.randn(2, step.batch, self.kv_heads, step.context, HEAD, device="cuda", dtype=torch.bfloat16)
            for _ in range(len(self.layers) if step.batch else 0)
        ]
        decode, prefill = self._fastest(step, caches)

        def run() -> Tensor:
            stream, more = x, torch.zeros_like(x)
            for index, (qkv, out, up, down) in [*enumerate(self.layers)] * (LAYERS // len(self.layers)):
                y, stream = normed(stream, more, self.scale)
                wide = functional.linear(y, qkv)
                heads = wide[:, : -self.kv_heads * HEAD].view(step.tokens, -1, HEAD)
                values = wide[:, -self.kv_heads * HEAD :].view(step.tokens, -1, HEAD)
                both = rotated(heads, cos, sin)
                query, key = both[:, : self.heads], both[:, self.heads :]
                found = []
                if step.prompt_tokens:
                    n = step.prompt_tokens
                    found.append(prefill(query[:n], key[:n], values[:n]))
                if step.batch:
                    cache, n = caches[index], step.prompt_tokens
                    cache[0, :, :, -1], cache[1, :, :, -1] = key[n:], values[n:]
                    found.append(decode(query[n:], cache))
                attended = torch.cat(found) if len(found) > 1 else found[0]
                y, stream = normed(stream, functional.linear(attended, out), self.scale)
                more = functional.linear(gated(functional.linear(y, up)), down)
            last = stream[max(0, step.prompt_tokens - 1) :]
            return functional.linear(last, self.head).argmax(-1)

        return run

    def _fastest(self, step: Step, caches: list[Tensor]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return attention of a batch and of a prompt, by the kernels that are the quickest here."""

        def decode(query: Tensor, cache: Tensor, backend: SDPBackend) -> Tensor:
            # The queries of a KV head's group read the same cache: as many rows of one product.
            grouped = query.reshape(step.batch, self.kv_heads, self.heads // self.kv_heads, HEAD)
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(grouped, cache[0], cache[1]).reshape(step.batch, -1)

        def prefill(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend) -> Tensor:
            parts = (one.transpose(0, 1)[None] for one in (query, key, value))
            with sdpa_kernel(backend):
                found = functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
            return found[0].transpose(0, 1).reshape(step.prompt_tokens, -1)

        def quickest(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[..., Tensor]:
            times = {}
            for backend in BACKENDS:
                with contextlib.suppress(RuntimeError):
                    times[backend] = _graph_ms(lambda b=backend: function(*arguments, backend=b))
            best = min(times, key=times.__getitem__)
            return lambda *some: function(*some, backend=best)

        def drawn(count: int, heads: int) -> Tensor:
            return torch.randn(count, heads, HEAD, device="cuda", dtype=torch.bfloat16)

        first = quickest(decode, drawn(step.batch, self.heads), caches[0]) if step.batch else decode
        n = step.prompt_tokens
        second = (
            quickest(prefill, drawn(n, self.heads), drawn(n, self.kv_heads), drawn(n, self.kv_heads)) if n else prefill
        )
        return first, second


def _graph(function: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _graph_ms(function: Callable[[], Any], times: int = 20) -> float:
    graph = _graph(function)
    started = time.perf_counter()
    for _ in range(times):
        graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / times * 1e3


class Meter:
    """Reads the GPU while something runs."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.name = pynvml.nvmlDeviceGetName(self._handle)
        self.limit_w = pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1e3
        self.driver = pynvml.nvmlSystemGetDriverVersion()

    def joules(self) -> float:
        """Return the energy counter."""
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, float]]:
        """Fill in watts, and the SM clock as it was most of the time, over what is inside."""
        found: dict[str, float] = {}
        clocks: list[int] = []
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(SAMPLE_S):
                clocks.append(pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM))

        reader = threading.Thread(target=look)
        reader.start()
        joules, started = self.joules(), time.perf_counter()
        try:
            yield found
        finally:
            watts = (self.joules() - joules) / (time.perf_counter() - started)
            ended.set()
            reader.join()
            found |= {"power_w": watts, "clock_mhz": float(sorted(clocks)[len(clocks) // 2])}
            found["capped"] = float(
                bool(
                    pynvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle) & pynvml.nvmlClocksEventReasonSwPowerCap
                )
            )


def measured(meter: Meter, graph: torch.cuda.CUDAGraph, *, busy: float = 1.0) -> dict[str, float]:
    """Return ms of a step, watts and clock, over steps one after the other, or with pauses between them."""

    def repeat(seconds: float) -> int:
        started, count = time.perf_counter(), 0
        while (begun := time.perf_counter()) - started < seconds:
            for _ in range(4 if busy == 1.0 else 1):
                graph.replay()
                count += 1
            torch.cuda.synchronize()
            pause = (time.perf_counter() - begun) * (1 / busy - 1)
            time.sleep(pause)  # what is measured
        return count

    repeat(WARM_S)
    with meter.running() as found:
        started = time.perf_counter()
        count = repeat(MEASURED_S)
        took = time.perf_counter() - started
    return {"duration_ms": took / count * 1e3, "busy": busy, **found}


def idle(meter: Meter) -> dict[str, float]:
    """Return watts and clock with nothing to do."""
    time.sleep(IDLE_S)  # until the watts of what ran before are gone
    with meter.running() as found:
        time.sleep(IDLE_S)
    return found


def main() -> None:
    """Measure all steps, and write after each what there is."""
    path = Path(sys.argv[1])
    meter = Meter()
    rows: list[dict[str, Any]] = []
    result = {
        "gpu": meter.name,
        "driver": meter.driver,
        "torch": torch.__version__,
        "power_limit_w": meter.limit_w,
        "idle": idle(meter),
        "rows": rows,
    }
    torch.set_grad_enabled(mode=False)
    steps = (
        [Step(0, *one) for one in (*DECODES, (32, 1024))]
        + [Step(one, 0, 0) for one in PROMPTS]
        + [Step(*one) for one in MIXED]
    )
    for degree, layers in DEGREES.items():
        torch.cuda.empty_cache()
        shard = Shard(degree, layers)
        torch.cuda.synchronize()
        result[f"loaded_idle_tp{degree}"] = idle(meter)
        for step in steps:
            asked = {"tensor_parallel": degree, **vars(step)}
            shares = (1.0, *BUSY) if (step.prompt_tokens, step.batch, step.context) in PAUSED else (1.0,)
            run = shard.prepared(step)
            graph = _graph(run)
            for busy in shares:
                rows.append(asked | measured(meter, graph, busy=busy))
                print(rows[-1], flush=True)
            path.write_text(json.dumps(result, indent=1))
            del graph, run
            torch.cuda.empty_cache()
        del shard


if __name__ == "__main__":
    main()
