import json
import subprocess
import sys
from pathlib import Path

import pytest

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)
HEADER = "arrival_s,input_tokens,output_tokens\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(HEADER + "".join(f"{k / 5},{100 + 37 * (k % 60)},{20 + 11 * (k % 40)}\n" for k in range(3000)))
    return path


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("dynamollm")), "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)


def test_json_has_what_the_interface_promises(trace: Path) -> None:
    done = simulate("--trace", str(trace), "--policy", "SinglePool,DynamoLLM", "--servers", "2", "--output", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["trace"], document["profile"], document["slo_rule"]) == ("own.csv", "modern", "att")
    assert [(one["policy"], one["order"]) for one in document["results"]] == [
        ("SinglePool", "fcfs"),
        ("DynamoLLM", "fcfs"),
    ]
    for one in document["results"]:
        assert one["requests"] == 3000
        assert one["energy_kwh"] > 0
        assert one["cost_usd"] > 0
        assert one["carbon_kg"] > 0
        assert set(one["power_w"]) == {"p50", "p99"}
        assert 0 <= one["slo_attainment"]["total"] <= 1
        assert set(one["slo_attainment"]["by_class"]) == set(one["ttft_ms"]) == set(one["tbt_ms"])
        assert all(set(quantiles) == {"p50", "p90", "p99"} for quantiles in one["ttft_ms"].values())
        assert {"gpu_hours", "servers", "reconfigurations", "wall_seconds", "meets_slo"} <= set(one)


def test_a_cost_without_a_price_of_gpus_is_said_to_be(trace: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "{apiVersion: dynamollm.io/v1alpha1, kind: ClusterPolicy, metadata: {name: default}, "
        "spec: {electricityPriceMicroUSDPerKWh: 100000}}"
    )
    asked = ("--trace", str(trace), "--policy", "Joint", "--servers", "2", "--resume", str(tmp_path / "answers"))
    answers = [
        json.loads(simulate(*asked, *more, "--output", "json").stdout) for more in ((), ("--prices", str(prices)))
    ]
    assert [one["cost_without"] for one in answers] == [[], ["GPUs"]]
    assert answers[1]["results"][0]["cost_usd"] == pytest.approx(0.1 * answers[1]["results"][0]["energy_kwh"])
    report = tmp_path / "report.html"
    table = simulate(*asked, "--prices", str(prices), "--report", str(report)).stdout
    note = "The cost leaves GPUs out: gpuPriceMicroUSDPerHour is not set in --prices."
    assert note in table
    assert note in report.read_text()
    assert note not in simulate(*asked).stdout


def test_names_may_be_in_any_letter_case(trace: Path) -> None:
    names = ("--policy", "joint", "--order", "EDF", "--slo-rule", "ATT", "--sweep", "Overheads=Cold")
    done = simulate("--trace", str(trace), "--servers", "2", "--output", "json", *names)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (one,) = document["results"]
    assert (one["policy"], one["order"], document["slo_rule"]) == ("Joint", "edf", "att")
    assert one["settings"] == {"overheads": "cold"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "{trace}:requests"), "no column requests"),
        (("--trace", "{trace}", "--policy", "Best"), "--policy 'Best': use one of all, SinglePool"),
        (("--trace", "{trace}", "--policy", "SinglePool,joit"), "--policy 'joit': did you mean Joint? Use one of all"),
        (("--trace", "{trace}", "--order", "lifo"), "--order 'lifo': use one of fcfs, edf"),
        (("--trace", "{trace}", "--slo-rule", "p90"), "'--slo-rule': 'p90': did you mean p99? Use one of att, x5, p99"),
        (
            ("--trace", "{trace}", "--sweep", "lod=2"),
            "--sweep lod=2: name 'lod': did you mean load? Use one of accuracy",
        ),
        (("--trace", "{trace}", "--profile", "{trace}"), "PerformanceProfile"),
        (("--trace", "{trace}", "--servers", "none"), "--servers none"),
        (("--trace", "{trace}", "--scale", "0"), "scale"),
        (("--trace", "{trace}", "--scale", "1e-9"), "no requests"),
        (("--trace", "{trace}", "--service", "nowhere.yaml"), "nowhere.yaml"),
        (("--trace", "{trace}", "--prices", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trace: Path, arguments: tuple[str, ...], says: str) -> None:
    done = simulate(*(argument.format(trace=trace) for argument in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
