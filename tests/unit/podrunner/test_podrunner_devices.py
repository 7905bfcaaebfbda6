from typing import Any

import pytest

from lab.podrunner.devices import GPU, DeviceManager, NoDevicesError, gpus_of

UUIDS = tuple(f"GPU-{slot}" for slot in range(8))


def pod(uid: str, *gpus: int) -> dict[str, Any]:
    containers = [
        {"name": f"c{index}", "resources": {"limits": {GPU: str(count)}} if count else {}}
        for index, count in enumerate(gpus)
    ]
    return {"metadata": {"uid": uid}, "spec": {"containers": containers}}


def test_pods_and_containers_get_distinct_gpus() -> None:
    manager = DeviceManager(UUIDS)
    assert manager.allocate(pod("a", 2, 0, 1)) == {"c0": UUIDS[:2], "c2": UUIDS[2:3]}
    assert manager.allocate(pod("b", 5)) == {"c0": UUIDS[3:]}


def test_init_containers_have_gpus_that_the_others_get_after_them() -> None:
    wanting = pod("a", 2, 1)
    wanting["spec"]["initContainers"] = [
        {"name": "small", "resources": {"limits": {GPU: "1"}}},
        {"name": "large", "resources": {"limits": {GPU: "4"}}},
        {"name": "none"},
    ]
    manager = DeviceManager(UUIDS)
    given = manager.allocate(wanting)
    assert given == {"small": UUIDS[:1], "large": UUIDS[:4], "c0": UUIDS[:2], "c1": UUIDS[2:3]}
    assert manager.allocate(pod("b", 4)) == {"c0": UUIDS[4:]}
    assert manager.release("a") == list(UUIDS[:4])


def test_a_pod_keeps_what_it_has() -> None:
    manager = DeviceManager(UUIDS)
    first = manager.allocate(pod("a", 4))
    assert manager.allocate(pod("a", 4)) == first == manager.held("a")


def test_a_pod_that_wants_more_than_is_free_gets_none() -> None:
    manager = DeviceManager(UUIDS)
    manager.allocate(pod("a", 6))
    with pytest.raises(NoDevicesError, match=r"requested 3 of nvidia.com/gpu, 2 are free"):
        manager.allocate(pod("b", 1, 2))
    assert manager.held("b") == {}
    assert manager.allocate(pod("c", 2)) == {"c0": UUIDS[6:]}


def test_released_gpus_are_given_again() -> None:
    manager = DeviceManager(UUIDS)
    manager.allocate(pod("a", 8))
    assert list(manager.release("a")) == list(UUIDS)
    assert list(manager.release("a")) == []
    assert manager.allocate(pod("b", 8)) == {"c0": UUIDS}


@pytest.mark.parametrize(
    ("resources", "count"),
    [({}, 0), ({"limits": {GPU: "2"}}, 2), ({"requests": {GPU: "3"}}, 3), ({"limits": {"cpu": "1"}}, 0)],
)
def test_what_a_container_asks_for(resources: dict[str, Any], count: int) -> None:
    assert gpus_of({"resources": resources}) == count
