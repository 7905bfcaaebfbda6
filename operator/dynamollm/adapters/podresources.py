"""Which pod on this node holds which GPU, from the kubelet's PodResources API (gRPC on a unix socket)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from dynamollm.adapters import podresources_pb2
from dynamollm.core.errors import UnknownDataError

KUBELET_SOCKET: Final = Path("/var/lib/kubelet/pod-resources/kubelet.sock")

_LIST: Final = "/v1.PodResourcesLister/List"
_TIMEOUT_S: Final = 2.0
"""Wall seconds for one answer; the kubelet answers from memory, in milliseconds."""
_RECONNECT: Final = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000))
"""gRPC's own back-off grows to two minutes, long after a kubelet's restart is over."""
_GPU_RESOURCES: Final = "nvidia.com/"
"""Prefix of the resource names that NVIDIA's device plugin advertises (gpu, gpu.shared, mig-1g.10gb, …)."""
_REPLICA_MARK: Final = "::"
"""NVIDIA's device plugin appends ``::<n>`` to the UUID of a GPU that it hands out several times."""


@dataclass(frozen=True, slots=True)
class GpuHolding:
    """A container that holds a GPU."""

    namespace: str
    pod: str
    container: str
    gpu: str
    """UUID: ``GPU-…``, or ``MIG-…`` for an instance of a partitioned GPU."""
    shared: bool
    """Handed out several times (time-slicing or MPS): others may be on the same GPU."""


class PodResources:
    """Client of one node's kubelet."""

    def __init__(self, socket: Path = KUBELET_SOCKET) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix://{socket}", options=_RECONNECT)
        self._socket = socket
        self._list = self._channel.unary_unary(
            _LIST,
            request_serializer=podresources_pb2.ListPodResourcesRequest.SerializeToString,
            response_deserializer=podresources_pb2.ListPodResourcesResponse.FromString,
        )

    async def gpu_holdings(self) -> tuple[GpuHolding, ...]:
        """Return every GPU that a container on this node holds.

        Raises:
            UnknownDataError: the kubelet does not answer; who holds what is unknown then, not nobody.
        """
        try:
            answer = await self._list(podresources_pb2.ListPodResourcesRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise UnknownDataError(
                f"the kubelet's PodResources at {self._socket} did not answer: {error.code().name} {error.details()}"
            ) from error
        return tuple(
            GpuHolding(
                namespace=pod.namespace,
                pod=pod.name,
                container=container.name,
                gpu=device.partition(_REPLICA_MARK)[0],
                shared=_REPLICA_MARK in device,
            )
            for pod in answer.pod_resources
            for container in pod.containers
            for devices in container.devices
            if devices.resource_name.startswith(_GPU_RESOURCES)
            for device in devices.device_ids
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
