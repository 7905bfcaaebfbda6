import asyncio

from component.router.conftest import Stack, eventually
from component.router.fakes import held, routing, sse, streams


async def test_a_class_goes_to_its_pool_and_the_stream_arrives_untouched(stack: Stack) -> None:
    await stack.route(routing(SS="ss"))
    small = await stack.engine("small", streams(20), pool="ss")
    large = await stack.engine("large", streams(20), pool="ll")
    async with stack.post(max_tokens=50) as response:
        assert (response.status, await response.read()) == (200, sse(20))
        assert response.headers["Content-Type"] == "text/event-stream"
    async with stack.post(prompt=[1] * 2000, max_tokens=50) as response:
        assert await response.read() == sse(20)
    assert (len(small.requests), len(large.requests)) == (1, 1)


async def test_the_body_reaches_the_engine_byte_for_byte(stack: Stack) -> None:
    engine = await stack.engine("a", streams(1))
    raw = b'{ "model":"llama",  "prompt": [1,2,3], "max_tokens":9, "stream":true, "unknown": 1.50 }'
    async with stack.client.post("/v1/completions", data=raw, headers={"Content-Type": "application/json"}) as response:
        await response.read()
    assert engine.requests == [("/v1/completions", raw)]


async def test_the_least_loaded_instance_per_gpu_is_chosen(stack: Stack) -> None:
    gate = asyncio.Event()
    small = await stack.engine("tp2", held(gate), tp=2)
    large = await stack.engine("tp4", held(gate), tp=4)
    responses = [await stack.post() for _ in range(6)]
    assert (len(small.requests), len(large.requests)) == (2, 4)
    assert await stack.metric("in_flight", pool="ll", instance="tp4") == 4
    gate.set()
    for response in responses:
        await response.read()
    assert await stack.metric("in_flight", pool="ll", instance="tp4") == 0


async def test_an_unrouted_pod_gets_nothing_new_while_its_streams_finish(stack: Stack) -> None:
    gate = asyncio.Event()
    old = await stack.engine("old", held(gate))
    response = await stack.post()
    stack.api.put_pod("old", old.ip, unrouted=True)
    new = await stack.engine("new", streams(3))
    await eventually(lambda: stack.serving() == {"new"})
    for _ in range(3):
        async with stack.post() as other:
            assert await other.read() == sse(3)
    assert (len(old.requests), len(new.requests)) == (1, 3)
    assert await stack.metric("in_flight", pool="ll", instance="old") == 1
    gate.set()
    assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_only_ready_pods_that_are_not_being_deleted_serve(stack: Stack) -> None:
    stack.api.put_pod("starting", "127.0.0.9", ready=False)
    engine = await stack.engine("a", streams(1))
    assert stack.serving() == {"a"}
    deleting = stack.api.objects["pods"]["a"]
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    stack.api.put("pods", deleting)
    await eventually(lambda: stack.serving() == set())
    stack.api.put_pod("a", engine.ip)
    await eventually(lambda: stack.serving() == {"a"})
    stack.api.delete("pods", "a")
    await eventually(lambda: stack.serving() == set())


async def test_a_pool_without_instances_gives_its_requests_to_the_next_larger_one(stack: Stack) -> None:
    await stack.route(routing(SS="ss", MM="mm", SL="sl"))
    middle = await stack.engine("middle", streams(1), pool="mm")
    large = await stack.engine("large", streams(1), pool="ll")
    async with stack.post(max_tokens=50) as response:
        assert response.status == 200
    # SS → (ss: none) → SM, which is in ll → ...: ll holds the next larger class.
    assert (len(middle.requests), len(large.requests)) == (0, 1)
    stack.api.delete("pods", "large")
    await eventually(lambda: stack.serving() == {"middle"})
    async with stack.post(prompt=[1] * 5000, max_tokens=50) as response:
        assert response.status == 200
    assert len(middle.requests) == 1


async def test_routing_that_is_broken_changes_nothing(stack: Stack) -> None:
    engine = await stack.engine("a", streams(1))
    stack.api.put_routing("{not json")
    stack.api.put_pod("b", "127.0.0.9", ready=False)
    await eventually(lambda: len(list(stack.fleet.known())) == 2)
    async with stack.post() as response:
        assert response.status == 200
    assert len(engine.requests) == 1


async def test_what_is_beyond_a_pool_goes_to_a_larger_one_that_is_not_full(stack: Stack) -> None:
    gate = asyncio.Event()
    small = await stack.engine("small", held(gate), pool="ss")
    large = await stack.engine("large", held(gate), pool="ll")
    await stack.route(routing(SS="ss") | {"full_in_flight": {"ss": {"2": 1.5}, "ll": {"2": 1.5}}})
    responses = [await stack.post(prompt=[1, 2], max_tokens=5) for _ in range(3)]
    # One each, and the third stays with its own pool, since neither would carry it.
    assert [len(small.requests), len(large.requests)] == [2, 1]
    gate.set()
    for response in responses:
        await response.read()


async def test_an_instance_that_the_plan_leaves_carries_no_less_than_before(stack: Stack) -> None:
    await stack.engine("small", streams(1), tp=2)
    await stack.engine("large", streams(1), tp=4)
    await stack.route(routing() | {"full_in_flight": {"ll": {"2": 10.0, "4": 70.0}}})
    await stack.route(routing() | {"full_in_flight": {"ll": {"4": 60.0}}})
    assert {one.name: one.full_in_flight for one in stack.fleet.known()} == {"small": 10.0, "large": 60.0}
