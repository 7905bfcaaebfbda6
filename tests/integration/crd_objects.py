"""Objects of every kind with every field set: what the cases of test_crds.py start from."""

import uuid
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE = f"crd-cases-{uuid.uuid4().hex[:8]}"
"""A new one each time, since the last one may still be going."""


def _profile(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / "profiles" / f"{name}.yaml").read_text())
    return manifest


def merged(document: Any, patch: Any) -> Any:
    """Return the document after a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


SERVICE: dict[str, Any] = yaml.safe_load("""
apiVersion: dynamollm.io/v1alpha1
kind: InferenceService
metadata: {name: case}
spec:
  model: {name: m}
  engine:
    type: VLLM
    image: engine:1
    imagePullPolicy: Always
    scheduling: FirstComeFirstServed
    args: [--enable-prefix-caching]
    env:
    - {name: PLAIN, value: "1"}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}
    podTemplate:
      tolerations: [{key: gpu, operator: Equal, value: "yes", effect: NoExecute, tolerationSeconds: 60}]
      nodeSelector: {zone: a}
      resources: {requests: {cpu: "8"}, limits: {memory: 64Gi}}
      fsGroup: 2000
      imagePullSecrets: [{name: registry}]
      priorityClassName: serving
      volumes:
      - {name: weights, mountPath: /weights, readOnly: false, persistentVolumeClaim: {claimName: weights}}
      - {name: templates, mountPath: /templates, configMap: {name: templates}}
  gpu: {product: NVIDIA-H100-80GB-HBM3, resource: nvidia.com/gpu, perNode: 8, tensorParallel: [2, 4, 8]}
  profileRef: {name: p}
  slo:
    rule: FiveTimesAlone
    percentile: 95
    ttftMilliseconds: {short: 250, medium: 400, long: 2000}
    tbtMilliseconds: 100
    overrides: [{class: LL, ttftMilliseconds: 3000, tbtMilliseconds: 150}]
  classes: {inputTokens: {short: 256, medium: 1024}, outputTokens: {short: 100, medium: 350}}
  policy: SinglePool
  objective: Cost
  pins: {tensorParallel: 4, clockMHz: 1200, instances: 2, pools: 1}
  priority: 10
  mode: Advise
  paused: true
  limits: {minInstances: 2, maxGPUs: 64, maxWatts: 20000, maxCostCentsPerHour: 12800}
  behavior:
    scaleDownStabilizationSeconds: 60
    tolerancePercent: 5
    minSavingPercent: 1
    drainTimeoutSeconds: 60
    pendingTimeoutSeconds: 60
    maxCorrectionPercent: 20
  intervals: {scaleSeconds: 600, shardSeconds: 60, clockSeconds: 1}
  forecast: {bandPercentile: 90, initialRequestsPerMinute: 60}
  router: {replicas: 2}
status:
  observedGeneration: 1
  policy: DynamoLLM
  gpus: {desired: 8, ready: 4, limit: 96}
  poolCount: 1
  pools:
  - name: ll
    classes: [SS, LL]
    ratePerSecondMilli: 1500
    capacityPerSecondMilli: 2000
    groups: [{tensorParallel: 4, desired: 2, ready: 1, routable: 1, draining: 0, clockMHz: 1005}]
  power: {expectedWatts: 14100, observedWatts: 14000}
  energyWattHours: 100
  costMicroUSD: 12000
  carbonMilligrams: 25000
  slo: {attainmentBasisPoints: 9940, byClass: [{class: SS, attainmentBasisPoints: 10000, requests: 7}]}
  forecast:
    ratePerSecondMilli: 1
    upperRatePerSecondMilli: 2
    observedRatePerSecondMilli: 1
    errorBasisPoints: 900
    mode: Weekly
    coverageBasisPoints: 9500
    pinballPerSecondMilli: 80
    naivePinballPerSecondMilli: 130
  planSummary: holding
  plan: {anything: {nested: [1.5, null]}}
  advice: {anything: 1}
  display: {gpus: 4/96, clock: 1005-1980 MHz, power: 14.1 kW, slo: 99.4 %}
  conditions:
  - type: Ready
    status: "True"
    reason: Serving
    message: All pools serve.
    lastTransitionTime: "2026-01-01T00:00:00Z"
    observedGeneration: 1
""")
SERVICE_WITH_USER = merged(SERVICE, {"spec": {"engine": {"podTemplate": {"runAsUser": 2000, "runAsGroup": 2000}}}})
"""Of an engine that is not Simulated."""
POLICY: dict[str, Any] = yaml.safe_load("""
apiVersion: dynamollm.io/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec:
  maxGPUs: 96
  maxWatts: 60000
  gpuPriceMicroUSDPerHour: 2000000
  releasedGPUWatts: 75
  electricityPriceMicroUSDPerKWh: 120000
  carbonIntensityGramsPerKWh: 250
""")
SCHEDULES: dict[str, Any] = yaml.safe_load("""
apiVersion: dynamollm.io/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec:
  electricityPriceSchedule:
  - {fromHour: 7, microUSDPerKWh: 180000}
  - {fromHour: 22, microUSDPerKWh: 90000}
  carbonIntensitySchedule:
  - {fromHour: 8, gramsPerKWh: 120}
  - {fromHour: 17, gramsPerKWh: 310}
""")
ROOFLINE = _profile("h100-llama2-70b-vllm")
PER_TENSOR_PARALLEL = _profile("h100-llama2-70b-vllm2023")

COMPLETE: dict[str, tuple[dict[str, Any], ...]] = {
    "InferenceService": (SERVICE, SERVICE_WITH_USER),
    "PerformanceProfile": (ROOFLINE, PER_TENSOR_PARALLEL),
    "ClusterPolicy": (POLICY, SCHEDULES),
}
"""Together, the objects of a kind set every field of its schema."""

MINIMAL_SERVICE: dict[str, Any] = {
    **{key: SERVICE[key] for key in ("apiVersion", "kind", "metadata")},
    "spec": {
        "model": {"name": "m"},
        "engine": {"image": "engine:1"},
        "gpu": {"product": "NVIDIA-H100-80GB-HBM3"},
        "profileRef": {"name": "p"},
        "slo": {"ttftMilliseconds": {"short": 250, "medium": 400, "long": 2000}, "tbtMilliseconds": 100},
    },
}
