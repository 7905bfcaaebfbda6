import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import make_profiles
from dynamollm.api.profile import PerformanceProfileSpec

NAMES = ("h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023")


def shipped(name: str) -> PerformanceProfileSpec:
    manifest = yaml.safe_load((make_profiles.PROFILES / f"{name}.yaml").read_text())
    return PerformanceProfileSpec.model_validate(manifest["spec"])


@pytest.mark.skipif(not make_profiles.SOURCE.exists(), reason=f"{make_profiles.SOURCE} is absent")
def test_regenerating_gives_the_committed_profiles() -> None:
    made = make_profiles.profiles(json.loads(make_profiles.SOURCE.read_text()))
    assert {path.stem for path in make_profiles.PROFILES.glob("*.yaml")} == set(made)
    for name, spec in made.items():
        committed = (make_profiles.PROFILES / f"{name}.yaml").read_text()
        assert committed == make_profiles.render(name, spec), "run hack/make_profiles.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_holds_one_shape_of_latency_and_its_sources(name: str) -> None:
    spec = shipped(name)
    assert (spec.latency.roofline is None) != (spec.latency.per_tensor_parallel is None)
    assert spec.provenance.source
    assert spec.provenance.fit_error.power_percent == 6.6
    assert any("startupSeconds" in note for note in spec.provenance.notes)


def test_the_modern_engine_mixes_prompts_and_decoding_and_the_one_of_2023_does_not() -> None:
    assert [shipped(name).engine.era for name in NAMES] == ["Modern", "PaperEra"]


def test_the_weights_fit_on_the_smallest_instance_with_room_for_a_batch_of_prompts() -> None:
    spec = shipped("h100-llama2-70b-vllm")
    usable = (
        spec.gpu.memory_gigabytes * 1e9 * min(spec.tensor_parallel) * spec.engine.gpu_memory_utilization_percent / 100
    )
    weights = spec.model.parameters_millions * 1e6 * spec.model.weight_bytes_per_parameter
    tokens = (usable - weights) / spec.model.kv_bytes_per_token
    assert tokens > 2 * spec.valid_range.max_input_tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_and_a_json_round_trip_change_nothing(name: str) -> None:
    spec = shipped(name)
    # JSON does not tell 3000.0 from 3000: a float may come back as an integer.
    text = json.dumps(spec.to_resource()).replace(".0,", ",").replace(".0}", "}")
    assert PerformanceProfileSpec.model_validate(json.loads(text)) == spec


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tensorParallel": []}, "tensorParallel"),
        ({"startupSeconds": -1}, "startupSeconds"),
        ({"unknown": 1}, "unknown"),
        ({"validRange": {"minClockMHz": 800, "maxInputTokens": 0, "maxBatch": 1}}, "maxInputTokens"),
    ],
)
def test_a_bound_is_kept_and_names_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        PerformanceProfileSpec.model_validate(shipped("h100-llama2-70b-vllm").to_resource() | change)


def test_the_script_writes_every_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not make_profiles.SOURCE.exists():
        pytest.skip(f"{make_profiles.SOURCE} is absent")
    monkeypatch.setattr("sys.argv", ["make_profiles.py", "--out", str(tmp_path)])
    make_profiles.main()
    assert {path.stem for path in tmp_path.iterdir()} == set(NAMES)
