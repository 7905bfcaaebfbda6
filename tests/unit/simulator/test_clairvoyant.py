"""The bound keeps the SLO with the least reserve that does."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamollm.simulator.clairvoyant import RESERVES, Clairvoyant, Search
from dynamollm.simulator.experiment import Question, _setup, prepare


def searched(keeping: Collection[float]) -> tuple[Search, list[float]]:
    """Search where these reserves keep the SLO."""
    search, tried = Search(), []
    told: list[float] = []
    while (reserve := search.reserve) is not None:
        search.told(told.append)(0.0)
        search.told(told.append)(1.0)
        result: Any = SimpleNamespace(meets_slo=reserve in keeping, reserve=reserve)
        search.take(result, SimpleNamespace(wall_s=2.0))  # type: ignore[arg-type] - only its time is read
        tried.append(reserve)
    assert told == sorted(told)
    assert told[-1] < 1.0
    assert search.wall_s == 2.0 * len(tried)
    assert len(set(tried)) == len(tried)
    return search, tried


@given(index=st.integers(0, len(RESERVES) - 1))
def test_the_least_reserve_that_keeps_the_slo_is_found(index: int) -> None:
    search, _ = searched(RESERVES[index:])
    assert search.best is not None
    result: Any = search.best[0]
    assert (result.reserve, result.meets_slo) == (RESERVES[index], True)


@given(keeping=st.sets(st.sampled_from(RESERVES), min_size=1))
def test_that_a_larger_one_misses_it_does_not_matter(keeping: set[float]) -> None:
    search, tried = searched(keeping)
    assert search.best is not None
    result: Any = search.best[0]
    kept = [reserve for reserve in tried if reserve in keeping]
    assert (result.reserve, result.meets_slo) == ((min(kept), True) if kept else (max(RESERVES), False))


def test_where_none_does_it_is_the_largest_and_says_so() -> None:
    search, tried = searched(())
    assert search.best is not None
    result: Any = search.best[0]
    assert (result.reserve, result.meets_slo) == (max(RESERVES), False)
    assert tried == sorted(tried)


def test_more_of_everybodys_reserve_takes_more_energy(tmp_path: Path) -> None:
    trace = tmp_path / "ten_minutes.csv"
    rows = "".join(f"{k * 0.15},{60 + 37 * (k % 60)},{10 + 7 * (k % 50)}\n" for k in range(4000))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    prepared = prepare(Question(trace=str(trace), servers=4))
    setup = _setup(prepared, "Clairvoyant", "fcfs")
    few, many = (Clairvoyant(setup, prepared.seen, Search(), reserve=one).run() for one in (0.8, 1.6))
    assert many.energy_j > 1.05 * few.energy_j
