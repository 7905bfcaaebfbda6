"""The kubelet's PodResources API of one node: which pod's container holds which device."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from dynamollm.adapters import podresources_pb2 as messages
from lab.podrunner.devices import GPU

SOCKET: Final = Path("var/lib/kubelet/pod-resources/kubelet.sock")
"""Below a node's root."""
_SERVICE: Final = "v1.PodResourcesLister"


@dataclass(frozen=True, slots=True)
class Holding:
    """One pod of the node."""

    namespace: str
    name: str
    containers: Mapping[str, Sequence[str]]
    """Every container → the UUIDs of its GPUs."""


class Holdings(Protocol):
    """What the API tells of a node."""

    def holdings(self) -> Sequence[Holding]:
        """Return the pods that have not ended."""

    def gpus(self) -> Sequence[str]:
        """Return the UUIDs of all GPUs, held or not."""


async def serve(node: Holdings, socket: Path) -> None:
    """Answer on a Unix socket, whose folder is there, until cancelled."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handler(node),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        await asyncio.Event().wait()
    finally:
        with suppress(asyncio.CancelledError):
            await server.stop(grace=0)


def _handler(node: Holdings) -> grpc.GenericRpcHandler:
    async def everything(_: Message, __: object) -> Message:
        return messages.ListPodResourcesResponse(pod_resources=[_pod(one) for one in node.holdings()])

    async def allocatable(_: Message, __: object) -> Message:
        return messages.AllocatableResourcesResponse(devices=_devices(node.gpus()))

    async def one_pod(request: Any, context: Any) -> Message:
        wanted = (request.pod_namespace, request.pod_name)
        for one in node.holdings():
            if (one.namespace, one.name) == wanted:
                return messages.GetPodResourcesResponse(pod_resources=_pod(one))
        # The kubelet gives this code too.
        await context.abort(grpc.StatusCode.UNKNOWN, f"pod {wanted[1]} in namespace {wanted[0]} not found")
        raise AssertionError  # abort has raised

    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            "List": _method(everything, messages.ListPodResourcesRequest),
            "GetAllocatableResources": _method(allocatable, messages.AllocatableResourcesRequest),
            "Get": _method(one_pod, messages.GetPodResourcesRequest),
        },
    )


def _method(
    answer: Callable[[Any, Any], Awaitable[Message]], request: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _pod(holding: Holding) -> messages.PodResources:
    containers = [
        messages.ContainerResources(name=name, devices=_devices(uuids)) for name, uuids in holding.containers.items()
    ]
    return messages.PodResources(name=holding.name, namespace=holding.namespace, containers=containers)


def _devices(uuids: Sequence[str]) -> list[messages.ContainerDevices]:
    # One entry for each device, as the kubelet gives them.
    return [messages.ContainerDevices(resource_name=GPU, device_ids=[uuid]) for uuid in uuids]
