"""The PerformanceProfile: how long one model takes on one GPU, and what it draws, over TP degree and clock.

The formulae that read these coefficients are in `core.profile`; the symbols in brackets are theirs.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from dynamollm.api.common import LIST_SET, Rule, Spec, each_once, list_map

TensorParallel = Annotated[int, Field(ge=1, le=16)]
Megahertz = Annotated[int, Field(ge=1, le=10_000)]
Watts = Annotated[int, Field(ge=0, le=5_000)]
Efficiency = Annotated[float, Field(gt=0, le=1)]
Coefficient = Annotated[float, Field(ge=0, le=1_000_000)]
Text = Annotated[str, Field(max_length=1024)]
ErrorPercent = Annotated[float | None, Field(ge=0, le=1000)]


class ClockRange(Spec):
    """SM clocks that the GPU supports, MHz: every step from the lowest to the highest."""

    min_mhz: Annotated[int, Field(ge=1, le=5_000)]
    """Lowest supported clock, MHz."""
    max_mhz: Annotated[int, Field(ge=2, le=10_000)]
    """Highest supported clock, MHz: the default one, at which latency coefficients hold."""
    step_mhz: Annotated[int, Field(ge=1, le=1_000)]
    """Distance between supported clocks, MHz."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.minMHz < self.maxMHz",
            message="gpu.clocks.minMHz must be below gpu.clocks.maxMHz",
            detail="gpu.clocks.minMHz %d must be below gpu.clocks.maxMHz %d",
            values=(
                "self.minMHz",
                "self.maxMHz",
            ),
            field_path=".minMHz",
            holds=lambda self: self.min_mhz < self.max_mhz,
            found=lambda self: (
                self.min_mhz,
                self.max_mhz,
            ),
        ),
        Rule(
            rule="(self.maxMHz - self.minMHz) % self.stepMHz == 0",
            message="gpu.clocks.stepMHz must divide maxMHz - minMHz",
            detail="gpu.clocks.stepMHz %d does not divide maxMHz - minMHz = %d: see nvidia-smi -q -d SUPPORTED_CLOCKS",
            values=(
                "self.stepMHz",
                "self.maxMHz - self.minMHz",
            ),
            field_path=".stepMHz",
            holds=lambda self: (self.max_mhz - self.min_mhz) % self.step_mhz == 0,
            found=lambda self: (
                self.step_mhz,
                self.max_mhz - self.min_mhz,
            ),
        ),
    )


class ProfileGpu(Spec):
    """The GPU that was measured."""

    product: Annotated[str, Field(min_length=1, max_length=63)]
    """Value of the node label nvidia.com/gpu.product."""
    memory_gigabytes: Annotated[int, Field(ge=1, le=10_000)]
    """Memory, 10^9 bytes (an "80 GB" H100 has 81559 MiB: 85)."""
    memory_gigabytes_per_second: Annotated[int, Field(ge=1, le=1_000_000)]
    """Peak memory bandwidth, 10^9 bytes/s."""
    peak_teraflops: Annotated[int, Field(ge=1, le=1_000_000)]
    """Peak dense rate in the precision of the weights, 10^12 operations/s."""
    nvlink_gigabytes_per_second: Annotated[int, Field(ge=0, le=100_000)]
    """Peak rate to other GPUs of the node in one direction, 10^9 bytes/s."""
    tdp_watts: Watts = 700
    """Power limit, W: the clock drops to stay below it."""
    idle_watts: Watts = 75
    """Draw of a GPU that no process uses, W."""
    loaded_idle_watts: Watts = 115
    """Draw of a GPU with an engine loaded and no request running, W."""
    clocks: ClockRange
    """Supported SM clocks."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.idleWatts <= self.loadedIdleWatts && self.loadedIdleWatts <= self.tdpWatts",
            message="gpu: idleWatts ≤ loadedIdleWatts ≤ tdpWatts must hold",
            detail="gpu.idleWatts %d, gpu.loadedIdleWatts %d and gpu.tdpWatts %d must not descend",
            values=(
                "self.idleWatts",
                "self.loadedIdleWatts",
                "self.tdpWatts",
            ),
            field_path=".loadedIdleWatts",
            holds=lambda self: self.idle_watts <= self.loaded_idle_watts <= self.tdp_watts,
            found=lambda self: (
                self.idle_watts,
                self.loaded_idle_watts,
                self.tdp_watts,
            ),
        ),
    )


class ProfileModel(Spec):
    """The model that was measured; dimensions as in its configuration file."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name, as services give it."""
    parameters_millions: Annotated[int, Field(ge=1, le=100_000_000)]
    """Parameters in linear layers, the output head included, the input embedding not, millions [P]."""
    layers: Annotated[int, Field(ge=1, le=10_000)]
    """Transformer layers [L]."""
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)]
    """Width of the hidden state [d]."""
    kv_bytes_per_token: Annotated[int, Field(ge=1, le=100_000_000)]
    """Bytes that one token takes in the KV cache, over all layers and all GPUs of an instance."""
    weight_bytes_per_parameter: Annotated[int, Field(ge=1, le=8)] = 2
    """Bytes of one weight: 2 for bf16 and fp16, 1 for fp8."""


class ProfileEngine(Spec):
    """The engine that was measured, and how it batches."""

    type: Literal["VLLM", "SGLang", "TensorRTLLM"] = "VLLM"
    """Which engine."""
    version: Annotated[str, Field(max_length=63)] = ""
    """Its version."""
    era: Literal["Modern", "PaperEra"] = "Modern"
    """Modern: chunks of prompts run in the same steps as decoding; PaperEra (2023): prompts that wait run whole in steps of their own, decoding waits."""
    max_sequences: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Largest number of requests in one batch (vLLM: --max-num-seqs)."""
    max_batched_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 8192
    """Largest number of tokens in one step (vLLM: --max-num-batched-tokens)."""
    gpu_memory_utilization_percent: Annotated[int, Field(ge=1, le=100)] = 90
    """Share of the GPU memory for weights and KV cache, % (vLLM: --gpu-memory-utilization)."""


class RooflineLatency(Spec):
    """Analytic latency of one step at the highest clock: compute and memory time, smooth maximum, communication."""

    linear_efficiency: Efficiency
    """Share of peak operations that linear layers reach [eta_lin]."""
    attention_efficiency: Efficiency
    """Share of peak operations that prompt attention reaches [eta_attn]."""
    weight_bandwidth_efficiency: Efficiency
    """Share of peak bandwidth at which weights are read [eta_bw]."""
    kv_bandwidth_efficiency: Efficiency
    """Share of peak bandwidth at which the KV cache is read [eta_kv]."""
    nvlink_efficiency: Efficiency
    """Share of the peak NVLink rate that all-reduce reaches [eta_nv]."""
    all_reduce_latency_microseconds: Coefficient
    """Fixed time of one all-reduce, µs [ar_lat_us]."""
    elementwise_nanoseconds_per_token_layer: Coefficient
    """Element-wise work, ns per token and layer at a hidden size of 8192 [ew_ns]."""
    layer_fixed_microseconds: Coefficient
    """Fixed time of a layer, µs [layer_fixed_us]."""
    step_fixed_milliseconds: Coefficient
    """Fixed time of a step, ms [t0]."""
    smooth_maximum_exponent: Annotated[float, Field(ge=1, le=100)]
    """Exponent of the smooth maximum of compute and memory time [p]."""
    host_milliseconds: Coefficient
    """Host's time per step, ms [host_ms]."""
    host_microseconds_per_sequence: Coefficient
    """Host's time per step and sequence in the batch, µs [per_seq_us]."""


class PrefillCurve(Spec):
    """Prefill time of N tokens at the highest clock: ((floor^e + (s(N)·N)^e)^(1/e) + fixed) ms.

    s(N) goes from the short to the long slope by a logistic step around the transition.
    """

    floor_milliseconds: Coefficient
    """Time that even one token takes, ms [tmin]."""
    short_milliseconds_per_token: Coefficient
    """Slope below the transition, ms per token [s1]."""
    long_milliseconds_per_token: Coefficient
    """Slope above the transition, ms per token [s2]."""
    fixed_milliseconds: Coefficient
    """Added to all, ms [c]."""
    transition_tokens: Annotated[float, Field(gt=0, le=1_000_000)] = 3000
    """Where the slope is half-way from short to long, tokens."""
    transition_width_tokens: Annotated[float, Field(gt=0, le=1_000_000)] = 300
    """Width of the transition, tokens."""
    floor_exponent: Annotated[float, Field(ge=1, le=100)] = 4
    """How sharply the floor gives way to the slope [e]."""


class DecodeCurve(Spec):
    """Time of one decode step of B sequences at the highest clock: (fixed + b·B + c·B²) ms; context hardly matters."""

    fixed_milliseconds: Coefficient
    """Fixed, ms: in 2023 mostly the host's [a]."""
    milliseconds_per_sequence: Coefficient
    """Linear, ms per sequence [b]."""
    milliseconds_per_sequence_squared: Coefficient
    """Quadratic, ms per sequence squared [c]."""


class TensorParallelLatency(Spec):
    """Fitted latency at one TP degree."""

    tensor_parallel: TensorParallel
    """TP degree that was measured."""
    prefill: PrefillCurve
    """Prefill time."""
    decode: DecodeCurve
    """Decode step time."""


class ClockScaling(Spec):
    """How times grow as the clock falls: compute by 1/f below the reference, others by 1 + kappa·(maxMHz/f − 1)."""

    compute_reference_mhz: Megahertz
    """Mean clock that power-capped compute runs at, MHz: locks above it do not speed compute up [f_ref]."""
    weights: Coefficient
    """kappa of reading weights."""
    attention: Coefficient
    """kappa of reading the KV cache."""
    fixed: Coefficient
    """kappa of fixed overheads on the GPU."""
    host: Coefficient
    """kappa of the host's time; 0: the GPU clock does not change it."""


class LatencyModel(Spec):
    """Latency at the highest clock, in one of two shapes, and how it grows as the clock falls."""

    roofline: RooflineLatency | None = None
    """Analytic, from the GPU's peaks and the model's dimensions; any TP degree."""
    per_tensor_parallel: Annotated[
        tuple[TensorParallelLatency, ...] | None,
        Field(min_length=1, max_length=5, json_schema_extra=list_map("tensorParallel")),
    ] = None
    """Curves fitted to measurements, one entry per TP degree."""
    clock_scaling: ClockScaling
    """Growth of times with a falling clock."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.roofline) != has(self.perTensorParallel)",
            message="latency needs exactly one of roofline and perTensorParallel: set one and remove the other",
            holds=lambda self: (self.roofline is None) != (self.per_tensor_parallel is None),
        ),
    )


class PowerModel(Spec):
    """Draw of one busy GPU, W.

    P = min(tdp, static + hbm·u_bw + v(f)²·[((onChip·u_bw)^q + (tensor·u_tc)^q)^(1/q) + clock·f/maxMHz]) with
    v(f) = max(voltageFloor, 1 − voltageSlope·(1 − f/maxMHz)); u_bw and u_tc are shares of peak bandwidth and operations.
    """

    static_watts: Coefficient
    """Draw that nothing changes, W [P0]."""
    hbm_watts: Coefficient
    """Memory at full bandwidth, W [Ph]."""
    on_chip_memory_watts: Coefficient
    """On-chip data paths at full bandwidth and highest clock, W [km]."""
    tensor_watts: Coefficient
    """Tensor cores at the peak rate and highest clock, W [kc]."""
    clock_watts: Coefficient
    """Clock tree at the highest clock, W [kb]."""
    voltage_slope: Annotated[float, Field(ge=0, le=1)]
    """Relative fall of the voltage per relative fall of the clock [s]."""
    voltage_floor: Annotated[float, Field(gt=0, le=1)]
    """Lowest relative voltage [vmin]."""
    exponent: Annotated[float, Field(ge=1, le=100)]
    """How memory and tensor draw combine [q]."""


class FitError(Spec):
    """Mean absolute percentage errors of the fit, %."""

    prefill_percent: ErrorPercent = None
    """Prefill time."""
    decode_percent: ErrorPercent = None
    """Decode step time."""
    power_percent: ErrorPercent = None
    """GPU power."""


class Provenance(Spec):
    """Where the numbers come from, and how far to trust them."""

    source: Text
    """Who measured what, on what."""
    notes: Annotated[tuple[Text, ...], Field(max_length=16)] = ()
    """What was assumed or extrapolated."""
    fit_error: FitError = FitError()
    """Errors of the fit."""


class ValidRange(Spec):
    """What the numbers hold for; a question outside is refused, not extrapolated."""

    min_clock_mhz: Megahertz
    """Lowest clock that plans may use, MHz."""
    max_input_tokens: Annotated[int, Field(ge=1, le=10_000_000)]
    """Longest prompt, tokens."""
    max_batch: Annotated[int, Field(ge=1, le=65_536)]
    """Largest decode batch, sequences."""


def _unmeasured(spec: "PerformanceProfileSpec") -> list[int]:
    """Return the TP degrees without an entry in ``latency.perTensorParallel``."""
    measured = {entry.tensor_parallel for entry in spec.latency.per_tensor_parallel or ()}
    return [degree for degree in spec.tensor_parallel if degree not in measured]


class PerformanceProfileSpec(Spec):
    """Latency and power of one model on one GPU under one engine."""

    gpu: ProfileGpu
    """The GPU."""
    model: ProfileModel
    """The model."""
    engine: ProfileEngine = ProfileEngine()
    """The engine."""
    tensor_parallel: Annotated[
        tuple[TensorParallel, ...],
        Field(min_length=1, max_length=5, json_schema_extra=LIST_SET),
        AfterValidator(each_once),
    ]
    """TP degrees (GPUs per instance) that the profile holds for."""
    startup_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    """Time from a pod's creation until it is Ready, s: forecasts look at least this far ahead."""
    latency: LatencyModel
    """Latency."""
    power: PowerModel
    """Power."""
    valid_range: ValidRange
    """Range of validity."""
    provenance: Provenance
    """Origin and errors."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule=(
                "!has(self.latency.perTensorParallel) || self.tensorParallel.all(tp,"
                " self.latency.perTensorParallel.exists(entry, entry.tensorParallel == tp))"
            ),
            message="every degree in tensorParallel needs an entry in latency.perTensorParallel",
            detail="tensorParallel %s has no entry in latency.perTensorParallel: add one or remove the degree",
            values=(
                "self.tensorParallel.filter(tp, !self.latency.perTensorParallel.exists(entry, entry.tensorParallel == tp))",
            ),
            field_path=".tensorParallel",
            holds=lambda self: self.latency.per_tensor_parallel is None or not _unmeasured(self),
            found=lambda self: (_unmeasured(self),),
        ),
        Rule(
            rule="self.validRange.minClockMHz >= self.gpu.clocks.minMHz && self.validRange.minClockMHz <= self.gpu.clocks.maxMHz",
            message="validRange.minClockMHz must be one of the clocks in gpu.clocks",
            detail="validRange.minClockMHz %d must lie between gpu.clocks.minMHz %d and gpu.clocks.maxMHz %d",
            values=(
                "self.validRange.minClockMHz",
                "self.gpu.clocks.minMHz",
                "self.gpu.clocks.maxMHz",
            ),
            field_path=".validRange.minClockMHz",
            holds=lambda self: self.gpu.clocks.min_mhz <= self.valid_range.min_clock_mhz <= self.gpu.clocks.max_mhz,
            found=lambda self: (
                self.valid_range.min_clock_mhz,
                self.gpu.clocks.min_mhz,
                self.gpu.clocks.max_mhz,
            ),
        ),
    )
