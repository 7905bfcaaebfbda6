import math

import pytest

from dynamollm.core.classes import RequestClass
from dynamollm.core.selection import Candidate, choose, choose_among, larger_pools, pool_order

NINE = {each: each.value.lower() for each in RequestClass}


def candidate(name: str, *, tp: int = 2, in_flight: int = 0, last_chosen: int = 0, full: float = math.inf) -> Candidate:
    return Candidate(
        name=name,
        pool="p",
        tensor_parallel=tp,
        address="127.0.0.1:8000",
        in_flight=in_flight,
        full_in_flight=full,
        last_chosen=last_chosen,
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


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        # By what each carries, not by GPUs: half of the GPUs carry a seventh here.
        ([candidate("a", tp=2, in_flight=3, full=10.0), candidate("b", tp=4, in_flight=25, full=70.0)], "b"),
        ([candidate("a", tp=2, in_flight=3, full=10.0), candidate("b", tp=4, in_flight=28, full=70.0)], "a"),
        ([candidate("a", tp=2, full=10.0), candidate("b", tp=4, full=70.0)], "b"),
        # One is not known: by GPUs.
        ([candidate("a", tp=2, in_flight=3, full=10.0), candidate("b", tp=4, in_flight=25)], "a"),
        # Unless that one may not be chosen.
        (
            [
                candidate("a", tp=2, in_flight=3, full=10.0),
                candidate("b", tp=4, in_flight=25, full=70.0),
                candidate("c", in_flight=20),
            ],
            "b",
        ),
    ],
)
def test_least_loaded_by_what_each_carries_where_that_is_known(candidates: list[Candidate], expected: str) -> None:
    chosen = choose(candidates, max_in_flight_per_gpu=10)
    assert chosen is not None
    assert chosen.name == expected


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


@pytest.mark.parametrize(
    ("request_class", "expected"),
    [(RequestClass.SS, 3), (RequestClass.MM, 2), (RequestClass.LM, 1), (RequestClass.LL, 1)],
)
def test_larger_pools_serve_the_class_or_larger_ones(request_class: RequestClass, expected: int) -> None:
    routing = {c: "ss" if c is RequestClass.SS else "ml" if c.value[0] in "SM" else "ll" for c in RequestClass}
    assert larger_pools(request_class, routing) == expected


OWN, LARGER, SMALLER = (
    [candidate("own", in_flight=4, full=4.5)],
    [candidate("larger", in_flight=3, full=4.5)],
    [candidate("smaller", full=4.5)],
)


@pytest.mark.parametrize(
    ("pools", "larger", "expected"),
    [
        # Own pool while it carries the request.
        ([[candidate("own", in_flight=3, full=4.5)], LARGER], 2, "own"),
        ([[candidate("own", in_flight=4, full=5.0)], LARGER], 2, "own"),
        # Full: the nearest larger one that is not.
        ([OWN, LARGER], 2, "larger"),
        ([OWN, [candidate("full", in_flight=9, full=4.5)], LARGER], 3, "larger"),
        # Never a smaller one, where requests would hold up shorter ones.
        ([OWN, SMALLER], 1, "own"),
        # Nobody is better off: its own.
        ([OWN, [candidate("full", in_flight=4, full=4.5)]], 2, "own"),
        # What carries is not known: as long as there is room.
        ([[candidate("own", in_flight=7)], LARGER], 2, "own"),
        ([OWN, [candidate("unknown", in_flight=7)]], 2, "unknown"),
        # No room at all: the next, whichever.
        ([[candidate("own", in_flight=8)], SMALLER], 1, "smaller"),
        ([[], LARGER], 2, "larger"),
        ([[], []], 2, None),
    ],
)
def test_a_burst_of_one_class_finds_room_in_larger_pools(
    pools: list[list[Candidate]], larger: int, expected: str | None
) -> None:
    chosen = choose_among(pools, larger=larger, max_in_flight_per_gpu=4)
    assert (chosen.name if chosen else None) == expected
