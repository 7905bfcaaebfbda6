"""Make manifests/profiles/*.yaml from the coefficients in ../shared/data/h100_llama70b_model.json.

Run `.venv/bin/python hack/make_profiles.py` from the root. The coefficients are fits of this project to published
measurements; the JSON has formulae, errors and sources in full, the profiles what a plan needs of them.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from dynamollm.api.names import GROUP, VERSION
from dynamollm.api.profile import (
    ClockRange,
    ClockScaling,
    DecodeCurve,
    FitError,
    LatencyModel,
    PerformanceProfileSpec,
    PowerModel,
    PrefillCurve,
    ProfileEngine,
    ProfileGpu,
    ProfileModel,
    Provenance,
    RooflineLatency,
    TensorParallelLatency,
    ValidRange,
)

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT.parent / "shared" / "data" / "h100_llama70b_model.json"
PROFILES: Final = ROOT / "manifests" / "profiles"

MEMORY_GIGABYTES: Final = 85
"""Of the 80 GB HBM3 variant: nvidia-smi shows 81559 MiB."""
MIN_SUPPORTED_MHZ: Final = 210
"""Lowest of the H100's supported clocks."""
STARTUP_SECONDS: Final = 120
STARTUP_NOTE: Final = (
    "startupSeconds is chosen, not measured: 137 GB of weights from a node-local disk at about 2 GB/s, and the engine's"
    " own start; a cold start that downloads the weights takes 6-8 min (DynamoLLM, HPCA 2025)"
)
TENSOR_PARALLEL: Final = (2, 4, 8)
"""At TP 1 the weights do not fit."""
LONGEST_INPUT_TOKENS: Final = 8192
"""Both sets of measurements end here."""
MODERN_STEP_TOKENS: Final = 1024
"""Budget of a step, chosen: with vLLM's 8192 nearly every prompt fits into one step, and no order of service can put a short
one ahead of what is under way. One TP4 instance at 1200 MHz carries of the 2023 conversations, by the rule PerRequest: first
come first served 2.4 requests/s with either budget; earliest deadline first 2.4 with 8192, 4.9 with 2048, 7.1 with 1024, 6.2
with 512 (compiled engine, 8,000 requests)."""
CLOCK_NOTES: Final = (
    (
        "latency over clock rests on GEMM kernels at 1005-1980 MHz: reading weights is measured, KV cache and fixed"
        " overheads are assumed; below 1005 MHz extrapolated"
    ),
    "power was fitted to GEMM sweeps over clocks and to steady decoding at the default clock; 70B at TP 4 only",
    STARTUP_NOTE,
)
LARGEST_BATCH: Final = {"modern": 256, "paper": 64}
"""Of the decode measurements, sequences."""


def profiles(data: Mapping[str, Any]) -> dict[str, PerformanceProfileSpec]:
    """Return the profiles by name, from the parsed JSON."""
    fits = data["latency"]["profiles"]
    return {
        "h100-llama2-70b-vllm": _profile(
            data,
            engine=ProfileEngine(version="0.24.0", era="Modern", max_batched_tokens=MODERN_STEP_TOKENS),
            latency=LatencyModel(
                roofline=_roofline(fits["modern_vllm"]), clock_scaling=_clock_scaling(data["frequency"])
            ),
            max_batch=LARGEST_BATCH["modern"],
            source=(
                "NVIDIA aiconfigurator-core 0.12.0 (Apache-2.0), H100 SXM kernel measurements, Llama-3.1-70B bf16;"
                " power: ML.ENERGY benchmark v3 (Apache-2.0) and cuBLAS clock sweeps"
            ),
            prefill_error=fits["modern_vllm"]["fit_error"]["prefill_mape"],
            decode_error=fits["modern_vllm"]["fit_error"]["decode_mape"],
        ),
        "h100-llama2-70b-vllm2023": _profile(
            data,
            engine=ProfileEngine(version="2023", era="PaperEra"),
            latency=LatencyModel(
                per_tensor_parallel=tuple(
                    _curves(fits["vllm2023_paper_era"]["coef"][f"tp{degree}"], tensor_parallel=degree)
                    for degree in TENSOR_PARALLEL
                ),
                clock_scaling=_clock_scaling(data["frequency"]),
            ),
            max_batch=LARGEST_BATCH["paper"],
            source=(
                "Splitwise (ISCA 2024, Mutinifni/splitwise-sim, MIT), Llama-2-70B fp16 on DGX H100;"
                " power: ML.ENERGY benchmark v3 (Apache-2.0) and cuBLAS clock sweeps"
            ),
            prefill_error=_worst_holdout(fits["vllm2023_paper_era"], "prefill"),
            decode_error=_worst_holdout(fits["vllm2023_paper_era"], "decode"),
        ),
    }


def _profile(
    data: Mapping[str, Any],
    *,
    engine: ProfileEngine,
    latency: LatencyModel,
    max_batch: int,
    source: str,
    prefill_error: float,
    decode_error: float,
) -> PerformanceProfileSpec:
    hardware, model = data["hardware"], data["model_llama70b"]
    return PerformanceProfileSpec(
        gpu=ProfileGpu(
            product="NVIDIA-H100-80GB-HBM3",
            memory_gigabytes=MEMORY_GIGABYTES,
            memory_gigabytes_per_second=round(hardware["hbm_bw"] / 1e9),
            peak_teraflops=round(hardware["peak_bf16_flops"] / 1e12),
            nvlink_gigabytes_per_second=round(hardware["nvlink_bw_per_dir"] / 1e9),
            tdp_watts=hardware["tdp_w"],
            idle_watts=data["power"]["idle"]["bare_idle_345MHz_w"],
            loaded_idle_watts=data["power"]["idle"]["context_loaded_w"],
            clocks=ClockRange(
                min_mhz=MIN_SUPPORTED_MHZ, max_mhz=hardware["f_max_mhz"], step_mhz=hardware["f_step_mhz"]
            ),
        ),
        model=ProfileModel(
            name="meta-llama/Llama-2-70b-chat-hf",
            parameters_millions=round(model["llama2-70b"] / 1e6),
            layers=model["layers"],
            hidden_size=model["d_model"],
            kv_bytes_per_token=model["kv_bytes_per_token"],
            weight_bytes_per_parameter=model["weight_bytes_per_param"],
        ),
        engine=engine,
        tensor_parallel=TENSOR_PARALLEL,
        startup_seconds=STARTUP_SECONDS,
        latency=latency,
        power=_power(data["power"]["coef"]),
        valid_range=ValidRange(
            min_clock_mhz=hardware["f_min_useful_mhz"],
            max_input_tokens=LONGEST_INPUT_TOKENS,
            max_batch=max_batch,
        ),
        provenance=Provenance(
            source=source,
            notes=CLOCK_NOTES,
            fit_error=FitError(
                prefill_percent=round(prefill_error, 1),
                decode_percent=round(decode_error, 1),
                power_percent=data["power"]["fit_error"]["mlenergy_bf16"]["mape"],
            ),
        ),
    )


def _roofline(fit: Mapping[str, Any]) -> RooflineLatency:
    coefficients = fit["coef"]
    return RooflineLatency(
        linear_efficiency=coefficients["eta_lin"],
        attention_efficiency=coefficients["eta_attn"],
        weight_bandwidth_efficiency=coefficients["eta_bw"],
        kv_bandwidth_efficiency=coefficients["eta_kv"],
        nvlink_efficiency=coefficients["eta_nv"],
        all_reduce_latency_microseconds=coefficients["ar_lat_us"],
        elementwise_nanoseconds_per_token_layer=coefficients["ew_ns_per_token_layer"],
        layer_fixed_microseconds=coefficients["layer_fixed_us"],
        step_fixed_milliseconds=coefficients["t0_ms"],
        smooth_maximum_exponent=coefficients["p"],
        host_milliseconds=fit["host_ms"],
        host_microseconds_per_sequence=fit["per_seq_us"],
    )


def _curves(fit: Mapping[str, Any], *, tensor_parallel: int) -> TensorParallelLatency:
    prefill, decode = fit["prefill"], fit["decode"]
    return TensorParallelLatency(
        tensor_parallel=tensor_parallel,
        prefill=PrefillCurve(
            floor_milliseconds=prefill["tmin_ms"],
            short_milliseconds_per_token=prefill["s1_ms_per_tok"],
            long_milliseconds_per_token=prefill["s2_ms_per_tok"],
            fixed_milliseconds=prefill["c_ms"],
        ),
        decode=DecodeCurve(
            fixed_milliseconds=decode["a_ms"],
            milliseconds_per_sequence=decode["b_ms_per_seq"],
            milliseconds_per_sequence_squared=decode["c_ms_per_seq2"],
        ),
    )


def _clock_scaling(frequency: Mapping[str, Any]) -> ClockScaling:
    # The reference clock and kappa_w stand in the JSON's prose only.
    compute_reference_mhz, weights = 1500, 0.075
    assert f"f_ref={compute_reference_mhz} MHz" in frequency["compute_part"]  # noqa: S101 - a script's own sanity
    assert f"kappa_w={weights}" in frequency["memory_part"]  # noqa: S101 - as above
    return ClockScaling(
        compute_reference_mhz=compute_reference_mhz,
        weights=weights,
        attention=frequency["kappa_kv_attention"],
        fixed=frequency["kappa_fixed_overhead"],
        host=frequency["kappa_host"],
    )


def _power(coefficients: Mapping[str, float]) -> PowerModel:
    return PowerModel(
        static_watts=coefficients["P0_static"],
        hbm_watts=coefficients["Ph_hbm"],
        on_chip_memory_watts=coefficients["km_onchip"],
        tensor_watts=coefficients["kc_tensor"],
        clock_watts=coefficients["kb_clock"],
        voltage_slope=coefficients["s_volt"],
        voltage_floor=coefficients["vmin"],
        exponent=coefficients["q"],
    )


def _worst_holdout(fit: Mapping[str, Any], phase: str) -> float:
    return max(float(curves[phase]["holdout_mape"]) for curves in fit["coef"].values())


def render(name: str, spec: PerformanceProfileSpec) -> str:
    """Return the manifest of a PerformanceProfile."""
    manifest = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PerformanceProfile",
        "metadata": {"name": name},
        "spec": spec.to_resource(),
    }
    body = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=120)
    return f"# Made by hack/make_profiles.py; provenance is in the spec.\n{body}"


def main() -> None:
    """Write every profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="coefficients (JSON)")
    parser.add_argument("--out", type=Path, default=PROFILES, help="folder for the manifests")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, spec in profiles(json.loads(arguments.source.read_text())).items():
        path = arguments.out / f"{name}.yaml"
        path.write_text(render(name, spec))
        print(path)


if __name__ == "__main__":
    main()
