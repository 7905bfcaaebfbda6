import timeit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynamollm.engine.metrics import EngineMetrics, Histogram


def test_the_exposition_is_what_prometheus_reads() -> None:
    metrics = EngineMetrics(model='a"b\\c')
    metrics.running, metrics.waiting, metrics.kv_usage = 3, 2, 0.25
    metrics.prompt_tokens, metrics.generation_tokens = 100, 40
    metrics.finished["stop"] = 4
    metrics.ttft_s.observe(0.3)
    families = {family.name: family for family in text_string_to_metric_families(metrics.render())}
    labels = {"model_name": 'a"b\\c', "engine": "0"}
    assert families["vllm:num_requests_running"].samples[0].value == 3
    assert all(labels.items() <= sample.labels.items() for family in families.values() for sample in family.samples)
    success = {sample.labels["finished_reason"]: sample.value for sample in families["vllm:request_success"].samples}
    assert success == {"stop": 4, "length": 0, "abort": 0}
    assert {name for name, family in families.items() if family.type == "histogram"} == {
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
    }


def test_buckets_are_cumulative_and_bounds_inclusive() -> None:
    histogram = Histogram("h", "text", (1.0, 2.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.5, 3), (9.0, 4)):
        histogram.observe(value, times)
    (family,) = text_string_to_metric_families(histogram.render('a="b"'))
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in family.samples] == [
        ("h_bucket", "1.0", 3),
        ("h_bucket", "2.0", 6),
        ("h_bucket", "+Inf", 10),
        ("h_sum", None, pytest.approx(0.5 + 2 + 4.5 + 36)),
        ("h_count", None, 10),
    ]


def test_rendering_is_cheap() -> None:
    # Scraped several times a second in a dozen processes: far below a millisecond each, with room for a busy machine.
    metrics = EngineMetrics(model="m")
    assert min(timeit.repeat(metrics.render, number=10, repeat=5)) / 10 < 0.005
