"""What a cluster does to an instance while it runs, against `core.batching` under the same hands."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from engine_world import EDF, FCFS, MODERN, PAPER, profile, table
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.core.batching import Batch, Step
from dynamollm.core.profile import Profile
from dynamollm.core.records import Order
from dynamollm.simulator.control import NO_ROOM, TOO_LONG, cancel, pause, set_clock, start, stop, submit, take_waiting
from dynamollm.simulator.kernel import advance
from dynamollm.simulator.memory import free_slot
from dynamollm.simulator.state import NONE, Engines, InstanceSettings, grown, new_engines

# The first call after a change compiles the engine model: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1200)
TP = 4


@dataclass(frozen=True)
class Submit:
    input_tokens: int
    output_tokens: int
    slo_s: float


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class Clock:
    mhz: int


@dataclass(frozen=True)
class Look:
    pass


Deed = Submit | Cancel | Clock | Look

DEEDS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 0.05), st.floats(0.0, 3.0)),
        st.one_of(
            st.builds(Submit, st.integers(1, 2000), st.integers(1, 100), st.sampled_from([0.25, 2.0])),
            st.builds(Cancel, st.integers(0, 30)),
            st.builds(Clock, st.sampled_from([810, 1200, 1980])),
            st.just(Look()),
        ),
    ),
    min_size=1,
    max_size=40,
)


@dataclass
class Story:
    """What was seen: the requests inside after each deed, and when those not cancelled had their first and last token."""

    inside: list[int] = field(default_factory=list)
    first_s: dict[int, float] = field(default_factory=dict)
    end_s: dict[int, float] = field(default_factory=dict)


def engines(by: Profile, *, instances: int = 1, slots: int = 64) -> Engines:
    of = new_engines(table(by), instances=instances, batch=by.max_sequences, slots=slots)
    for place in range(instances):
        start(of, place, InstanceSettings.of(by, tensor_parallel=TP), TP, row(by, 1410), 0.0, 0.0)
    return of


def row(by: Profile, clock_mhz: int) -> int:
    return table(by).row(tensor_parallel=TP, clock_mhz=clock_mhz)


def put(
    of: Engines, tag: int, input_tokens: int, output_tokens: int, *, now_s: float, rank: float | None = None
) -> int:
    return submit(of, 0, tag, 0, input_tokens, output_tokens, now_s, now_s if rank is None else rank, now_s)


def compiled_story(by: Profile, order: Order, deeds: list[tuple[float, Deed]]) -> Story:
    story, of, slots, now_s = Story(), engines(by), [], 0.0
    cancelled: set[int] = set()
    for gap_s, deed in deeds:
        now_s += gap_s
        match deed:
            case Submit(inputs, outputs, slo_s):
                rank = now_s + slo_s if order is EDF else now_s
                slots.append(put(of, len(slots), inputs, outputs, now_s=now_s, rank=rank))
            case Cancel(which) if which < len(slots) and which not in cancelled:
                advance(of, 0, now_s)
                if of.requests[slots[which]]["stage"] > 0 and of.requests[slots[which]]["tag"] == which:
                    cancel(of, slots[which], now_s)
                    cancelled.add(which)
            case Clock(mhz):
                set_clock(of, 0, row(by, mhz), now_s)
            case _:
                advance(of, 0, now_s)
        story.inside.append(int(of.instances["in_flight"][0]))
    advance(of, 0, np.inf)
    assert of.instances["in_flight"][0] == of.instances["kv_used"][0] == of.instances["context"][0] == 0
    assert not of.class_decoding.any()
    for done in of.done[: of.totals["n_done"][0]]:
        story.first_s[int(done["tag"])], story.end_s[int(done["tag"])] = done["first_s"], done["end_s"]
    return story


class Stepper:
    """A batch in time: a step is taken when it begins, and known when it ends."""

    def __init__(self, by: Profile, order: Order) -> None:
        self.batch = Batch(by, tensor_parallel=TP, clock_mhz=1410, by_priority=order is EDF)
        self.story = Story()
        self.inside: set[int] = set()
        self._step: Step | None = None
        self._end_s = 0.0

    def advance(self, until_s: float) -> None:
        while True:
            if self._step is not None:
                if self._end_s > until_s:
                    return
                for tag in self._step.first_tokens:
                    self.story.first_s[tag] = self._end_s
                # Who was cancelled while its last step was under way has no end.
                for tag in self.inside.intersection(self._step.completions):
                    self.story.end_s[tag] = self._end_s
                    self.inside.discard(tag)
                self._step = None
            if self._end_s >= until_s:
                return
            self._step = self.batch.next_step()
            if self._step is None:
                self._end_s = until_s
                return
            self._end_s += self._step.duration_s


def stepped_story(by: Profile, order: Order, deeds: list[tuple[float, Deed]]) -> Story:
    stepper, now_s, count = Stepper(by, order), 0.0, 0
    for gap_s, deed in deeds:
        now_s += gap_s
        stepper.advance(now_s)
        match deed:
            case Submit(inputs, outputs, slo_s):
                stepper.batch.submit(
                    count, input_tokens=inputs, output_tokens=outputs, priority=now_s + slo_s, arrival_s=now_s
                )
                stepper.inside.add(count)
                count += 1
            case Cancel(which) if which in stepper.inside:
                stepper.batch.cancel(which)
                stepper.inside.discard(which)
            case Clock(mhz):
                stepper.batch.clock_mhz = mhz
        stepper.story.inside.append(len(stepper.inside))
    stepper.advance(1e9)
    assert not stepper.inside
    return stepper.story


@pytest.mark.parametrize("order", [FCFS, EDF], ids=["fcfs", "edf"])
@pytest.mark.parametrize(
    "by",
    [
        profile(MODERN),
        profile(PAPER),
        profile(MODERN, max_sequences=4, max_batched_tokens=512),
        profile(PAPER, max_sequences=4, max_batched_tokens=512),
        profile(MODERN, memory_percent=41),
    ],
    ids=["modern", "paper", "modern, tight", "paper, tight", "modern, little memory"],
)
@given(deeds=DEEDS)
def test_does_what_batching_does_under_the_same_hands(
    by: Profile, order: Order, deeds: list[tuple[float, Deed]]
) -> None:
    expected, found = stepped_story(by, order, deeds), compiled_story(by, order, deeds)
    assert found.inside == expected.inside
    assert found.end_s == pytest.approx(expected.end_s, rel=1e-9, abs=1e-9)
    assert found.first_s == pytest.approx({tag: expected.first_s[tag] for tag in found.first_s}, rel=1e-9, abs=1e-9)


def test_a_pause_holds_the_next_step_and_draws_idle_power() -> None:
    by = profile(MODERN)
    of = engines(by)
    pause(of, 0, 0.0, 2.0)
    put(of, 0, 500, 1, now_s=0.5)
    advance(of, 0, 2.0)
    assert of.instances["energy_j"][0] == pytest.approx(TP * by.loaded_idle_w * 2.0)
    advance(of, 0, np.inf)
    assert of.done[0]["first_s"] == pytest.approx(
        2.0 + by.prefill_ms(tokens=500, squared_tokens=500**2, tensor_parallel=TP, clock_mhz=1410) / 1e3 + 0.000338
    )


def test_what_waits_can_be_taken_out_in_order_of_service() -> None:
    of = engines(profile(MODERN, max_sequences=1))
    for tag, rank in enumerate([0.0, 7.0, 5.0, 6.0]):
        put(of, tag, 100, 50, now_s=0.001 * tag, rank=rank)
    taken = []
    while (slot := take_waiting(of, 0, 0.01)) != NONE:
        taken.append(int(of.requests[slot]["tag"]))
        free_slot(of, slot)
    assert taken == [2, 3, 1]
    assert of.instances["in_flight"][0] == 1
    advance(of, 0, np.inf)
    assert [one["tag"] for one in of.done[: of.totals["n_done"][0]]] == [0]


def test_an_instance_stops_only_when_empty_and_leaves_its_counters() -> None:
    of = engines(profile(MODERN))
    put(of, 0, 100, 50, now_s=0.0)
    assert not stop(of, 0, 0.1)
    assert stop(of, 0, 100.0)
    assert of.instances["prompt_tokens"][0] == 100
    assert of.instances["generated_tokens"][0] == 50
    assert of.instances["energy_j"][0] > TP * 115 * 100


def test_a_full_state_refuses_and_a_grown_one_goes_on_where_it_was() -> None:
    of = engines(profile(MODERN), slots=3)
    assert [put(of, tag, 10, 5, now_s=0.0) >= 0 for tag in range(3)] == [True, True, True]
    assert put(of, 3, 10, 5, now_s=0.0) == NO_ROOM
    # Nothing is collected yet: those that ended count as well.
    assert put(of, 3, 10, 5, now_s=100.0) == NO_ROOM
    of = grown(of, slots=2)
    assert put(of, 3, 10, 5, now_s=100.0) >= 0
    advance(of, 0, np.inf)
    assert sorted(of.done["tag"][: of.totals["n_done"][0]]) == [0, 1, 2, 3]


def test_a_request_that_never_fits_is_refused() -> None:
    assert put(engines(profile(MODERN, memory_percent=41)), 0, 6100, 100, now_s=0.0) == TOO_LONG
