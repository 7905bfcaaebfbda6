"""The order of service reaches the engines' arguments, and tells the router whom it may send priorities."""

import copy
from typing import Any

from dynamollm.api import names
from unit.controller.world import World


def engine_template(world: World) -> dict[str, Any]:
    found = [body for name, body in world.kube.of("Deployment").items() if not name.endswith("-router")]
    template: dict[str, Any] = copy.deepcopy(found[0]["spec"]["template"])
    return template


async def test_engines_serve_by_priority_where_the_service_orders_by_deadline() -> None:
    world = World()
    await world.settle()
    template = engine_template(world)
    assert names.ANNOTATION_SCHEDULING not in template["metadata"]["annotations"]
    assert not any("--scheduling-policy" in argument for argument in template["spec"]["containers"][0]["args"])

    world.put_service(engine={"scheduling": "EarliestDeadlineFirst", "args": ["--startup-seconds=1"]})
    await world.cycle()
    template = engine_template(world)
    assert template["metadata"]["annotations"][names.ANNOTATION_SCHEDULING] == "EarliestDeadlineFirst"
    # Before the user's own arguments.
    assert template["spec"]["containers"][0]["args"][-2:] == ["--scheduling-policy=priority", "--startup-seconds=1"]
