"""The API adapter and the lease against a server that plays the few requests they send."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from dynamollm.adapters.kube import CONFLICT, Kube, KubeError, path
from dynamollm.adapters.lease import DURATION_S, RENEW_DEADLINE_S, Lease

POD = path("v1", "Pod", namespace="llm", name="p")


class Api:
    """Keeps objects by path, checks resource versions, and remembers requests."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.version = 0
        self.answer: web.Response | None = None
        self.hang = False

    def put(self, where: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        body.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        self.objects[where] = body
        return body

    async def handle(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - one for each verb
        text = await request.read()
        body = orjson.loads(text) if text else None
        headers = {"type": request.content_type, **request.query}
        self.requests.append((request.method, request.path, headers, body))
        if self.hang:
            await asyncio.sleep(30)
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body)
        found = self.objects.get(request.path)
        match request.method:
            case "POST":
                where = f"{request.path}/{body['metadata']['name']}"
                if where in self.objects:
                    return web.json_response({"message": "exists"}, status=CONFLICT)
                return web.json_response(self.put(where, body), status=201)
            case "PATCH" if request.content_type == "application/apply-patch+yaml":
                return web.json_response(self.put(request.path, body))
            case _ if found is None:
                return web.json_response({"message": "not found"}, status=404)
            case "PATCH":
                version = body["metadata"].pop("resourceVersion", None)
                if version not in (None, found["metadata"]["resourceVersion"]):
                    return web.json_response({"message": "changed"}, status=CONFLICT)
                return web.json_response(self.put(request.path, {**found, "spec": {**found["spec"], **body["spec"]}}))
            case "DELETE":
                return web.json_response(self.objects.pop(request.path))
        return web.json_response(found)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    return Api()


@pytest.fixture
async def kube(api: Api) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    server = TestServer(app)
    await server.start_server()
    configuration = client.Configuration(host=str(server.make_url("")).rstrip("/"))
    async with client.ApiClient(configuration=configuration) as connection:
        yield Kube(connection)
    await server.close()


async def test_server_side_apply(api: Api, kube: Kube) -> None:
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "llm"}, "spec": {}}
    await kube.apply(body)
    method, where, said, sent = api.requests[-1]
    assert (method, where) == ("PATCH", "/api/v1/namespaces/llm/services/chat")
    assert said == {"type": "application/apply-patch+yaml", "fieldManager": "dynamollm-operator", "force": "true"}
    assert sent["spec"] == {}


async def test_a_missing_object_is_none_to_get_and_nothing_to_delete(kube: Kube) -> None:
    assert await kube.get(POD) is None
    assert await kube.delete(POD, uid="u") is False


async def test_a_delete_takes_that_very_object(api: Api, kube: Kube) -> None:
    api.put(POD, {})
    assert await kube.delete(POD, uid="u") is True
    assert api.requests[-1][3]["preconditions"] == {"uid": "u"}


async def test_lists_are_read_page_by_page(api: Api, kube: Kube) -> None:
    api.put("/api/v1/pods", {"items": [{"n": 1}], "metadata": {}})
    listing = api.objects["/api/v1/pods"]
    listing["metadata"]["continue"] = "more"

    async def second_page() -> None:
        while not api.requests:  # noqa: ASYNC110 - the server gives no event
            await asyncio.sleep(0.001)
        listing["metadata"].pop("continue")

    turning = asyncio.create_task(second_page())
    items = await kube.list("/api/v1/pods", label_selector="a=b")
    await turning
    assert len(items) == len(api.requests) >= 1
    assert api.requests[0][2]["labelSelector"] == "a=b"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(403, b'{"message": "pods is forbidden"}', "pods is forbidden"), (500, b"<html>", "<html>"), (409, b"[]", "409")],
)
async def test_a_refusal_names_the_request_and_the_reason(
    api: Api, kube: Kube, status: int, body: bytes, said: str
) -> None:
    api.answer = web.Response(status=status, body=body)
    with pytest.raises(KubeError, match=said) as caught:
        await kube.get(POD)
    assert caught.value.status == status
    assert POD in str(caught.value)


async def test_silence_is_an_error_in_bounded_time(api: Api, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp  # noqa: PLC0415 - for this test alone

    monkeypatch.setattr("dynamollm.adapters.kube._TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    api.hang = True
    with pytest.raises(KubeError, match="does not answer") as caught:
        await kube.get(POD)
    assert caught.value.status is None


# ------------------------------------------------------------------ the lease
class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lease(kube: Kube, identity: str, time: Time) -> Lease:
    return Lease(kube=kube, namespace="system", name="operator", identity=identity, monotonic=time)


async def test_one_holds_it_and_the_other_waits_until_it_is_abandoned(kube: Kube) -> None:
    time = Time()
    first, second = lease(kube, "first", time), lease(kube, "second", time)
    assert await first._try() == "first"
    assert await second._try() == "first"
    time.now_s = DURATION_S - 1
    assert await first._try() == "first"  # renewed
    time.now_s = DURATION_S + 2
    assert await second._try() == "first"
    time.now_s += DURATION_S + 1
    assert await second._try() == "second"
    assert await first._try() == "second"


async def test_a_released_lease_is_free_at_once(kube: Kube) -> None:
    time = Time()
    first, second = lease(kube, "first", time), lease(kube, "second", time)
    await first._try()
    await first.release()
    assert await second._try() == "second"
    await first.release()  # not its own any more
    assert await second._try() == "second"


async def test_of_two_at_once_one_gets_it(api: Api, kube: Kube) -> None:
    time = Time()
    names = ("a", "b", "c")
    answers = await asyncio.gather(*(lease(kube, name, time)._try() for name in names))
    holder = next(iter(api.objects.values()))["spec"]["holderIdentity"]
    # Who comes late enough to read it hears who has it.
    assert [name for name, answer in zip(names, answers, strict=True) if answer == name] == [holder]


async def test_who_cannot_renew_in_time_lets_go(api: Api, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamollm.adapters.lease.RETRY_S", 0.01)
    time = Time()
    mine = lease(kube, "me", time)
    await mine.acquire()
    holding = asyncio.create_task(mine.hold())

    async def attempts(count: int) -> None:
        """Wait until so many more have begun: all but the last of them are over."""
        enough = len(api.requests) + 2 * (count + 1)  # a look and a write each
        while len(api.requests) < enough and not holding.done():  # noqa: ASYNC110 - the server gives no event
            await asyncio.sleep(0.001)

    async with asyncio.timeout(60):
        await attempts(3)
        assert not holding.done()
        api.answer = web.Response(status=500)
        time.now_s = RENEW_DEADLINE_S - 1
        await attempts(3)
        assert not holding.done()
        time.now_s = RENEW_DEADLINE_S + 1
        await holding


async def test_a_lease_that_another_took_is_let_go(api: Api, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamollm.adapters.lease.RETRY_S", 0.01)
    mine = lease(kube, "me", Time())
    await mine.acquire()
    holding = asyncio.create_task(mine.hold())
    (where,) = api.objects
    api.put(where, {**api.objects[where], "spec": {**api.objects[where]["spec"], "holderIdentity": "other"}})
    async with asyncio.timeout(60):
        await holding
