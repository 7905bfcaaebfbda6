"""`dynamollm plan`: in what words it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unit.cli.command_world import CHAT, LOAD, PROFILE, Command, edited, question


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command("plan", tmp_path, capsys, monkeypatch)


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
    (
        "SS: {rate_per_s: 1e1, input_tokens: 5, output_tokens: 5}",
        "load.yaml: SS.rate_per_s is '1e1': give a number (YAML takes this for text: write 10.0)",
    ),
    ("SS: {rate_per_s: .inf, input_tokens: 5, output_tokens: 5}", "load.yaml: SS.rate_per_s is inf: give a number"),
    (
        f"SS: {{rate_per_s: 1{'0' * 400}, input_tokens: 5, output_tokens: 5}}",
        "load.yaml: SS.rate_per_s is inf: give a number",
    ),
    (
        "SS: {rate_per_s: 1.0e+9, input_tokens: 5, output_tokens: 5}",
        "load.yaml: SS.rate_per_s is 1e+09: give 1000000 requests per second or fewer",
    ),
    ("SS: {rate_per_s: 2026-13-45, input_tokens: 5}", "load.yaml: a value is none (month must be in 1..12): correct"),
    ("SS: \0", "load.yaml: not YAML, unacceptable character"),
    ("[" * 5000, "load.yaml: lists or maps are nested too deeply: give a manifest"),
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
    (
        "SS: {rate_per_s: 1, input_tokens: 5, output_tokens: 5}\nSS: {rate_per_s: 9, input_tokens: 5, output_tokens: 5}",
        "load.yaml:2:1: not YAML, SS is there twice: correct that line",
    ),
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
    ({"limits": {"maxGPUs": "8"}}, "spec.limits.maxGPUs is '8': input should be a valid integer"),
    (
        {"gpu": {"product": "NVIDIA-H100-80GB-HBM3", "tensorParallel": [2, 2]}},
        "spec.gpu.tensorParallel is [2, 2]: each value may be there once",
    ),
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
    (
        "nodes: [{gpus: 8, count: 1000000000}]",
        "nodes[0].count is 1000000000: give an integer of 1 or more, up to 100000",
    ),
    (
        "{kind: Node, metadata: {name: a, labels: [a]}}",
        "nodes.yaml:1: this Node is not what kubectl prints (AttributeError: 'list' object has no attribute 'get'): give",
    ),
    (
        """{kind: Node, metadata: {name: a, labels: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}},
            status: {allocatable: {nvidia.com/gpu: lots}}}""",
        "nodes.yaml:1: this Node is not what kubectl prints (ValueError: ",
    ),
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


def _first(field: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plan: plan["pools"][0]["groups"][0].update({field: value})


CONTRADICTIONS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (_first("tensorParallel", 3), "tensorParallel of groups[0] of pool"),
    (_first("instances", 10**9), "it has 1000000001 instances, and 100000 are the most"),
    (_first("clockMhz", 5), "clockMhz of groups[0] of pool"),
    (lambda plan: plan["pools"].append(plan["pools"][0]), "two pools have the name"),
    (
        lambda plan: plan["pools"].append(plan["pools"][0] | {"name": "other"}),
        "class SS is in two pools",
    ),
    (lambda plan: plan["pools"][0]["groups"].append(plan["pools"][0]["groups"][0]), "pool mm has two groups of TP"),
    (lambda plan: plan.update(version=7), "the stored plan has version 7, and this operator reads 1"),
    (lambda plan: plan.update(correction=0.5), "the stored plan's field correction is 0.5"),
]


def test_a_plan_in_force_must_be_one_and_fit_the_nodes(plan: Command) -> None:
    assert "is no plan" in plan.complaint(*question(plan, "--current", plan.file("current.json", {"pools": []})))
    first = plan.file("current.json", plan.json(*question(plan)))
    for changed, words in CONTRADICTIONS:
        document = json.loads(Path(first).read_text())
        changed(document["plan"])
        said = plan.complaint(*question(plan, "--current", plan.file("changed.json", document)))
        assert f"changed.json is no plan ({words}" in said
        assert "remove status.plan" not in said
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
