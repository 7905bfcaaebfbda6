import pytest

from dynamollm.core.classes import RequestClass
from dynamollm.core.selection import Candidate, choose, pool_order

NINE = {each: each.value.lower() for each in RequestClass}


def candidate(name: str, *, tp: int = 2, in_flight: int = 0, last_chosen: int = 0) -> Candidate:
    return Candidate(
        name=name, pool="p", tensor_parallel=tp, address="127.0.0.1:8000", in_flight=in_flight, last_chosen=last_chosen
    )


@pytest.mark.parametrize(
    ("request_class", "expected"),
    [
        (RequestClass.SS, ["ss", "sm", "sl", "ms", "mm", "ml", "ls", "lm", "ll"]),
        (RequestClass.MM, ["mm", "ml", "ls", "lm", "ll", "ms", "sl", "sm", "ss"]),
        (RequestClass.LL, ["ll", "lm", "ls", "ml", "mm", "ms", "sl", "sm", "ss"]),
    ],
)
def test_own_pool_then_larger_then_smaller(request_class: RequestClass, expected: list[str]) -> None:
    assert list(pool_order(request_class, NINE, NINE.values())) == expected


def test_pools_that_no_class_is_routed_to_come_last() -> None:
    routing = dict.fromkeys(RequestClass, "ll") | {RequestClass.SS: "ss"}
    assert pool_order(RequestClass.SM, routing, ["old", "ll", "ss"]) == ("ll", "ss", "old")


def test_without_routing_every_pool_is_tried() -> None:
    assert pool_order(RequestClass.SM, {}, ["b", "a"]) == ("a", "b")


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([candidate("a", in_flight=3), candidate("b", in_flight=2)], "b"),
        ([candidate("a", tp=2, in_flight=3), candidate("b", tp=8, in_flight=9)], "b"),
        ([candidate("a", tp=2), candidate("b", tp=8)], "b"),
        ([candidate("a", last_chosen=7), candidate("b", last_chosen=6)], "b"),
        ([candidate("a", in_flight=8), candidate("b", in_flight=8)], None),
        ([candidate("a", in_flight=8), candidate("b", tp=4, in_flight=15)], "b"),
        ([], None),
    ],
)
def test_least_loaded_per_gpu_with_room(candidates: list[Candidate], expected: str | None) -> None:
    chosen = choose(candidates, max_in_flight_per_gpu=4)
    assert (chosen.name if chosen else None) == expected


def test_avoided_candidates_are_not_chosen() -> None:
    candidates = [candidate("a"), candidate("b", in_flight=5)]
    chosen = choose(candidates, max_in_flight_per_gpu=4, avoid={"a"})
    assert chosen is not None
    assert chosen.name == "b"


def test_equals_take_turns() -> None:
    candidates = [candidate("a"), candidate("b"), candidate("c")]
    names = []
    for sequence in range(1, 7):
        chosen = choose(candidates, max_in_flight_per_gpu=4)
        assert chosen is not None
        chosen.last_chosen = sequence
        names.append(chosen.name)
    assert names == ["a", "b", "c", "a", "b", "c"]
