"""Names that several parts agree on: API group, labels, annotations, ports, image and field manager."""

from typing import Final

GROUP: Final = "dynamollm.io"
VERSION: Final = "v1alpha1"
SERVICES: Final = "inferenceservices"
PROFILES: Final = "performanceprofiles"
POLICIES: Final = "clusterpolicies"

FIELD_MANAGER: Final = "dynamollm-operator"
SYSTEM_NAMESPACE: Final = "dynamollm-system"
AGENT_DAEMONSET: Final = "dynamollm-agent"
OPERATOR_DEPLOYMENT: Final = "dynamollm-operator"
CHECK_POD: Final = "dynamollm-check"
"""Of `helm test`."""
OPERATOR_LEASE: Final = "dynamollm-operator"
ROUTER_CLUSTER_ROLE: Final = "dynamollm-router"

FINALIZER: Final = "dynamollm.io/operator"
"""On every InferenceService that an operator looks after: with it go clocks and GPUs in the books."""
LABEL_NAME: Final = "app.kubernetes.io/name"
"""On our own pods: the name of their Deployment or DaemonSet."""
LABEL_SERVICE: Final = "dynamollm.io/service"
LABEL_COMPONENT: Final = "dynamollm.io/component"
"""``engine`` or ``router`` on the pods and Deployments of a service."""
LABEL_POOL: Final = "dynamollm.io/pool"
LABEL_TENSOR_PARALLEL: Final = "dynamollm.io/tensor-parallel"

ANNOTATION_CLOCK_PLAN: Final = "dynamollm.io/clock-plan"
"""On the agent's DaemonSet (metadata, never the pod template): the clock plan of every shard group, JSON."""
ANNOTATION_UNROUTED_AT: Final = "dynamollm.io/unrouted-at"
"""On an engine pod, RFC 3339: since when the router must give it no new request. Absent: routable once Ready."""
ANNOTATION_SCHEDULING: Final = "dynamollm.io/scheduling"
"""On an engine pod: ``EarliestDeadlineFirst`` where it serves by the requests' priority, which the router then sets."""
EARLIEST_DEADLINE_FIRST: Final = "EarliestDeadlineFirst"
ANNOTATION_POD_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"

ANNOTATION_METRICS_PATH: Final = "prometheus.io/path"

LABEL_GPU_PRODUCT: Final = "nvidia.com/gpu.product"

ROUTING_KEY: Final = "routing.json"
"""The key in ConfigMap ``<service>-routing``."""

ENGINE_PORT: Final = 8000
ROUTER_PORT: Final = 8080
AGENT_METRICS_PORT: Final = 9400
OPERATOR_METRICS_PORT: Final = 9401
OPERATOR_HEALTH_PORT: Final = 9402


def group_name(*, service: str, pool: str, tensor_parallel: int) -> str:
    """Return the name of a shard group's Deployment."""
    return f"{service}-{pool}-tp{tensor_parallel}"
