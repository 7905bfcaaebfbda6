"""The CEL rules in crds/*.yaml as cases: changes that they accept, and changes that they refuse with what message."""

from collections.abc import Iterator

from integration.crd_bounds import fields, schemas
from integration.crd_objects import PER_TENSOR_PARALLEL
from integration.crd_rule_case import RuleCase, name, spec
from integration.crd_rules_pods import POD_RULE_CASES

PEAK_PRICE = {"fromHour": 17, "microUSDPerKWh": 300_000}
NIGHT_INTENSITY = {"fromHour": 22, "gramsPerKWh": 310}


def boundaries(length: str) -> RuleCase:
    return RuleCase(
        kind="InferenceService",
        field=f"spec.classes.{length}",
        message=f"classes.{length}.short must be below classes.{length}.medium",
        accepted=(spec(classes={length: {"short": 300, "medium": 301}}),),
        rejected=(
            (
                spec(classes={length: {"short": 300, "medium": 300}}),
                f"classes.{length}.short 300 must be below classes.{length}.medium 300",
            ),
            (
                # Only one given: the other is the default.
                spec(classes={length: {"short": 5000}}),
                f"classes.{length}.short 5000 must be below classes.{length}.medium",
            ),
        ),
    )


RULE_CASES: tuple[RuleCase, ...] = (
    RuleCase(
        kind="InferenceService",
        field="",
        message="metadata.name names a Service and Deployments: at most 40 of a-z, 0-9 and -, a letter first",
        accepted=(name("a"), name("chat-70b"), name("a" * 40)),
        rejected=(
            (
                name("a" * 41),
                f"metadata.name {'a' * 41} names a Service and Deployments: use at most 40 of a-z, 0-9 and -",
            ),
            (name("7b"), "metadata.name 7b names a Service"),
            (name("chat.v2"), "metadata.name chat.v2 names a Service"),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec",
        message="limits.maxGPUs is below limits.minInstances × the smallest gpu.tensorParallel",
        accepted=(
            spec(limits={"minInstances": 3, "maxGPUs": 6}),
            spec(limits={"minInstances": 1, "maxGPUs": 8}, gpu={"tensorParallel": [8]}),
        ),
        rejected=(
            (
                spec(limits={"minInstances": 3, "maxGPUs": 5}),
                "limits.maxGPUs 5 is below limits.minInstances 3 × the smallest gpu.tensorParallel 2: raise maxGPUs",
            ),
            (
                spec(limits={"maxGPUs": 7}, gpu={"tensorParallel": [8]}),
                "limits.maxGPUs 7 is below limits.minInstances 1 × the smallest gpu.tensorParallel 8",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec",
        message="pins.tensorParallel must be one of gpu.tensorParallel",
        accepted=(
            spec(pins={"tensorParallel": 4}),
            spec(pins={"tensorParallel": 1}, gpu={"tensorParallel": [1]}),
            spec(pins={}),
        ),
        rejected=(
            (
                spec(pins={"tensorParallel": 1}),
                "pins.tensorParallel 1 is none of gpu.tensorParallel [2, 4, 8]: pin one of them or allow it there",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec",
        message="pins.instances must not be below limits.minInstances",
        accepted=(spec(pins={"instances": 3}, limits={"minInstances": 3}),),
        rejected=(
            (
                spec(pins={"instances": 2}, limits={"minInstances": 3}),
                "pins.instances 2 is below limits.minInstances 3: raise it or lower minInstances",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec",
        message="pins.instances × the TP degree do not fit into limits.maxGPUs",
        accepted=(
            spec(pins={"instances": 4}, limits={"maxGPUs": 8}),
            spec(pins={"instances": 1, "tensorParallel": 8}, limits={"maxGPUs": 8}),
        ),
        rejected=(
            (
                spec(pins={"instances": 5}, limits={"maxGPUs": 8}),
                "pins.instances 5 × a TP degree of 2 do not fit into limits.maxGPUs 8: raise maxGPUs or pin fewer",
            ),
            (
                spec(pins={"instances": 2, "tensorParallel": 8}, limits={"maxGPUs": 8}),
                "pins.instances 2 × a TP degree of 8 do not fit into limits.maxGPUs 8",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec",
        message="pins.pools is more than one, and spec.policy has one pool only",
        accepted=(spec(pins={"pools": 1}, policy="SinglePool"), spec(pins={"pools": 9}, policy="DynamoLLM")),
        rejected=(
            (
                spec(pins={"pools": 2}, policy="SinglePool"),
                "pins.pools is 2, and policy SinglePool has one pool only: remove the pin or choose another policy",
            ),
            (
                spec(pins={"pools": 2}, policy="SinglePoolElastic"),
                "pins.pools is 2, and policy SinglePoolElastic has one",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.pins",
        message="pins.pools must not exceed pins.instances: every pool needs an instance",
        accepted=(spec(pins={"pools": 3, "instances": 3}), spec(pins={"pools": 3}), spec(pins={"instances": 1})),
        rejected=(
            (
                spec(pins={"pools": 3, "instances": 2}),
                "pins.pools 3 exceeds pins.instances 2, and every pool needs an instance: raise instances or lower pools",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine",
        message="engine.image is missing, and engine.type is not Simulated: name its container image",
        accepted=(spec(engine={"type": "Simulated", "image": None}), spec(engine={"type": "SGLang"})),
        rejected=(
            (spec(engine={"image": None}), "engine.image is missing, and engine.type is VLLM: name its container"),
            (spec(engine={"type": "SGLang", "image": None}), "engine.image is missing, and engine.type is SGLang"),
            (spec(engine={"type": "TensorRTLLM", "image": None}), "engine.image is missing"),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine",
        message="engine.scheduling EarliestDeadlineFirst needs an engine that serves by priority: trtllm-serve does not",
        accepted=(
            spec(engine={"type": "TensorRTLLM"}),
            spec(engine={"type": "SGLang", "scheduling": "EarliestDeadlineFirst"}),
        ),
        rejected=(
            (
                spec(engine={"type": "TensorRTLLM", "scheduling": "EarliestDeadlineFirst"}),
                "engine.scheduling EarliestDeadlineFirst needs an engine that serves by priority",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine",
        message="engine.args sets what the operator sets: remove it",
        accepted=(spec(engine={"args": ["--enable-prefix-caching", "--model-impl=auto", "--max-num-seqs", "64"]}),),
        rejected=(
            (
                spec(engine={"args": ["--max-num-seqs=64", "--tensor-parallel-size=4", "--port", "80"]}),
                'engine.args ["--tensor-parallel-size=4", "--port"]: the operator sets it, remove it',
            ),
            (spec(engine={"args": ["-tp", "4"]}), 'engine.args ["-tp"]: the operator sets it'),
            (spec(engine={"args": ["--tp_size=4"]}), 'engine.args ["--tp_size=4"]: the operator sets it'),
            (
                spec(engine={"args": ["--scheduling-policy=priority"]}),
                'engine.args ["--scheduling-policy=priority"]: the operator sets it',
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.env[]",
        message="engine.env has both value and valueFrom: remove one",
        accepted=(
            spec(engine={"env": [{"name": "A", "value": ""}]}),
            spec(engine={"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
        ),
        rejected=(
            (
                spec(
                    engine={
                        "env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
                    }
                ),
                "engine.env A has both value and valueFrom: remove one",
            ),
        ),
    ),
    *POD_RULE_CASES,
    RuleCase(
        kind="InferenceService",
        field="spec.gpu",
        message="gpu.product is not the value of a label: see kubectl get nodes -L nvidia.com/gpu.product",
        accepted=(spec(gpu={"product": "NVIDIA-H100-80GB-HBM3"}), spec(gpu={"product": "A"})),
        rejected=(
            (
                spec(gpu={"product": "NVIDIA H100 80GB HBM3"}),
                "gpu.product NVIDIA H100 80GB HBM3 is not the value of a label: see kubectl get nodes -L nvidia.com/gpu.product",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.gpu",
        message="every gpu.tensorParallel must divide gpu.perNode",
        accepted=(spec(gpu={"tensorParallel": [1, 2, 4, 8]}), spec(gpu={"perNode": 6, "tensorParallel": [3, 6]})),
        rejected=(
            (
                spec(gpu={"tensorParallel": [2, 3]}),
                "gpu.tensorParallel [3] does not divide gpu.perNode 8: use divisors of it",
            ),
            (spec(gpu={"perNode": 4}), "gpu.tensorParallel [8] does not divide gpu.perNode 4"),
            (spec(gpu={"tensorParallel": [16]}), "gpu.tensorParallel [16] does not divide gpu.perNode 8"),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.slo.overrides[]",
        message="slo.overrides has an entry that overrides nothing: set ttftMilliseconds or tbtMilliseconds",
        accepted=(
            spec(slo={"overrides": [{"class": "SS", "ttftMilliseconds": 1}]}),
            spec(slo={"overrides": [{"class": "SS", "tbtMilliseconds": 1}, {"class": "LL", "tbtMilliseconds": 1}]}),
        ),
        rejected=(
            (spec(slo={"overrides": [{"class": "SM"}]}), "slo.overrides SM overrides nothing: set ttftMilliseconds"),
        ),
    ),
    boundaries("inputTokens"),
    boundaries("outputTokens"),
    RuleCase(
        kind="InferenceService",
        field="spec.intervals",
        message="intervals must not descend: clockSeconds ≤ shardSeconds ≤ scaleSeconds",
        accepted=(spec(intervals={"clockSeconds": 60, "shardSeconds": 60, "scaleSeconds": 60}),),
        rejected=(
            (
                spec(intervals={"clockSeconds": 301}),
                "intervals.clockSeconds 301, shardSeconds 300 and scaleSeconds 1800 must not descend",
            ),
            (
                spec(intervals={"shardSeconds": 3600}),
                "intervals.clockSeconds 5, shardSeconds 3600 and scaleSeconds 1800 must not descend",
            ),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec",
        message="every degree in tensorParallel needs an entry in latency.perTensorParallel",
        base=PER_TENSOR_PARALLEL,
        accepted=(spec(tensorParallel=[2]),),
        rejected=(
            (
                spec(tensorParallel=[1, 2, 16]),
                "tensorParallel [1, 16] has no entry in latency.perTensorParallel: add one or remove the degree",
            ),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec",
        message="validRange.minClockMHz must be one of the clocks in gpu.clocks",
        accepted=(spec(validRange={"minClockMHz": 210}), spec(validRange={"minClockMHz": 1980})),
        rejected=(
            (
                spec(validRange={"minClockMHz": 209}),
                "validRange.minClockMHz 209 must lie between gpu.clocks.minMHz 210 and gpu.clocks.maxMHz 1980",
            ),
            (spec(validRange={"minClockMHz": 1981}), "validRange.minClockMHz 1981 must lie between"),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec.gpu",
        message="gpu: idleWatts ≤ loadedIdleWatts ≤ tdpWatts must hold",
        accepted=(spec(gpu={"idleWatts": 100, "loadedIdleWatts": 100, "tdpWatts": 100}),),
        rejected=(
            (
                spec(gpu={"idleWatts": 116}),
                "gpu.idleWatts 116, gpu.loadedIdleWatts 115 and gpu.tdpWatts 700 must not descend",
            ),
            (
                spec(gpu={"tdpWatts": 114}),
                "gpu.idleWatts 75, gpu.loadedIdleWatts 115 and gpu.tdpWatts 114 must not descend",
            ),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec.gpu.clocks",
        message="gpu.clocks.minMHz must be below gpu.clocks.maxMHz",
        accepted=(spec(gpu={"clocks": {"minMHz": 795, "maxMHz": 810}}, validRange={"minClockMHz": 800}),),
        rejected=(
            (
                spec(gpu={"clocks": {"minMHz": 1980}}, validRange={"minClockMHz": 1980}),
                "gpu.clocks.minMHz 1980 must be below gpu.clocks.maxMHz 1980",
            ),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec.gpu.clocks",
        message="gpu.clocks.stepMHz must divide maxMHz - minMHz",
        accepted=(spec(gpu={"clocks": {"stepMHz": 30}}),),
        rejected=(
            (
                spec(gpu={"clocks": {"stepMHz": 16}}),
                "gpu.clocks.stepMHz 16 does not divide maxMHz - minMHz = 1770: see nvidia-smi -q -d SUPPORTED_CLOCKS",
            ),
        ),
    ),
    RuleCase(
        kind="PerformanceProfile",
        field="spec.latency",
        message="latency needs exactly one of roofline and perTensorParallel: set one and remove the other",
        accepted=(
            {},
            spec(
                latency={
                    "roofline": None,
                    "perTensorParallel": PER_TENSOR_PARALLEL["spec"]["latency"]["perTensorParallel"],
                }
            ),
        ),
        rejected=(
            (spec(latency={"roofline": None}), "latency needs exactly one of roofline and perTensorParallel"),
            (
                spec(latency={"perTensorParallel": PER_TENSOR_PARALLEL["spec"]["latency"]["perTensorParallel"]}),
                "latency needs exactly one of roofline and perTensorParallel",
            ),
        ),
    ),
    RuleCase(
        kind="ClusterPolicy",
        field="spec",
        message="electricityPriceSchedule and electricityPriceMicroUSDPerKWh are both set: remove one",
        accepted=(spec(), spec(electricityPriceMicroUSDPerKWh=None, electricityPriceSchedule=[PEAK_PRICE])),
        rejected=(
            (
                spec(electricityPriceSchedule=[PEAK_PRICE]),
                "electricityPriceMicroUSDPerKWh is 120000, and electricityPriceSchedule has prices too: remove one",
            ),
        ),
    ),
    RuleCase(
        kind="ClusterPolicy",
        field="spec",
        message="carbonIntensitySchedule and carbonIntensityGramsPerKWh are both set: remove one",
        accepted=(spec(), spec(carbonIntensityGramsPerKWh=None, carbonIntensitySchedule=[NIGHT_INTENSITY])),
        rejected=(
            (
                spec(carbonIntensitySchedule=[NIGHT_INTENSITY]),
                "carbonIntensityGramsPerKWh is 250, and carbonIntensitySchedule has intensities too: remove one",
            ),
        ),
    ),
    RuleCase(
        kind="ClusterPolicy",
        field="",
        message="metadata.name must be default: the cluster has one ClusterPolicy",
        accepted=(name("default"),),
        rejected=((name("other"), "metadata.name is other: the cluster has one ClusterPolicy, name it default"),),
    ),
)


def rules() -> Iterator[tuple[str, str, str]]:
    """Return kind, field and static message of every rule in crds/."""
    for kind, schema in schemas().items():
        for field, child in fields(schema, ""):
            for rule in child.get("x-kubernetes-validations", ()):
                yield kind, field.removeprefix("."), rule["message"]
