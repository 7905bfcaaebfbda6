"""`dynamollm plan`: what it answers, and in what words it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamollm.core.plan_codec import decode
from unit.cli.command_world import CHAT, LOAD, PROFILE, Command

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


def question(plan: Command, *more: str, load: str = LOAD, service: Path | str = CHAT) -> tuple[str, ...]:
    return ("-f", str(service), "-f", str(PROFILE), "--load", plan.file("load.yaml", load), *more)


def edited(plan: Command, **changes: Any) -> str:
    manifest = yaml.safe_load(CHAT.read_text())
    for key, value in changes.items():
        if value is None:
            del manifest["spec"][key]
        elif isinstance(value, dict):
            manifest["spec"][key] = manifest["spec"].get(key, {}) | value
        else:
            manifest["spec"][key] = value
    return plan.file("service.yaml", yaml.safe_dump(manifest))


# ------------------------------------------------------------------ answers
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
    free = plan.json(*question(plan, service=edited(plan, policy="Joint")))
    assert free["binding"] is None
    tight = question(plan, service=edited(plan, policy="Joint", limits={"maxGPUs": free["gpus"] - 1}))
    bound = plan.json(*tight)
    assert bound["gpus"] < free["gpus"]
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
        "spec": {},
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
        "current.json", plan.json(*question(plan, load=LOAD.replace("rate_per_s: 2.5", "rate_per_s: 6.0")))
    )
    out = plan.run(*question(plan, "--current", first))[1]
    assert re.search(r"it would save \d+ W .* more than 10 % \(behavior\.tolerance\)", told(out)), told(out)


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


# ------------------------------------------------------------------ refusals
LOADS = [
    ("SX: {rate_per_s: 1}", "load.yaml: SX is no request class: use SS, SM, SL, MS, MM, ML, LS, LM, LL"),
    (
        "SS: {rate_per_s: -1, input_tokens: 5, output_tokens: 5}",
        "load.yaml: SS.rate_per_s is -1: give 0 or more requests per second",
    ),
    (
        "SS: {rate_per_s: 1.0e-300, input_tokens: 5, output_tokens: 5}",
        "load.yaml: SS.rate_per_s is 1e-300: give 0, or 1e-06 requests per second or more",
    ),
    ("SS: {rate_per_s: 1, input_tokens: 5}", "load.yaml: SS.output_tokens is missing: a load is class → rate_per_s"),
    ("SS: {rate_per_s: fast, input_tokens: 5, output_tokens: 5}", "load.yaml: SS.rate_per_s is 'fast': give a number"),
    ("SS: {rate_per_s: .inf, input_tokens: 5, output_tokens: 5}", "load.yaml: SS.rate_per_s is inf: give a number"),
    ("SS: {rate_per_s: 1, input_tokens: 0, output_tokens: 5}", "load.yaml: SS.input_tokens is 0: give the mean length"),
    ("SS: {rate: 1}", "load.yaml: SS.rate is no field: use rate_per_s, input_tokens, output_tokens"),
    (
        "SS: {rate_per_s: 1, input_tokens: 5, output_tokens: 5, brief_share: 1.5}",
        "load.yaml: SS.brief_share is 1.5: give the share of answers of 2 to 8 tokens, 0 to 1",
    ),
    (
        "SS: {rate_per_s: 1, input_tokens: 5, output_tokens: 5, brief_share: some}",
        "load.yaml: SS.brief_share is 'some': give a number",
    ),
    ("SS: 3", "load.yaml: SS is 3: give rate_per_s, input_tokens, output_tokens"),
    ("SS: {rate_per_s: 0, input_tokens: 5, output_tokens: 5}", "load.yaml: no class has a rate_per_s above 0"),
    ("[1, 2]", "load.yaml:1 is a list: --load takes a map class → rate_per_s"),
    ("kind: Deployment", "load.yaml:1 is a Deployment: --load takes a map class"),
    ("", "load.yaml has 0 documents: give a file with one"),
    ("SS: {rate_per_s: 1,\nMM: [", "load.yaml:2:6: not YAML, expected the node content"),
    (
        "SS: {rate_per_s: 1, input_tokens: 500, output_tokens: 50}",
        "SS.input_tokens is 500, and short inputs are below 256 tokens: make it class MS, or change spec.classes",
    ),
    (
        "LL: {rate_per_s: 1, input_tokens: 2000, output_tokens: 150}",
        "LL.output_tokens is 150, and long outputs are 350 tokens or more: make it class LM",
    ),
    (
        "LL: {rate_per_s: 1, input_tokens: 50000, output_tokens: 500}",
        "LL.input_tokens is 50000, and profile h100-llama2-70b-vllm was measured up to 8192 (validRange.maxInputTokens)",
    ),
]


@pytest.mark.parametrize(("load", "words"), LOADS, ids=lambda value: str(value)[:40])
def test_a_bad_load_is_refused(plan: Command, load: str, words: str) -> None:
    assert words in plan.complaint(*question(plan, load=load))


SERVICES: list[tuple[dict[str, Any], str]] = [
    ({"slo": None}, "service.yaml:1: spec.slo is missing: add it (docs/api.md)"),
    ({"policy": "Fastest"}, "service.yaml:1: spec.policy is 'Fastest': input should be"),
    ({"polcy": "SinglePool"}, "service.yaml:1: spec.polcy is no field: remove it, or see docs/api.md"),
    ({"limits": {"maxGPUs": 0}}, "spec.limits.maxGPUs is 0: input should be greater than or equal to 1"),
    (
        {"profileRef": {"name": "h200"}},
        "spec.profileRef.name is h200, and no -f has a PerformanceProfile of that name: give it with -f, or name one",
    ),
    (
        {"model": {"name": "m"}},
        "spec.model.name is m, and PerformanceProfile h100-llama2-70b-vllm was measured with meta",
    ),
    (
        {"gpu": {"tensorParallel": [4, 1]}},
        "spec.gpu.tensorParallel has 1, and PerformanceProfile h100-llama2-70b-vllm holds",
    ),
    ({"gpu": {"tensorParallel": [2, 3]}}, "service.yaml:1: gpu.tensorParallel [3] does not divide gpu.perNode 8: use"),
    ({"pins": {"tensorParallel": 1}}, "service.yaml:1: pins.tensorParallel 1 is none of gpu.tensorParallel [2, 4, 8]"),
    ({"pins": {"clockMHz": 1201}}, "spec.pins.clockMHz is 1201, and PerformanceProfile h100-llama2-70b-vllm holds for"),
]


@pytest.mark.parametrize(("changes", "words"), SERVICES, ids=lambda value: str(value)[:40])
def test_a_bad_service_is_refused(plan: Command, changes: dict[str, Any], words: str) -> None:
    assert words in plan.complaint(*question(plan, service=edited(plan, **changes)))


def test_files_that_are_not_there_or_not_what_is_asked_for(plan: Command) -> None:
    load = plan.file("load.yaml", LOAD)
    assert "nowhere.yaml: No such file" in plan.complaint("-f", "nowhere.yaml", "--load", load)
    assert plan.complaint("-f", str(PROFILE), "--load", load) == (
        "-f has PerformanceProfile, and not an InferenceService: give its manifest with -f"
    )
    assert "-f has 2 InferenceServices (chat in" in plan.complaint("-f", str(CHAT), "-f", str(CHAT), "--load", load)
    assert "not the InferenceService code (--service)" in plan.complaint(
        "-f", str(CHAT), "--load", load, "--service", "code"
    ).replace("and not", "not")
    assert "metadata.name 7b names a Service and Deployments: use at most 40" in plan.complaint(
        "-f", plan.file("name.yaml", CHAT.read_text().replace("name: chat,", "name: 7b,")), "--load", load
    )
    assert "apiVersion is 'v1': this version reads dynamollm.io/v1alpha1" in plan.complaint(
        "-f", plan.file("old.yaml", "{apiVersion: v1, kind: InferenceService, metadata: {name: a}}"), "--load", load
    )


INVENTORIES = [
    ("nodes: []", "nodes.yaml: nodes is []: give `kubectl get nodes -o yaml`"),
    ("nodes: [{gpus: 0}]", "nodes[0].gpus is 0: give an integer of 1 or more"),
    ("nodes: [{gpus: 8, free: 9}]", "nodes[0].free is 9, and the node has 8 GPUs"),
    ("nodes: [{cards: 8}]", "nodes[0].cards is no field: use name, gpus, free, count"),
    ("{kind: Pod}", "nodes.yaml has Pod, and no Node: give"),
    (
        "{kind: Node, metadata: {name: a}}",
        "has 1 node, and none with label nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3",
    ),
]


@pytest.mark.parametrize(("nodes", "words"), INVENTORIES, ids=lambda value: str(value)[:40])
def test_a_bad_inventory_is_refused(plan: Command, nodes: str, words: str) -> None:
    assert words in plan.complaint(*question(plan, "--inventory", plan.file("nodes.yaml", nodes)))


def test_a_plan_in_force_must_be_one_and_fit_the_nodes(plan: Command) -> None:
    assert "is no plan" in plan.complaint(*question(plan, "--current", plan.file("current.json", {"pools": []})))
    first = plan.file("current.json", plan.json(*question(plan)))
    few = plan.file("nodes.yaml", "nodes: [{gpus: 2}]")
    assert "do not fit into the inventory" in plan.complaint(*question(plan, "--current", first, "--inventory", few))


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [
        ("[{gpus: 8, free: 0}]", "8 → 8"),  # what is not free is the plan's
        ("[{gpus: 8, free: 0}, {gpus: 8, free: 8}]", "8 → 8"),
        ("[{gpus: 8}]", "8 → 8"),  # only how many there are is told
    ],
)
def test_a_plan_in_force_holds_what_is_not_free_and_keeps_it(plan: Command, nodes: str, gpus: str) -> None:
    service = edited(plan, pins={"tensorParallel": 8, "instances": 1})
    first = plan.file("current.json", plan.json(*question(plan, service=service)))
    inventory = plan.file("nodes.yaml", f"nodes: {nodes}")
    code, out, err = plan.run(*question(plan, "--current", first, "--inventory", inventory, service=service))
    assert (code, err) == (0, "")
    assert gpus in out


def test_what_is_free_and_what_a_plan_in_force_holds_must_not_contradict_each_other(plan: Command) -> None:
    service = edited(plan, pins={"tensorParallel": 8, "instances": 1})
    first = plan.file("current.json", plan.json(*question(plan, service=service)))
    half = plan.file("nodes.yaml", "nodes: [{gpus: 8, free: 4}]")
    said = plan.complaint(*question(plan, "--current", first, "--inventory", half, service=service))
    assert said.startswith("the plan in force holds 8 GPUs, and its TP8 instances do not fit into the inventory: ")
    assert "no node has more than 4 GPUs that are not free (gpus less free), or 4 that are; correct these" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing option '-f' / '--file'."),
        (("--output", "yaml"), "'yaml': use one of table, json."),
        (("--nothing",), "No such option"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_too(plan: Command, arguments: tuple[str, ...], words: str) -> None:
    said = plan.complaint(*arguments)
    assert said.startswith("dynamollm plan: ")
    assert words in said
    assert said.endswith("See dynamollm plan --help.")


def test_help_is_no_error(plan: Command) -> None:
    code, out, err = plan.run("--help")
    assert (code, err) == (0, "")
    assert "--load" in out


def test_where_gpus_are_short_that_is_what_binds(plan: Command) -> None:
    nodes = plan.file("nodes.yaml", "nodes: [{gpus: 8, free: 4, count: 1}]")
    code, out, _ = plan.run(*question(plan, "--inventory", nodes))
    assert code == 0
    assert "CapacityUnavailable" in out
    assert "no limit makes it dearer" not in out
    assert ": not all of the load is carried" in out
