import pytest

from dynamollm.adapters.nodewatch import EnginePod
from dynamollm.adapters.nvml import GpuReading
from dynamollm.adapters.podresources import GpuHolding
from dynamollm.agent.instances import Instance, Refusal, local_instances, refusals


def pod(name: str) -> EnginePod:
    return EnginePod(namespace="llm", name=name, service="chat", pool="ll", tensor_parallel=2, ip="127.0.0.9")


def holding(pod_name: str, gpu: str, *, namespace: str = "llm", shared: bool = False) -> GpuHolding:
    return GpuHolding(namespace=namespace, pod=pod_name, container="engine", gpu=gpu, shared=shared)


def reading(uuid: str, *, mig: bool = False) -> GpuReading:
    return GpuReading(uuid=uuid, sm_clock_mhz=1980, power_w=115, energy_j=0, mig=mig, limits=frozenset())


PODS = {("llm", "a"): pod("a"), ("llm", "b"): pod("b")}


def test_only_our_pods_that_hold_gpus_are_instances() -> None:
    holdings = [
        holding("a", "GPU-0"),
        holding("a", "GPU-1"),
        holding("a", "GPU-1"),
        holding("a", "GPU-2", namespace="other"),
        holding("foreign", "GPU-3"),
    ]
    assert local_instances(holdings=holdings, pods=PODS) == (Instance(pod=PODS["llm", "a"], gpus=("GPU-0", "GPU-1")),)


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        ([], {}),
        ([holding("a", "GPU-0")], {}),  # a second container of the same pod
        ([holding("foreign", "GPU-0")], {"GPU-0": Refusal.SHARED}),
        ([holding("b", "GPU-0")], {"GPU-0": Refusal.SHARED}),
        ([holding("a", "GPU-0", namespace="other")], {"GPU-0": Refusal.SHARED}),
        ([holding("a", "GPU-0", shared=True)], {"GPU-0": Refusal.SHARED}),
        ([holding("foreign", "GPU-1")], {}),  # none of ours: nothing to refuse
    ],
)
def test_a_gpu_that_is_not_ours_alone_is_refused(others: list[GpuHolding], refused: dict[str, Refusal]) -> None:
    holdings = [holding("a", "GPU-0"), *others]
    pods = {("llm", "a"): PODS["llm", "a"]}
    instances = local_instances(holdings=holdings, pods=pods)
    readings = {"GPU-0": reading("GPU-0")}
    assert refusals(instances=instances, holdings=holdings, readings=readings) == refused


def test_a_gpu_in_mig_mode_is_refused() -> None:
    holdings = [holding("a", "GPU-0")]
    instances = local_instances(holdings=holdings, pods=PODS)
    readings = {"GPU-0": reading("GPU-0", mig=True)}
    assert refusals(instances=instances, holdings=holdings, readings=readings) == {"GPU-0": Refusal.MIG}


def test_a_mig_instance_is_refused_by_its_name() -> None:
    holdings = [holding("a", "MIG-0123")]
    instances = local_instances(holdings=holdings, pods=PODS)
    assert refusals(instances=instances, holdings=holdings, readings={}) == {"MIG-0123": Refusal.MIG}
