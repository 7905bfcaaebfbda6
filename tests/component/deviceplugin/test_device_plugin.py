"""The device plugin for simulated GPUs, towards a kubelet's half of the real protocol on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lab import deviceplugin, nvml
from lab import deviceplugin_pb2 as messages


class Kubelet:
    """What the kubelet offers plugins, and asks of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registrations: asyncio.Queue[Any] = asyncio.Queue()

    async def _register(self, request: Any, _context: Any) -> Any:
        await self.registrations.put(request)
        return messages.Empty()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            self._register,
            request_deserializer=messages.RegisterRequest.FromString,
            response_serializer=messages.Empty.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        server.add_insecure_port(f"unix:{self.folder / 'kubelet.sock'}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    @asynccontextmanager
    async def plugin(self, endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"unix:{self.folder / endpoint}") as channel:
            yield channel


@pytest.fixture
def host_folder(tmp_path: Path) -> Path:
    return tmp_path / "standin"


@pytest.fixture
def uuids(host_folder: Path) -> list[str]:
    return deviceplugin.prepare(node="gpu-node-1", folder=host_folder, gpus=8, time_scale=1.0)


@asynccontextmanager
async def serving(plugin: deviceplugin.Plugin, folder: Path) -> AsyncIterator[None]:
    task = asyncio.ensure_future(deviceplugin.serve(plugin, folder=folder))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def first(channel: grpc.aio.Channel) -> Any:
    call = channel.unary_stream(
        "/v1beta1.DevicePlugin/ListAndWatch",
        request_serializer=messages.Empty.SerializeToString,
        response_deserializer=messages.ListAndWatchResponse.FromString,
    )(messages.Empty())
    answer = await call.read()
    call.cancel()
    return answer


async def test_what_the_kubelet_is_told_is_what_the_agent_will_see(
    tmp_path: Path, host_folder: Path, uuids: list[str]
) -> None:
    kubelet = Kubelet(tmp_path)
    plugin = deviceplugin.Plugin(uuids=uuids, host_folder=host_folder)
    async with kubelet.listening(), serving(plugin, tmp_path):
        registered = await asyncio.wait_for(kubelet.registrations.get(), 60)
        assert (registered.version, registered.resource_name) == ("v1beta1", "nvidia.com/gpu")
        async with kubelet.plugin(registered.endpoint) as channel:
            told = await asyncio.wait_for(first(channel), 60)
            allocate: Callable[[Any], Awaitable[Any]] = channel.unary_unary(
                "/v1beta1.DevicePlugin/Allocate",
                request_serializer=messages.AllocateRequest.SerializeToString,
                response_deserializer=messages.AllocateResponse.FromString,
            )
            wanted = [messages.ContainerAllocateRequest(devices_ids=ids) for ids in (uuids[:4], uuids[4:6])]
            answer = await allocate(messages.AllocateRequest(container_requests=wanted))
    state = nvml.read(state_file=host_folder / deviceplugin.STATE)
    assert {(device.ID, device.health) for device in told.devices} == {(gpu.uuid, "Healthy") for gpu in state.gpus}
    assert [one.envs["NVIDIA_VISIBLE_DEVICES"].split(",") for one in answer.container_responses] == [
        uuids[:4],
        uuids[4:6],
    ]
    for one in answer.container_responses:
        (mount,) = one.mounts
        assert Path(mount.host_path) == host_folder
        assert one.envs["LD_LIBRARY_PATH"] == mount.container_path
        inside = Path(one.envs["DYNAMOLLM_NVML_STATE"]).relative_to(mount.container_path)
        assert (host_folder / inside).is_file()
        assert (host_folder / nvml.LIBRARY_NAME).is_file()


async def devices_of_the_next_that_answers(kubelet: Kubelet) -> Any:
    while True:
        endpoint = (await kubelet.registrations.get()).endpoint
        async with kubelet.plugin(endpoint) as channel:
            # One that was on its way when the sockets went answers no more, and the next follows.
            with suppress(grpc.aio.AioRpcError):
                return await first(channel)


async def test_a_kubelet_that_comes_late_or_starts_anew_is_registered_with(
    tmp_path: Path, host_folder: Path, uuids: list[str]
) -> None:
    kubelet = Kubelet(tmp_path)
    async with serving(deviceplugin.Plugin(uuids=uuids, host_folder=host_folder), tmp_path):
        async with kubelet.listening():
            endpoint = (await asyncio.wait_for(kubelet.registrations.get(), 60)).endpoint
        # A kubelet that starts removes every socket of its folder.
        (tmp_path / endpoint).unlink()
        async with kubelet.listening():
            told = await asyncio.wait_for(devices_of_the_next_that_answers(kubelet), 60)
    assert [device.ID for device in told.devices] == uuids


def test_locks_and_meters_outlive_the_plugin(host_folder: Path, uuids: list[str]) -> None:
    state_file = host_folder / deviceplugin.STATE
    before = nvml.read(state_file=state_file)
    assert deviceplugin.prepare(node="gpu-node-1", folder=host_folder, gpus=8, time_scale=1.0) == uuids
    after = nvml.read(state_file=state_file)
    assert after.driver_loads == before.driver_loads
    assert all(new.energy_j >= old.energy_j for old, new in zip(before.gpus, after.gpus, strict=True))
    # Engines write it and are not root.
    assert state_file.stat().st_mode & 0o777 == 0o666
