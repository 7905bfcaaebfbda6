"""`dynamollm plan`: what it answers."""

import re
from pathlib import Path
from typing import Any

import pytest

from dynamollm.core.plan_codec import decode
from unit.cli.command_world import CHAT, LOAD, PROFILE, Command, edited, question

PRICES = """
apiVersion: dynamollm.io/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec:
  gpuPriceMicroUSDPerHour: 2000000
  electricityPriceSchedule: [{fromHour: 0, microUSDPerKWh: 100000}, {fromHour: 12, microUSDPerKWh: 300000}]
  carbonIntensityGramsPerKWh: 250
"""


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command("plan", tmp_path, capsys, monkeypatch)


def test_the_load_is_planned_for_as_it_is_given(plan: Command) -> None:
    answer = plan.json(*question(plan))
    assert (answer["service"], answer["profile"]) == ("llm/chat", "h100-llama2-70b-vllm")
    assert sum(pool["ratePerSecond"] for pool in answer["pools"]) == pytest.approx(7.5)
    for pool in answer["pools"]:
        assert pool["capacityPerSecond"] >= pool["ratePerSecond"]
    groups = [group for pool in answer["pools"] for group in pool["groups"]]
    assert sum(group["tensorParallel"] * group["instances"] for group in groups) == answer["gpus"]
    assert answer["powerWatts"] == pytest.approx(sum(pool["powerWatts"] for pool in answer["pools"]), abs=1.0)
    assert answer["reason"] == "Initial"
    assert "requests/s" in answer["message"]


def test_every_class_with_load_gets_its_latency_within_the_slo(plan: Command) -> None:
    # By class: where the rule is over all requests together, one class may miss its own limit.
    answer = plan.json(*question(plan, service=edited(plan, slo={"rule": "PerClassPercentile"})))
    assert list(answer["latency"]) == ["SS", "MM", "LL"]
    for one in answer["latency"].values():
        for latency in ("ttft", "tbt"):
            expected = one[f"{latency}Milliseconds"]
            assert 0 < expected["p50"] <= expected["p99"] <= one["sloMilliseconds"][latency]


@pytest.mark.parametrize("policy", ["Joint", "DynamoLLM"])
def test_a_class_whose_slo_no_instance_keeps_is_listed_with_what_it_gets(plan: Command, policy: str) -> None:
    hopeless = edited(plan, policy=policy, slo={"ttftMilliseconds": {"short": 250, "medium": 40, "long": 2000}})
    answer = plan.json(*question(plan, service=hopeless))
    assert list(answer["latency"]) == ["SS", "MM", "LL"]
    assert [one["sloAttainable"] for one in answer["latency"].values()] == [True, False, True]
    got = answer["latency"]["MM"]["ttftMilliseconds"]
    assert 40 < got["p99"] < 1000
    assert 0 < got["p50"] < got["p99"]
    _, out, _ = plan.run(*question(plan, service=hopeless))
    assert "MM: SLO cannot be kept" in out
    assert "MM: no TP degree keeps it, not even for one request alone" in out
    assert "cannot be kept" not in plan.run(*question(plan))[1]


def test_cost_and_carbon_follow_the_prices_of_the_hour(plan: Command) -> None:
    policy = ("-f", plan.file("policy.yaml", PRICES))
    night = plan.json(*question(plan, *policy, "--at", "2026-01-01T03:00:00"))
    noon = plan.json(*question(plan, *policy, "--at", "2026-01-01T12:00:00"))
    kilowatts = night["powerWatts"] / 1e3
    assert night["usdPerHour"] == pytest.approx(0.1 * kilowatts + 2.0 * night["gpus"], abs=1e-3)
    assert noon["usdPerHour"] - night["usdPerHour"] == pytest.approx(0.2 * kilowatts, abs=1e-3)
    assert night["carbonGramsPerHour"] == pytest.approx(250 * kilowatts, abs=0.1)


def test_without_prices_cost_is_unknown_and_not_zero(plan: Command) -> None:
    answer = plan.json(*question(plan))
    assert (answer["usdPerHour"], answer["carbonGramsPerHour"], answer["priceMissing"]) == (None, None, None)
    wanted = plan.json(*question(plan, service=edited(plan, objective="Cost")))
    assert wanted["priceMissing"].startswith("spec.objective is Cost, and no price is known")


@pytest.mark.parametrize(
    ("left_out", "without", "words"),
    [
        ("gpuPrice", ["GPUs"], "USD/h, of electricity alone: gpuPriceMicroUSDPerHour is not set"),
        ("electricityPrice", ["electricity"], "of the price of GPUs alone: electricityPriceMicroUSDPerKWh is not set"),
        ("nothing", [], "USD/h "),
    ],
)
def test_a_cost_that_is_known_in_part_is_said_to_be(
    plan: Command, left_out: str, without: list[str], words: str
) -> None:
    prices = "\n".join(line for line in PRICES.splitlines() if left_out not in line)
    asked = question(plan, "-f", plan.file("policy.yaml", prices))
    assert plan.json(*asked)["usdPerHourWithout"] == without
    assert words in plan.run(*asked)[1]


def test_its_own_answer_is_a_plan_in_force_that_stays(plan: Command) -> None:
    first = plan.json(*question(plan))
    again = plan.json(*question(plan, "--current", plan.file("current.json", first)))
    assert again["reason"] == "Steady"
    assert [pool["groups"] for pool in again["pools"]] == [pool["groups"] for pool in first["pools"]]


def test_the_plan_is_one_that_the_operator_reads(plan: Command) -> None:
    answer = plan.json(*question(plan))
    assert decode(answer["plan"]).gpus == answer["gpus"]
    status = {"status": {"plan": answer["plan"]}}
    assert plan.json(*question(plan, "--current", plan.file("status.json", status)))["reason"] == "Steady"


def test_an_inventory_bounds_the_plan(plan: Command) -> None:
    wide = plan.json(*question(plan))
    assert wide["gpus"] > 4
    narrow = plan.json(*question(plan, "--inventory", plan.file("nodes.yaml", "nodes: [{gpus: 4}]")))
    assert narrow["gpus"] <= 4
    assert narrow["reason"] == "CapacityUnavailable"
    assert "of 4)" in narrow["binding"]
    assert "maxGPUs" not in narrow["binding"]


@pytest.mark.parametrize("nodes", ["nodes: [{gpus: 1, count: 16}]", "nodes: [{gpus: 8, free: 0}]"])
def test_no_instance_is_named_that_no_node_holds(plan: Command, nodes: str) -> None:
    asked = question(plan, "--inventory", plan.file("nodes.yaml", nodes))
    answer = plan.json(*asked)
    assert (answer["gpus"], [pool["groups"] for pool in answer["pools"]]) == (0, [[]])
    assert answer["binding"] == "GPUs on nodes for TP2 (2 of 0)"
    assert "GPUs on nodes for TP2 (2 of 0): not all of the load is carried" in plan.run(*asked)[1]


def test_the_limit_that_makes_a_plan_dearer_is_named(plan: Command) -> None:
    busy = LOAD.replace("rate_per_s: ", "rate_per_s: 1")
    free = plan.json(*question(plan, load=busy, service=edited(plan, policy="Joint")))
    assert free["binding"] is None
    tight = question(plan, load=busy, service=edited(plan, policy="Joint", limits={"maxGPUs": free["gpus"] - 1}))
    bound = plan.json(*tight)
    assert (bound["reason"], bound["gpus"] < free["gpus"]) == ("Initial", True)
    assert bound["powerWatts"] > free["powerWatts"]
    assert f"maxGPUs ({free['gpus']} of {free['gpus'] - 1})" in bound["binding"]
    assert bound["binding"] in plan.run(*tight)[1]


def test_what_a_pool_carries_that_gpus_cut_short_is_what_its_instances_carry(plan: Command) -> None:
    nodes = plan.file("nodes.yaml", "nodes: [{gpus: 8}]")
    busy = LOAD.replace("rate_per_s: ", "rate_per_s: 1")
    service = edited(plan, gpu={"tensorParallel": [8]})
    (pool,) = plan.json(*question(plan, "--inventory", nodes, load=busy, service=service))["pools"]
    assert [(group["tensorParallel"], group["instances"]) for group in pool["groups"]] == [(8, 1)]
    capacity = Command("capacity", plan.folder, plan.capture, plan.patch)
    alone = capacity.json(*question(plan, load=busy), "--tensor-parallel", "8", "--clock", "1980")
    each = next(one["ratePerSecond"] for one in alone["instances"] if one["order"] == "FirstComeFirstServed")
    # Less what is kept in reserve, if anything, and nothing more for the instances that it would need beside this one.
    assert 0.9 * each < pool["capacityPerSecond"] <= each


@pytest.mark.parametrize("policy", ["Joint", "DynamoLLM", "SinglePoolElastic", "ScaleInst", "SinglePool"])
def test_one_degree_alone_within_a_limit_that_binds(plan: Command, policy: str) -> None:
    changes = {"policy": policy, "gpu": {"tensorParallel": [8]}, "limits": {"maxGPUs": 8}}
    answer = plan.json(*question(plan, service=edited(plan, **changes)))
    assert (answer["gpus"], answer["reason"]) == (8, "CapacityUnavailable")


def test_nodes_as_kubectl_prints_them_with_what_pods_hold(plan: Command) -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        "status": {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "a", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}]},
        "status": {"phase": "Running"},
    }
    whole = plan.file("nodes.json", {"kind": "List", "items": [node]})
    shared = plan.file("shared.json", {"kind": "List", "items": [node, pod]})
    assert plan.json(*question(plan, "--inventory", whole))["gpus"] > 4
    assert plan.json(*question(plan, "--inventory", shared))["gpus"] == 4


def test_one_file_may_have_several_documents(plan: Command) -> None:
    bundle = plan.file("all.yaml", f"{CHAT.read_text()}\n---\n{PROFILE.read_text()}\n---\n{PRICES}")
    load = plan.file("load.yaml", LOAD)
    assert plan.json("-f", bundle, "--load", load)["usdPerHour"] is not None


def test_a_profile_of_ones_own_goes_before_the_shipped_one_of_its_name(plan: Command) -> None:
    common = ("-f", str(CHAT), "--load", plan.file("load.yaml", LOAD), "--at", "2026-01-01T00:00:00")
    assert plan.json(*common) == plan.json(*common, "-f", str(PROFILE))
    hungry = plan.file("own.yaml", PROFILE.read_text().replace("staticWatts: ", "staticWatts: 1"))
    assert plan.json(*common, "-f", hungry)["powerWatts"] > plan.json(*common)["powerWatts"]


def test_the_table_says_what_the_json_says(plan: Command) -> None:
    answer = plan.json(*question(plan))
    code, out, err = plan.run(*question(plan))
    assert (code, err) == (0, "")
    assert answer["message"] in out
    assert f"{answer['powerWatts'] / 1e3:.2f} kW" in out
    for pool in answer["pools"]:
        assert " ".join(pool["classes"]) in out
        for group in pool["groups"]:
            assert f"{group['instances']} × TP{group['tensorParallel']}" in out
            assert f"{group['clockMHz']} MHz" in out
    assert answer["runnerUp"] in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"the same pools, but \w+ on (\d×TP\d at \d+ MHz( \+ )?)+\. Not taken: it would use \d+ W \([\d.]+ %\) more\."),
        ({"objective": "Cost"}, r"[\w ]+ on \d×TP\d at \d+ MHz.*Not taken: it would \w+ [\d.]+ USD/h \([\d.]+ %\)"),
        ({"objective": "Carbon"}, r"Not taken: it would use \d+ g/h of CO2 equivalent \([\d.]+ %\) more\."),
        ({"policy": "SinglePool"}, r"none: no other plan was weighed"),
    ],
)  # fmt: skip
def test_the_runner_up_is_told_in_words(plan: Command, changes: dict[str, Any], words: str) -> None:
    asked = question(plan, "-f", plan.file("policy.yaml", PRICES), service=edited(plan, **changes))
    out = plan.run(*asked, "--at", "2026-01-01T00:00:00")[1]
    assert re.search(words, told(out)), told(out)
    answer = plan.json(*asked, "--at", "2026-01-01T00:00:00")["runnerUp"]
    assert answer is None or " ".join(answer.split()) == told(out)


def test_why_what_is_in_force_stays_is_told(plan: Command) -> None:
    first = plan.file(
        "current.json", plan.json(*question(plan, load=LOAD.replace("rate_per_s: 2.5", "rate_per_s: 3.2")))
    )
    out = plan.run(*question(plan, "--current", first))[1]
    assert re.search(
        r"it would save \d+ W .* more than 2 % \(behavior\.minSavingPercent\) at every load within 10 % of this one",
        told(out),
    ), told(out)


def test_what_comes_after_a_plan_in_force_is_not_of_the_minute_that_it_is_asked_in(plan: Command) -> None:
    busy = plan.json(*question(plan, "--at", "2026-01-01T00:00:00", load=LOAD.replace("2.5", "6.0")))
    asked = question(plan, "--current", plan.file("current.json", busy))
    soon, late = (plan.json(*asked, "--at", f"2026-01-01T00:{minute}:00") for minute in ("01", "59"))
    assert soon["gpus"] == late["gpus"] < busy["gpus"]
    assert soon["message"] == late["message"]


def test_the_runner_up_is_within_80_columns(plan: Command) -> None:
    plan.columns = 80
    _, out, _ = plan.run(*question(plan))
    assert max(map(len, out.splitlines())) <= 80
    assert "Not taken:" in told(out)


def told(out: str) -> str:
    """Return what a table says of the runner-up, in one line."""
    lines = out[out.index("runner-up") :].removeprefix("runner-up").splitlines()
    end = next(number for number, line in enumerate(lines) if number and not line.startswith(" "))
    return " ".join(" ".join(lines[:end]).split())


def test_where_gpus_are_short_that_is_what_binds(plan: Command) -> None:
    nodes = plan.file("nodes.yaml", "nodes: [{gpus: 8, free: 4, count: 1}]")
    code, out, _ = plan.run(*question(plan, "--inventory", nodes))
    assert code == 0
    assert "CapacityUnavailable" in out
    assert "no limit makes it dearer" not in out
    assert ": not all of the load is carried" in out
    # More than they carry: agents go to the safe clock.
    pools = plan.json(*question(plan, "--inventory", nodes))["pools"]
    assert {group["clockMHz"] for pool in pools for group in pool["groups"]} == {1980}
