"""A device plugin for simulated GPUs: what NVIDIA's does on real nodes, towards a real kubelet.

It makes the node's stand-in GPUs, advertises them by UUID as ``nvidia.com/gpu``, and gives a container that gets some
what the NVIDIA container toolkit would: the management library, and which GPUs are its own. The kubelet's PodResources API
then tells the agent real assignments. Only test images carry it.

    python -m lab.deviceplugin --node NODE --folder /var/lib/dynamollm-standin
"""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import grpc
import grpc.aio
from google.protobuf.message import Message

from lab import deviceplugin_pb2 as messages
from lab import nvml

RESOURCE: Final = "nvidia.com/gpu"
PLUGINS: Final = Path("/var/lib/kubelet/device-plugins")
"""Where the kubelet listens and plugins put their sockets."""
CONTAINER_FOLDER: Final = "/run/dynamollm-standin"
"""Where a container that gets GPUs finds the library and the state of the node's GPUs."""
STATE: Final = "nvml.state"

_ENDPOINT: Final = "dynamollm-standin.sock"
_API: Final = "v1beta1"
_SETTLE_S: Final = 1.0


class Plugin:
    """The GPUs of one node."""

    def __init__(self, *, uuids: Sequence[str], host_folder: Path) -> None:
        self._uuids = tuple(uuids)
        self._host_folder = host_folder

    async def options(self, _request: Message, _context: Any) -> Message:
        """Return that nothing optional is offered."""
        return messages.DevicePluginOptions()

    async def devices(self, _request: Message, _context: Any) -> AsyncIterator[Message]:
        """Tell the GPUs once, all healthy, and keep the stream open as the kubelet wants it."""
        yield messages.ListAndWatchResponse(
            devices=[messages.Device(ID=uuid, health="Healthy") for uuid in self._uuids]
        )
        await asyncio.Event().wait()

    async def allocate(self, request: Message, _context: Any) -> Message:
        """Return what each container gets with its GPUs."""
        return messages.AllocateResponse(
            container_responses=[
                self.container(tuple(one.devices_ids))
                for one in request.container_requests  # type: ignore[attr-defined] # an AllocateRequest
            ]
        )

    def container(self, uuids: Sequence[str]) -> messages.ContainerAllocateResponse:
        """Return environment and mounts of a container with these GPUs."""
        return messages.ContainerAllocateResponse(
            envs={
                "NVIDIA_VISIBLE_DEVICES": ",".join(uuids),
                "LD_LIBRARY_PATH": CONTAINER_FOLDER,
                "DYNAMOLLM_NVML_STATE": f"{CONTAINER_FOLDER}/{STATE}",
            },
            mounts=[messages.Mount(container_path=CONTAINER_FOLDER, host_path=str(self._host_folder), read_only=False)],
        )


def _handler(plugin: Plugin) -> grpc.GenericRpcHandler:
    calls: dict[str, tuple[Callable[..., Any], Any]] = {
        "GetDevicePluginOptions": (plugin.options, messages.Empty),
        "Allocate": (plugin.allocate, messages.AllocateRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=request.FromString, response_serializer=_serialized
        )
        for name, (call, request) in calls.items()
    }
    handlers["ListAndWatch"] = grpc.unary_stream_rpc_method_handler(
        plugin.devices, request_deserializer=messages.Empty.FromString, response_serializer=_serialized
    )
    return grpc.method_handlers_generic_handler(f"{_API}.DevicePlugin", handlers)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


async def serve(plugin: Plugin, *, folder: Path = PLUGINS) -> None:
    """Serve and register until cancelled; again whenever the kubelet starts anew, which removes all sockets."""
    socket = folder / _ENDPOINT
    while True:
        socket.unlink(missing_ok=True)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_handler(plugin),))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            if await _registered(folder, socket):
                click.echo(f"registered {RESOURCE} with the kubelet")
            while socket.exists():  # noqa: ASYNC110 - the kubelet removes the file, which is no event here
                await asyncio.sleep(_SETTLE_S)
        finally:
            await server.stop(None)


async def _registered(folder: Path, socket: Path) -> bool:
    """Try until the kubelet takes the registration; False: it started anew meanwhile, and removed the socket."""
    request = messages.RegisterRequest(version=_API, endpoint=_ENDPOINT, resource_name=RESOURCE)
    while socket.exists():  # noqa: ASYNC240 - one look at a local folder
        async with grpc.aio.insecure_channel(f"unix:{folder / 'kubelet.sock'}") as channel:
            register: Callable[[Message], Awaitable[Message]] = channel.unary_unary(
                f"/{_API}.Registration/Register",
                request_serializer=_serialized,
                response_deserializer=messages.Empty.FromString,
            )
            try:
                await register(request)
            except grpc.aio.AioRpcError as error:
                click.echo(f"the kubelet does not take the registration yet: {error.details()}", err=True)
                await asyncio.sleep(_SETTLE_S)
            else:
                return True
    return False


def prepare(*, node: str, folder: Path, gpus: int, time_scale: float) -> list[str]:
    """Put library and state into the folder, unless the state is there, and return the UUIDs.

    Everybody may write the state: engines do, which are not root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / nvml.LIBRARY_NAME
    staged = library.with_suffix(".new")
    shutil.copyfile(nvml.ensure_library() / nvml.LIBRARY_NAME, staged)
    # The library that running processes have loaded must not change under them.
    staged.replace(library)
    state = folder / STATE
    if not state.exists():
        nvml.create(state_file=state, node=node, gpus=gpus, time_scale=time_scale)
    state.chmod(0o666)
    folder.chmod(0o777)
    return nvml.gpu_uuids(node=node, gpus=gpus)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--node", required=True, help="Name of the node; the UUIDs follow from it.")
@click.option(
    "--folder", type=click.Path(path_type=Path), required=True, help="Folder of the host for library and state."
)
@click.option("--gpus", default=8, show_default=True)
@click.option("--time-scale", default=1.0, show_default=True, help="Simulated seconds per second.")
def main(node: str, folder: Path, gpus: int, time_scale: float) -> None:
    """Advertise simulated GPUs to the kubelet of this node."""
    plugin = Plugin(uuids=prepare(node=node, folder=folder, gpus=gpus, time_scale=time_scale), host_folder=folder)
    asyncio.run(_until_told_to_end(plugin))


async def _until_told_to_end(plugin: Plugin) -> None:
    serving = asyncio.ensure_future(serve(plugin))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    main()
