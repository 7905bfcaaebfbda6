import aiohttp
import pytest

from component.addresses import fresh_ip
from component.router.conftest import Stack, eventually
from component.router.fakes import FakeApi, routing, streams
from dynamollm.adapters import podwatch
from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.core.errors import InvalidInputError
from dynamollm.router.fleet import Fleet


async def test_only_the_services_engines_and_its_routing_are_watched(stack: Stack) -> None:
    asked = {(kind, query.get("labelSelector"), query.get("fieldSelector")) for kind, query in stack.api.queries}
    assert asked == {
        ("pods", "dynamollm.io/service=chat,dynamollm.io/component=engine", None),
        ("configmaps", None, "metadata.name=chat-routing"),
    }


async def test_the_last_known_state_stands_while_the_api_is_away(stack: Stack) -> None:
    await stack.engine("a", streams(1))
    stack.api.refuse = True
    stack.api.end_watches()
    await eventually(lambda: stack.api.watching("pods") == 0)
    async with stack.post() as response:
        assert response.status == 200
    stack.api.put_pod("b", fresh_ip())
    lists = len([1 for kind, query in stack.api.queries if kind == "pods" and "watch" not in query])
    stack.api.refuse = False
    await eventually(lambda: stack.serving() == {"a", "b"})
    # What it missed was told by the next watch.
    assert len([1 for kind, query in stack.api.queries if kind == "pods" and "watch" not in query]) == lists


async def test_a_watch_goes_on_from_where_the_last_one_ended(stack: Stack) -> None:
    await stack.engine("a", streams(1))
    version = str(stack.api.objects["pods"]["a"]["metadata"]["resourceVersion"])
    before = len(stack.api.queries)
    stack.api.end_watches()
    await eventually(lambda: len([1 for kind, _ in stack.api.queries[before:] if kind == "pods"]) >= 1)
    query = next(query for kind, query in stack.api.queries[before:] if kind == "pods")
    assert (query["watch"], query["resourceVersion"]) == ("1", version)


async def test_bookmarks_move_the_version_on(stack: Stack) -> None:
    stack.api.send("pods", {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}})
    stack.api.end_watches()
    await eventually(lambda: any(query.get("resourceVersion") == "777" for _, query in stack.api.queries))


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_version_that_is_too_old_leads_to_a_new_list(stack: Stack, how: str) -> None:
    # A pod that came while no watch was told of it.
    silent = stack.api._queues["pods"].copy()
    stack.api._queues["pods"].clear()
    stack.api.put_pod("missed", fresh_ip())
    stack.api._queues["pods"] |= silent
    if how == "event":
        stack.api.send("pods", {"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    else:
        stack.api.gone = True
        stack.api.end_watches()
        await eventually(lambda: stack.api.queries[-1][1].get("watch") is None)
        stack.api.gone = False
    await eventually(lambda: stack.serving() == {"missed"})


async def test_a_watch_that_died_silently_is_found_out(
    monkeypatch: pytest.MonkeyPatch, api: tuple[FakeApi, str], stack: Stack
) -> None:
    monkeypatch.setattr(podwatch, "WATCH_S", 0)
    monkeypatch.setattr(podwatch, "_GRACE_S", 0.1)
    fake, _ = api
    # The running watch still has the long bound; the next one has the short one.
    fake.end_watches()
    await eventually(lambda: any(query.get("timeoutSeconds") == "0" for _, query in fake.queries))
    fake.forget_watches()
    fake.put_pod("late", fresh_ip())
    fake.gone = True
    await eventually(lambda: stack.serving() == {"late"})
    fake.gone = False


async def test_readiness_waits_for_pods_and_routing(fleet: Fleet) -> None:
    assert not fleet.ready
    fleet.set_pods({})
    assert not fleet.ready
    fleet.set_routing({})
    assert not fleet.ready


async def test_readyz_and_models(stack: Stack) -> None:
    async with stack.client.get("/readyz") as response:
        assert response.status == 200
    async with stack.client.get("/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["llama"]
    stack.api.put_routing(routing() | {"model": "other"})
    await eventually(lambda: stack.fleet.routing is not None and stack.fleet.routing.model == "other")


def test_in_cluster_access_needs_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidInputError, match="KUBERNETES_SERVICE_HOST"):
        ApiAccess.in_cluster()


async def test_in_cluster_access_sends_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    access = ApiAccess.in_cluster(tmp_path)
    assert access.url == "https://[fd00::1]:6443"
    assert access.token_file is not None
    for token in ("one", "two"):
        access.token_file.write_text(token + "\n")
        assert access.headers() == {"Authorization": f"Bearer {token}"}
    async with ApiAccess(url="http://127.0.0.1").session() as session:
        assert isinstance(session, aiohttp.ClientSession)


async def test_a_watch_that_met_a_bug_fails_the_liveness_probe(stack: Stack) -> None:
    async with stack.client.get("/healthz") as response:
        assert response.status == 200
    stack.api.send("pods", {"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}})

    async def alive() -> bool:
        async with stack.client.get("/healthz") as response:
            return bool(response.status == 200)

    while await alive():
        pass
