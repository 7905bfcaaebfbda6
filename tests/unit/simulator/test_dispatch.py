import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamollm.core.selection import Candidate, choose, choose_among
from dynamollm.simulator import dispatch
from dynamollm.simulator.fleet import serve
from dynamollm.simulator.fleet_state import MAX_IN_FLIGHT_PER_GPU, new_fleet
from dynamollm.simulator.shipped import open_profile
from dynamollm.simulator.state import new_engines
from dynamollm.simulator.steps import StepTable
from dynamollm.simulator.tally import alone_ms

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)

PROFILE = open_profile("modern")
TABLE = StepTable(PROFILE)
SLO_MS = np.full(9, 400.0)

members = st.lists(
    st.tuples(
        st.sampled_from([2, 4, 8]),
        st.integers(0, 8 * MAX_IN_FLIGHT_PER_GPU),
        st.integers(0, 20),
        st.sampled_from([3.0, 20.0, 77.7, 300.0]),
    ),
    max_size=8,
    unique_by=lambda one: one[2],
)


@given(members=members, unknown=st.sets(st.integers(0, 7), max_size=1))
@settings(deadline=None)
def test_the_compiled_choice_is_that_of_the_router(
    members: list[tuple[int, int, int, float]], unknown: set[int]
) -> None:
    engines = new_engines(TABLE, instances=8, batch=4, slots=4)
    fleet = new_fleet(
        instances=8, pools=1, ttft_slo_ms=SLO_MS, tbt_slo_ms=SLO_MS, by_deadline=False, alone_row=0, alone_chunk=0
    )
    candidates = []
    for place, (degree, in_flight, last, carried) in enumerate(members):
        full = np.inf if place in unknown else carried
        one = engines.instances[place]
        one["tensor_parallel"], one["in_flight"], one["wake_s"] = degree, in_flight, np.inf
        fleet.members[0, place] = place
        fleet.n_members[0] += 1
        fleet.last_chosen[place] = last
        fleet.full_in_flight[place] = full
        candidates.append(
            Candidate(str(place), "ll", degree, "", in_flight=in_flight, full_in_flight=full, last_chosen=last)
        )
    expected = choose(candidates, max_in_flight_per_gpu=MAX_IN_FLIGHT_PER_GPU)
    assert dispatch.choose(engines, fleet, 0, 0.0) == (-1 if expected is None else int(expected.name))


POOLS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([2, 4, 8]), st.integers(0, 70), st.sampled_from([1.0, 8.5, 40.0, np.inf])), max_size=3
    ),
    min_size=1,
    max_size=4,
)


@given(POOLS, st.integers(1, 4))
@settings(deadline=None)
def test_so_is_the_choice_among_pools(pools: list[list[tuple[int, int, float]]], larger: int) -> None:
    larger = min(larger, len(pools))
    engines = new_engines(TABLE, instances=12, batch=4, slots=4)
    fleet = new_fleet(
        instances=12, pools=4, ttft_slo_ms=SLO_MS, tbt_slo_ms=SLO_MS, by_deadline=False, alone_row=0, alone_chunk=0
    )
    candidates: list[list[Candidate]] = []
    place = 0
    for pool, members in enumerate(pools):
        fleet.order[0, pool] = pool
        candidates.append([])
        for degree, in_flight, full in members:
            one = engines.instances[place]
            one["tensor_parallel"], one["in_flight"], one["wake_s"] = degree, in_flight, np.inf
            fleet.full_in_flight[place] = full
            fleet.members[pool, fleet.n_members[pool]] = place
            fleet.n_members[pool] += 1
            candidates[pool].append(Candidate(str(place), "ll", degree, "", in_flight=in_flight, full_in_flight=full))
            place += 1
    fleet.larger[0] = larger
    expected = choose_among(candidates, larger=larger, max_in_flight_per_gpu=MAX_IN_FLIGHT_PER_GPU)
    assert dispatch.choose_among(engines, fleet, 0, 0.0) == (-1 if expected is None else int(expected.name))


@pytest.mark.parametrize("profile", ["modern", "paper"])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (300, 2), (900, 350), (8000, 40)])
def test_a_request_alone_takes_what_the_closed_form_says(profile: str, inputs: int, outputs: int) -> None:
    model = open_profile(profile)
    table = StepTable(model)
    served = serve(
        model,
        tensor_parallel=8,
        clock_mhz=1980,
        arrival_s=np.array([0.0]),
        input_tokens=np.array([inputs]),
        output_tokens=np.array([outputs]),
        request_class=np.array([0]),
    )
    row = table.rows[table.row(tensor_parallel=8, clock_mhz=1980)]
    chunk = model.max_batched_tokens if model.interleaves_prefill else 0
    assert served.end_s[0] * 1e3 == pytest.approx(alone_ms(row, chunk, inputs, outputs), rel=1e-6)


@pytest.mark.parametrize(
    ("routers", "busy"),
    [
        ([0, 0, 0, 0], [2, 2]),
        # Each router sees idle instances and begins with the first one.
        ([0, 1, 2, 3], [4, 0]),
        ([0, 1, 0, 1], [2, 2]),
    ],
)
def test_a_router_knows_of_its_own_requests_only(routers: list[int], busy: list[int]) -> None:
    def ends(count: int, instances: int, router: list[int]) -> list[float]:
        same = np.full(count, 200)
        found = serve(
            PROFILE,
            tensor_parallel=8,
            clock_mhz=1980,
            arrival_s=np.zeros(count),
            input_tokens=same,
            output_tokens=same,
            request_class=same * 0,
            instances=instances,
            router=np.array(router),
            table=TABLE,
        )
        return sorted(found.end_s)

    assert ends(4, 2, routers) == sorted(one for count in busy if count for one in ends(count, 1, [0] * count))
