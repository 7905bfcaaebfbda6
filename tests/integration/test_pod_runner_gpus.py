"""GPUs of pods that the pod runner plays the kubelet for: handed out, told through PodResources, idle when left."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from dynamollm.adapters import podresources_pb2 as messages
from integration.runner_pods import Json, Namespace, of_test, pod
from integration.waiting import eventually
from lab import nvml
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster
from lab.paths import node_dir, nvml_state
from lab.podrunner import orphans

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="about the local cluster, and another one was asked for"),
]

HOLD_GPUS: Final = """
import ctypes, os, time
library = ctypes.CDLL("libnvidia-ml.so.1")
assert library.nvmlInit_v2() == 0
count = ctypes.c_uint()
assert library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
for uuid in os.environ["NVIDIA_VISIBLE_DEVICES"].split(","):
    assert library.dynamollmStandinSetLoad(uuid.encode(), 400000, 90, 1) == 0
print(count.value, os.environ["NVIDIA_VISIBLE_DEVICES"])
time.sleep(600)
"""


@pytest.fixture
def namespace(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with of_test(cluster, request) as made:
        yield made


def ask(cluster: LocalCluster, node: str, method: str, request: Any, answer: Any) -> Any:
    """Return what the PodResources API of a node answers."""
    socket = node_dir(cluster.dir, node) / "root/var/lib/kubelet/pod-resources/kubelet.sock"
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(
            f"/v1.PodResourcesLister/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=60)


def gpus_in(pod: messages.PodResources) -> list[str]:
    return [uuid for held in pod.containers for devices in held.devices for uuid in devices.device_ids]


def pod_resources(namespace: Namespace, node: str) -> dict[str, list[str]]:
    answer = ask(namespace.cluster, node, "List", messages.ListPodResourcesRequest(), messages.ListPodResourcesResponse)
    return {one.name: gpus_in(one) for one in answer.pod_resources if one.namespace == namespace.name}


def kill_program(cluster: LocalCluster, uid: str) -> None:
    """Kill the program of a pod's container from outside, as the kernel does when memory is short."""
    for pid in orphans.find(cluster.dir):
        process = Path(f"/proc/{pid}")
        mine = f"{orphans.POD}={uid}".encode() in (process / "environ").read_bytes().split(b"\0")
        if mine and not (process / "cmdline").read_bytes().split(b"\0")[0].endswith(b"/launcher"):
            os.kill(pid, signal.SIGKILL)


def test_gpus_are_handed_out_told_and_left_idle(namespace: Namespace) -> None:
    node, cluster = "gpu-node-11", namespace.cluster

    def watts(uuids: list[str]) -> list[float]:
        gpus = nvml.read(state_file=nvml_state(cluster.dir, node)).gpus
        return [gpu.power_w for gpu in gpus if gpu.uuid in uuids]

    def gpus(count: int) -> Json:
        return {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}

    there = {"nodeName": node}  # bound here, past the scheduler: what a kubelet then refuses
    namespace.apply(
        pod("four", HOLD_GPUS, container=gpus(4), **there),
        # A volume at /tmp, where the stand-in's state lies.
        pod(
            *("two", HOLD_GPUS),
            container=gpus(2) | {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
            volumes=[{"name": "tmp", "emptyDir": {}}],
            restartPolicy="Always",
            **there,
        ),
        pod("nine", HOLD_GPUS, container=gpus(9)),
    )
    said = {name: eventually(partial(namespace.log, name)).split() for name in ("four", "two")}
    held = {name: words[1].split(",") for name, words in said.items()}
    assert {name: int(words[0]) for name, words in said.items()} == {"four": 4, "two": 2}
    assert len({*held["four"], *held["two"]}) == 6
    assert pod_resources(namespace, node) == held
    assert watts(held["four"]) == [400.0] * 4

    # The API's other two calls.
    allocatable = ask(
        *(cluster, node, "GetAllocatableResources"),
        *(messages.AllocatableResourcesRequest(), messages.AllocatableResourcesResponse),
    )
    assert [uuid for devices in allocatable.devices for uuid in devices.device_ids] == nvml.gpu_uuids(node=node, gpus=8)
    two = messages.GetPodResourcesRequest(pod_name="two", pod_namespace=namespace.name)
    answer = ask(cluster, node, "Get", two, messages.GetPodResourcesResponse)
    assert gpus_in(answer.pod_resources) == held["two"]
    elsewhere = messages.GetPodResourcesRequest(pod_name="two", pod_namespace="default")
    with pytest.raises(grpc.RpcError, match="pod two in namespace default not found"):
        ask(cluster, node, "Get", elsewhere, messages.GetPodResourcesResponse)

    # The others ask for more than is free, on this node and on any.
    namespace.apply(pod("three", HOLD_GPUS, container=gpus(3), **there))
    eventually(lambda: namespace.phase("three") == "Failed")
    refused = namespace.status("three")
    assert refused["reason"] == "UnexpectedAdmissionError"
    assert refused["message"] == "Allocate failed: requested 3 of nvidia.com/gpu, 2 are free"
    (condition,) = namespace.status("nine")["conditions"]
    assert (namespace.phase("nine"), condition["reason"]) == ("Pending", "Unschedulable")

    # A process that is killed leaves its GPUs idle at once. A pod that restarts keeps them, one that failed does not.
    kill_program(cluster, namespace.uid("four"))
    eventually(lambda: namespace.phase("four") == "Failed")
    assert watts(held["four"]) == [75.0] * 4
    assert namespace.state("four")["state"]["terminated"]["exitCode"] == 137
    kill_program(cluster, namespace.uid("two"))
    eventually(lambda: namespace.state("two")["restartCount"] == 1)
    again = eventually(lambda: (words := namespace.log("two").split())[2:] and words)
    assert again[3] == said["two"][1]
    assert pod_resources(namespace, node) == {"two": held["two"]}
    namespace.kubectl("delete", "pod", "two")
    assert pod_resources(namespace, node) == {}
    assert watts(held["two"]) == [75.0] * 2
