import csv
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import MODERN, PAPER, profile

from dynamollm.core.errors import OutOfRangeError
from lab.paths import REPOSITORY

DATA = REPOSITORY.parent / "shared/data/perf"
BOTH = pytest.mark.parametrize("name", [MODERN, PAPER])


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "prefill_ms", "decode_ms"),
    [(MODERN, 2, 124.0, 30.0), (MODERN, 4, 75.0, 18.0), (MODERN, 8, 51.0, 11.9), (PAPER, 4, 115.0, 32.6)],
)
def test_known_times_at_the_highest_clock(name: str, tensor_parallel: int, prefill_ms: float, decode_ms: float) -> None:
    at = {"tensor_parallel": tensor_parallel, "clock_mhz": 1980}
    assert profile(name).prefill_ms(tokens=1155, squared_tokens=1155**2, **at) == pytest.approx(prefill_ms, rel=0.01)
    assert profile(name).decode_ms(batch=16, context_tokens=16 * 1300, **at) == pytest.approx(decode_ms, rel=0.01)


@BOTH
@given(
    prompt=st.integers(0, 8192),
    batch=st.integers(0, 200),
    tensor_parallel=st.sampled_from([2, 4, 8]),
    clock=st.integers(0, 78),
)
def test_a_lower_clock_is_never_faster_and_never_draws_more(
    name: str, prompt: int, batch: int, tensor_parallel: int, clock: int
) -> None:
    if prompt + batch == 0:
        return
    high = 1980 - 15 * clock
    step = {
        "prompt_tokens": prompt,
        "prompt_squared_tokens": prompt**2,
        "batch": batch,
        "context_tokens": 800 * batch,
        "tensor_parallel": tensor_parallel,
    }
    fast, slow = (profile(name).step(clock_mhz=max(mhz, 810), **step) for mhz in (high, high - 300))
    assert slow.duration_ms >= fast.duration_ms > 0
    assert slow.power_w <= fast.power_w * 1.0001
    assert 0 < fast.power_w <= 700


@BOTH
@pytest.mark.parametrize(
    ("tensor_parallel", "clock_mhz", "told"), [(3, 1980, "tensor parallelism 3"), (4, 210, "SM clock 210 MHz")]
)
def test_outside_the_measured_range_the_axis_is_named(
    name: str, tensor_parallel: int, clock_mhz: int, told: str
) -> None:
    with pytest.raises(OutOfRangeError, match=told):
        profile(name).decode_ms(batch=1, context_tokens=1, tensor_parallel=tensor_parallel, clock_mhz=clock_mhz)


def test_what_the_weights_leave_is_kv_cache() -> None:
    capacities = [profile(MODERN).kv_capacity_tokens(tp) for tp in (2, 4, 8)]
    assert capacities[0] == pytest.approx(47_600, rel=0.01)
    assert capacities[1] - capacities[0] == pytest.approx(2 * 85e9 * 0.9 / 327_680, rel=0.01)
    assert capacities == sorted(capacities)


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        pytest.skip(f"{path} is not beside this checkout: it holds the measurements")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_modern_profile_is_as_close_to_its_measurements_as_it_says() -> None:
    errors = [
        abs(
            profile(MODERN).prefill_ms(
                tokens=int(row["batch"]) * int(row["isl"]),
                squared_tokens=int(row["batch"]) * int(row["isl"]) ** 2,
                tensor_parallel=int(row["tp"]),
                clock_mhz=1980,
            )
            / float(row["prefill_ms"])
            - 1
        )
        for row in rows(DATA / "aic_llama70b_bf16_h100_prefill.csv")
        if row["backend"] == "vllm" and row["tp"] in {"2", "4", "8"}
    ]
    assert statistics.mean(errors) <= 0.05
