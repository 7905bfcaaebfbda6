"""What one engine step takes and draws, by TP degree and SM clock: the performance model behind every decision.

Formulae and coefficients are those of ``docs/model.md``; `api.profile` holds the coefficients of one model on one GPU.
Times are of one step of one instance in ms, power is of one GPU in W, clocks are SM clocks in MHz.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from dynamollm.api.profile import DecodeCurve, PerformanceProfileSpec, PrefillCurve, RooflineLatency
from dynamollm.core.errors import InvalidInputError, OutOfRangeError

_CLOCKS_KEPT: Final = 512
"""Prepared (TP, clock) pairs that a profile remembers: more than three degrees × the H100's 119 clocks."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """One engine step."""

    duration_ms: float
    power_w: float
    """Of each GPU of the instance, while the step runs."""


class _Latency(Protocol):
    """Times at one TP degree and clock."""

    def prefill_ms(self, tokens: float, squared_tokens: float) -> float: ...

    def decode_ms(self, batch: float, context_tokens: float) -> float: ...

    def host_ms(self, batch: float) -> float: ...

    def coefficients(self) -> dict[str, float]: ...


class Profile:
    """The performance model of one model on one GPU under one engine; immutable, shared freely."""

    def __init__(self, *, name: str, spec: PerformanceProfileSpec) -> None:
        self.name = name
        self.gpu_product = spec.gpu.product
        self.model = spec.model.name
        self.tensor_parallel = tuple(sorted(spec.tensor_parallel))
        self.min_clock_mhz = spec.valid_range.min_clock_mhz
        self.max_clock_mhz = spec.gpu.clocks.max_mhz
        step_mhz = spec.gpu.clocks.step_mhz
        # From the top down: only supported clocks, whatever the lower end of the valid range is.
        self.clocks_mhz = tuple(
            sorted(range(self.max_clock_mhz, self.min_clock_mhz - 1, -step_mhz)),
        )
        self.startup_s = float(spec.startup_seconds)
        self.idle_w = float(spec.gpu.idle_watts)
        self.loaded_idle_w = float(spec.gpu.loaded_idle_watts)
        self.interleaves_prefill = spec.engine.era == "Modern"
        self.max_sequences = min(spec.engine.max_sequences, spec.valid_range.max_batch)
        self.max_batched_tokens = spec.engine.max_batched_tokens
        self.max_input_tokens = spec.valid_range.max_input_tokens
        self._spec = spec
        self._at = lru_cache(maxsize=_CLOCKS_KEPT)(self._prepare)

    @classmethod
    def from_spec(cls, spec: PerformanceProfileSpec, *, name: str = "") -> "Profile":
        """Return the model that a PerformanceProfile describes; ``name`` defaults to the model's."""
        return cls(name=name or spec.model.name, spec=spec)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but what it remembers."""
        return {name: value for name, value in vars(self).items() if name != "_at"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what was pickled."""
        vars(self).update(state)
        self._at = lru_cache(maxsize=_CLOCKS_KEPT)(self._prepare)

    def __repr__(self) -> str:
        """Return what tells profiles apart in a message."""
        return f"Profile({self.name!r}, TP {self.tensor_parallel})"

    def kv_capacity_tokens(self, tensor_parallel: int) -> int:
        """Return how many tokens fit into an instance's KV cache beside the weights; 0: not even the weights fit."""
        gpu, model = self._spec.gpu, self._spec.model
        usable = tensor_parallel * gpu.memory_gigabytes * 1e9 * self._spec.engine.gpu_memory_utilization_percent / 100
        weights = model.parameters_millions * 1e6 * model.weight_bytes_per_parameter
        return max(0, int((usable - weights) / model.kv_bytes_per_token))

    def prefill_ms(self, *, tokens: float, squared_tokens: float, tensor_parallel: int, clock_mhz: int) -> float:
        """Return the time of a step that prefills ``tokens`` prompt tokens in all; squared: Σ length² of the prompts."""
        return self._at(tensor_parallel, clock_mhz).prefill_ms(tokens, squared_tokens)

    def decode_ms(self, *, batch: float, context_tokens: float, tensor_parallel: int, clock_mhz: int) -> float:
        """Return the time of a decode step of ``batch`` sequences that hold ``context_tokens`` in all."""
        at = self._at(tensor_parallel, clock_mhz)
        return at.decode_ms(batch, context_tokens) + at.host_ms(batch)

    def step(
        self,
        *,
        prompt_tokens: float,
        prompt_squared_tokens: float,
        batch: float,
        context_tokens: float,
        tensor_parallel: int,
        clock_mhz: int,
    ) -> StepCost:
        """Return time and power of a step that prefills prompt tokens, decodes a batch, or does both.

        Args:
            prompt_tokens: prompt tokens prefilled in this step, over all prompts.
            prompt_squared_tokens: Σ ((start + n)² - start²) over the chunks, n tokens from ``start`` on.
            batch: sequences that decode one token each.
            context_tokens: tokens that these sequences hold in all.
            tensor_parallel: GPUs of the instance.
            clock_mhz: SM clock.

        Raises:
            OutOfRangeError: a TP degree or a clock that was not measured.
        """
        return self._at(tensor_parallel, clock_mhz).step(prompt_tokens, prompt_squared_tokens, batch, context_tokens)

    def coefficients(self, *, tensor_parallel: int, clock_mhz: int) -> dict[str, float]:
        """Return the numbers of the formulae at one TP degree and clock, by name: what a compiled form of them takes.

        Raises:
            OutOfRangeError: a TP degree or a clock that was not measured.
        """
        return self._at(tensor_parallel, clock_mhz).coefficients()

    def _prepare(self, tensor_parallel: int, clock_mhz: int) -> "_Prepared":
        if tensor_parallel not in self.tensor_parallel:
            raise OutOfRangeError(
                f"tensor parallelism {tensor_parallel} is outside profile {self.name}: it holds for "
                f"{', '.join(map(str, self.tensor_parallel))}"
            )
        if not self.min_clock_mhz <= clock_mhz <= self.max_clock_mhz:
            raise OutOfRangeError(
                f"SM clock {clock_mhz} MHz is outside profile {self.name}: it holds from {self.min_clock_mhz} to "
                f"{self.max_clock_mhz} MHz"
            )
        return _Prepared(self._spec, tensor_parallel, clock_mhz)


class _Prepared:
    """The model at one TP degree and clock, everything that does not depend on the step worked out."""

    __slots__ = (
        "_bytes_per_context",
        "_flops_per_square",
        "_flops_per_token",
        "_latency",
        "_on_chip",
        "_power",
        "_tensor",
        "_tree",
        "_volt",
        "_weights_bytes",
        "decode_ms",
        "host_ms",
        "prefill_ms",
    )

    def __init__(self, spec: PerformanceProfileSpec, tensor_parallel: int, clock_mhz: int) -> None:
        gpu, model, power = spec.gpu, spec.model, spec.power
        latency: _Latency = (
            _Roofline(spec, spec.latency.roofline, tensor_parallel, clock_mhz)
            if spec.latency.roofline
            else _Curves(spec, tensor_parallel, clock_mhz)
        )
        self._latency = latency
        self.prefill_ms, self.decode_ms, self.host_ms = latency.prefill_ms, latency.decode_ms, latency.host_ms
        # Per GPU and ms, as shares of its peaks: 1e-3 s per ms.
        per_gpu = 1.0 / tensor_parallel
        to_bandwidth = per_gpu / (gpu.memory_gigabytes_per_second * 1e9 * 1e-3)
        to_operations = per_gpu / (gpu.peak_teraflops * 1e12 * 1e-3)
        parameters = model.parameters_millions * 1e6
        self._weights_bytes = parameters * model.weight_bytes_per_parameter * to_bandwidth
        self._bytes_per_context = model.kv_bytes_per_token * to_bandwidth
        self._flops_per_token = 2 * parameters * to_operations
        self._flops_per_square = 2 * model.layers * model.hidden_size * to_operations
        ratio = clock_mhz / gpu.clocks.max_mhz
        self._volt = max(power.voltage_floor, 1 - power.voltage_slope * (1 - ratio)) ** 2
        self._on_chip, self._tensor = power.on_chip_memory_watts, power.tensor_watts
        self._tree = power.clock_watts * ratio
        self._power = (power.static_watts, power.hbm_watts, power.exponent, 1 / power.exponent, float(gpu.tdp_watts))

    def coefficients(self) -> dict[str, float]:
        static, hbm, exponent, inverse, limit = self._power
        return self._latency.coefficients() | {
            "weights_share": self._weights_bytes,
            "context_share": self._bytes_per_context,
            "token_share": self._flops_per_token,
            "square_share": self._flops_per_square,
            "volt": self._volt,
            "on_chip_w": self._on_chip,
            "tensor_w": self._tensor,
            "clock_w": self._tree,
            "static_w": static,
            "hbm_w": hbm,
            "power_exponent": exponent,
            "power_inverse": inverse,
            "limit_w": limit,
        }

    def step(self, prompt_tokens: float, squared: float, batch: float, context_tokens: float) -> StepCost:
        if prompt_tokens and batch:
            # The weights are read once for both: a prompt adds what it takes beyond a single token.
            duration = self.decode_ms(batch, context_tokens) + self.prefill_ms(prompt_tokens, squared)
            duration -= self.prefill_ms(1, 1)
        elif prompt_tokens:
            duration = self.prefill_ms(prompt_tokens, squared)
        else:
            duration = self.decode_ms(batch, context_tokens)
        duration += self.host_ms(batch)
        return StepCost(duration, self._power_w(duration, prompt_tokens, squared, batch, context_tokens))

    def _power_w(
        self, duration: float, prompt_tokens: float, squared: float, batch: float, context_tokens: float
    ) -> float:
        static, hbm, exponent, inverse, limit = self._power
        bandwidth = min(1.0, (self._weights_bytes + context_tokens * self._bytes_per_context) / duration)
        operations = ((prompt_tokens + batch) * self._flops_per_token + squared * self._flops_per_square) / duration
        memory, tensor = self._on_chip * bandwidth, self._tensor * min(1.0, operations)
        mixed: float = (memory**exponent + tensor**exponent) ** inverse
        return min(limit, static + hbm * bandwidth + self._volt * (mixed + self._tree))


class _Roofline:
    """Analytic latency: compute and memory time in a smooth maximum, attention, all-reduce, fixed times."""

    def __init__(
        self, spec: PerformanceProfileSpec, fit: RooflineLatency, tensor_parallel: int, clock_mhz: int
    ) -> None:
        gpu, model, scaling = spec.gpu, spec.model, spec.latency.clock_scaling
        slowdown = gpu.clocks.max_mhz / clock_mhz - 1
        # Compute ran at the power-capped reference when it was measured: a lock above it changes nothing.
        compute = max(1.0, scaling.compute_reference_mhz / clock_mhz)
        fixed = 1 + scaling.fixed * slowdown
        weights = 1 + scaling.weights * slowdown
        operations = gpu.peak_teraflops * 1e12 * tensor_parallel * 1e-3  # per ms
        bandwidth = gpu.memory_gigabytes_per_second * 1e9 * tensor_parallel * 1e-3
        parameters = model.parameters_millions * 1e6
        self._fixed = (fit.step_fixed_milliseconds + model.layers * fit.layer_fixed_microseconds * 1e-3) * fixed
        self._compute = compute * 2 * parameters / (fit.linear_efficiency * operations)
        self._memory = (
            weights * parameters * model.weight_bytes_per_parameter / (fit.weight_bandwidth_efficiency * bandwidth)
        )
        self._exponent, self._inverse = fit.smooth_maximum_exponent, 1 / fit.smooth_maximum_exponent
        self._memory_power = self._memory**self._exponent
        self._square = compute * 2 * model.layers * model.hidden_size / (fit.attention_efficiency * operations)
        self._context = (
            (1 + scaling.attention * slowdown) * model.kv_bytes_per_token / (fit.kv_bandwidth_efficiency * bandwidth)
        )
        self._reduce_fixed = self._reduce = 0.0
        if tensor_parallel > 1:
            share = 2 * (tensor_parallel - 1) / tensor_parallel
            link = 2 * gpu.nvlink_gigabytes_per_second * 1e9 * fit.nvlink_efficiency * 1e-3
            self._reduce_fixed = 2 * model.layers * fit.all_reduce_latency_microseconds * 1e-3 * fixed
            self._reduce = 2 * model.layers * model.hidden_size * 2 * share / link
        # Element-wise work streams through memory, as weights do.
        self._elementwise = weights * fit.elementwise_nanoseconds_per_token_layer * 1e-6 * model.layers
        self._elementwise *= model.hidden_size / 8192
        self._host = (fit.host_milliseconds, fit.host_microseconds_per_sequence * 1e-3, 1 + scaling.host * slowdown)

    def coefficients(self) -> dict[str, float]:
        fixed, per_sequence, factor = self._host
        return {
            "curves": 0.0,
            "fixed_ms": self._fixed + self._reduce_fixed,
            "compute_ms": self._compute,
            "memory_power": self._memory_power,
            "exponent": self._exponent,
            "inverse": self._inverse,
            "token_ms": self._reduce + self._elementwise,
            "square_ms": self._square,
            "context_ms": self._context,
            "host_ms": fixed * factor,
            "host_sequence_ms": per_sequence * factor,
        }

    def _common(self, tokens: float) -> float:
        both = ((self._compute * tokens) ** self._exponent + self._memory_power) ** self._inverse
        result: float = self._fixed + both + self._reduce_fixed + tokens * (self._reduce + self._elementwise)
        return result

    def prefill_ms(self, tokens: float, squared_tokens: float) -> float:
        return self._common(tokens) + squared_tokens * self._square

    def decode_ms(self, batch: float, context_tokens: float) -> float:
        return self._common(batch) + context_tokens * self._context

    def host_ms(self, batch: float) -> float:
        fixed, per_sequence, factor = self._host
        return (fixed + per_sequence * batch) * factor


class _Curves:
    """Fitted curves of one TP degree; the host's time is inside them."""

    def __init__(self, spec: PerformanceProfileSpec, tensor_parallel: int, clock_mhz: int) -> None:
        entries = spec.latency.per_tensor_parallel or ()
        entry = next((one for one in entries if one.tensor_parallel == tensor_parallel), None)
        if entry is None:
            raise InvalidInputError(
                f"latency.perTensorParallel has no entry for {tensor_parallel}: add one, or remove the degree from "
                "tensorParallel"
            )
        gpu, model, scaling = spec.gpu, spec.model, spec.latency.clock_scaling
        slowdown = gpu.clocks.max_mhz / clock_mhz - 1
        self._prefill: PrefillCurve = entry.prefill
        self._decode: DecodeCurve = entry.decode
        self._compute = max(1.0, scaling.compute_reference_mhz / clock_mhz)
        self._attention = 1 + scaling.attention * slowdown
        # Of the fixed time only reading the weights depends on the clock: the rest is the host's.
        weights_ms = (
            model.parameters_millions * 1e6 * model.weight_bytes_per_parameter
            / (gpu.memory_gigabytes_per_second * 1e9 * tensor_parallel)
            * 1e3
        )  # fmt: skip
        self._weights_ms = min(weights_ms, entry.decode.fixed_milliseconds) * scaling.weights * slowdown

    def coefficients(self) -> dict[str, float]:
        prefill, decode = self._prefill, self._decode
        return {
            "curves": 1.0,
            "prefill_fixed_ms": prefill.fixed_milliseconds + self._weights_ms,
            "prefill_floor_power": prefill.floor_milliseconds**prefill.floor_exponent,
            "exponent": prefill.floor_exponent,
            "inverse": 1 / prefill.floor_exponent,
            "short_ms": prefill.short_milliseconds_per_token * self._compute,
            "long_ms": prefill.long_milliseconds_per_token * self._compute,
            "transition_tokens": prefill.transition_tokens,
            "transition_width": prefill.transition_width_tokens,
            "decode_fixed_ms": decode.fixed_milliseconds + self._weights_ms,
            "decode_sequence_ms": decode.milliseconds_per_sequence * self._attention,
            "decode_square_ms": decode.milliseconds_per_sequence_squared * self._attention,
        }

    def prefill_ms(self, tokens: float, squared_tokens: float) -> float:
        curve = self._prefill
        # Prompts that run together are as long as their mean weighted by tokens: that is where the slope is taken.
        length = squared_tokens / tokens
        width = (length - curve.transition_tokens) / curve.transition_width_tokens
        long = 1 / (1 + math.exp(-max(-50.0, min(50.0, width))))
        slope = curve.short_milliseconds_per_token * (1 - long) + curve.long_milliseconds_per_token * long
        work: float = slope * tokens * self._compute
        exponent = curve.floor_exponent
        both: float = (curve.floor_milliseconds**exponent + work**exponent) ** (1 / exponent)
        return both + curve.fixed_milliseconds + self._weights_ms

    def decode_ms(self, batch: float, context_tokens: float) -> float:  # noqa: ARG002 - its effect is below 2 % up to 8192 tokens
        curve = self._decode
        growing = curve.milliseconds_per_sequence * batch + curve.milliseconds_per_sequence_squared * batch * batch
        return curve.fixed_milliseconds + self._weights_ms + growing * self._attention

    def host_ms(self, batch: float) -> float:  # noqa: ARG002 - the curves were measured end to end
        return 0.0
