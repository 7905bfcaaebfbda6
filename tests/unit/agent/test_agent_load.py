import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.agent.load import parse_engine_metrics
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.loadmeter import TIME_CONSTANT_S, EngineSample, LoadMeter

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-2-70b-chat-hf"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-2-70b-chat-hf"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.0021e+05
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 42000.0
vllm:request_prompt_tokens_sum{engine="0",model_name="m"} 7.0
"""


def test_what_vllm_says_is_read() -> None:
    assert parse_engine_metrics(VLLM) == EngineSample(tokens=142_210.0, waiting=3, running=12)


SGLANG = """\
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0"} 12.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0"} 3.0
sglang:num_used_tokens{model_name="m"} 99.0
sglang:prompt_tokens_total{model_name="m"} 1.0021e+05
sglang:generation_tokens_total{model_name="m"} 42000.0
"""
TENSORRT_LLM = """\
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 12.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 3.0
trtllm_num_requests_completed_total{engine_type="trtllm",model_name="m"} 99.0
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 1.0021e+05
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 42000.0
"""


@pytest.mark.parametrize("text", [SGLANG, TENSORRT_LLM])
def test_what_other_engines_say_is_read(text: str) -> None:
    assert parse_engine_metrics(text) == EngineSample(tokens=142_210.0, waiting=3, running=12)


def test_data_parallel_ranks_are_summed() -> None:
    twice = VLLM + VLLM.replace('engine="0"', 'engine="1"')
    assert parse_engine_metrics(twice) == EngineSample(tokens=284_420.0, waiting=6, running=24)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running 5",
        'vllm:num_requests_running{model_name="a} b",engine="0"} 5',
        "vllm:num_requests_running 5 1790000000000",
        "vllm:num_requests_running{}   5.0",
    ],
)
def test_labels_spaces_and_timestamps_are_tolerated(line: str) -> None:
    rest = "\n".join(row for row in VLLM.splitlines() if not row.startswith("vllm:num_requests_running"))
    assert parse_engine_metrics(f"{rest}\n{line}\n").running == 5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("vllm:num_requests_waiting{", "renamed{"),
        ("vllm:generation_tokens_total{", "renamed{"),
        ("} 12.0", "} NaN"),
        ("} 12.0", "} +Inf"),
        ("} 12.0", "} twelve"),
        (VLLM, ""),
        (VLLM, "<html>busy</html>"),
    ],
)
def test_what_is_missing_or_no_number_is_unknown_not_zero(before: str, after: str) -> None:
    with pytest.raises(UnknownDataError):
        parse_engine_metrics(VLLM.replace(before, after))


def sample(tokens: float) -> EngineSample:
    return EngineSample(tokens=tokens, waiting=1, running=2)


def test_one_reading_is_no_rate() -> None:
    load = LoadMeter().add(sample(500), now_s=0.0)
    assert (load.tokens_per_s, load.waiting, load.running) == (None, 1, 2)


@given(rate=st.floats(0.0, 1e5), steps=st.lists(st.floats(0.01, 60.0), min_size=1, max_size=30))
def test_a_constant_load_is_measured_exactly_from_the_second_reading_on(rate: float, steps: list[float]) -> None:
    meter, now_s = LoadMeter(), 100.0
    meter.add(sample(rate * now_s), now_s=now_s)
    for step in steps:
        now_s += step
        measured = meter.add(sample(rate * now_s), now_s=now_s).tokens_per_s
        assert measured == pytest.approx(rate, rel=1e-6, abs=1e-6)


def test_a_step_in_load_is_followed_with_the_time_constant() -> None:
    meter = LoadMeter()
    for now_s in range(0, 605, 5):
        meter.add(sample(0.0), now_s=float(now_s))
    rate = None
    for now_s in range(605, 605 + int(TIME_CONSTANT_S), 5):
        rate = meter.add(sample((now_s - 600) * 1000.0), now_s=float(now_s)).tokens_per_s
    assert rate == pytest.approx(1000.0 * (1 - math.exp(-1)), rel=0.1)


def test_a_restarted_engine_begins_anew() -> None:
    meter = LoadMeter()
    meter.add(sample(0), now_s=0.0)
    assert meter.add(sample(10_000), now_s=5.0).tokens_per_s == pytest.approx(2000.0)
    assert meter.add(sample(50), now_s=10.0).tokens_per_s is None
    assert meter.add(sample(550), now_s=15.0).tokens_per_s == pytest.approx(100.0)


def test_two_readings_at_one_instant_are_no_division_by_zero() -> None:
    meter = LoadMeter()
    meter.add(sample(0), now_s=1.0)
    assert meter.add(sample(10), now_s=1.0).tokens_per_s is None
