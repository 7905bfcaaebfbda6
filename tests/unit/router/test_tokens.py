import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.router.tokens import InputEstimate, PromptSize, StreamCounter, Usage, usage_of

TOKEN = b'data: {"choices":[{"text":" a\\n\\ndata: not an event"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"


def fed(data: bytes, *, cuts: list[int] | None = None, chat: bool = False) -> StreamCounter:
    counter = StreamCounter(chat=chat)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or ()), len(data)]
    for start, end in itertools.pairwise(edges):
        counter.feed(data[start:end])
    return counter


@given(tokens=st.integers(0, 40), cuts=st.lists(st.integers(0, 10_000)), crlf=st.booleans())
def test_events_are_counted_exactly_wherever_chunks_are_cut(tokens: int, *, cuts: list[int], crlf: bool) -> None:
    data = TOKEN * tokens + DONE
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    counter = fed(data, cuts=cuts)
    assert (counter.tokens(), counter.complete) == (tokens, True)


@given(cuts=st.lists(st.integers(0, 10_000)))
def test_usage_wins_over_counting(cuts: list[int]) -> None:
    counter = fed(TOKEN * 3 + USAGE + DONE, cuts=cuts)
    assert counter.usage() == Usage(prompt_tokens=7, completion_tokens=5)
    assert counter.tokens() == 5


def test_a_chat_stream_begins_with_its_role() -> None:
    assert fed(TOKEN * 4 + DONE, chat=True).tokens() == 3


def test_a_stream_that_has_not_ended_counts_what_came() -> None:
    counter = fed(TOKEN * 4)
    assert (counter.tokens(), counter.complete) == (4, False)


def test_a_stream_that_ends_with_an_error_is_not_complete() -> None:
    assert not fed(TOKEN + b'data: {"error": {"code": 500}}\n\n' + DONE).complete


def test_text_that_speaks_of_usage_is_no_usage() -> None:
    text = b"data: " + json.dumps({"choices": [{"text": 'say "usage": {'}]}).encode() + b"\n\n"
    assert fed(text + DONE).usage() is None


@pytest.mark.parametrize("answer", [None, [], {}, {"usage": None}, {"usage": {"prompt_tokens": 1}}, {"usage": 3}])
def test_answers_without_usage(answer: object) -> None:
    assert usage_of(answer) is None


def test_ids_are_counted_exactly_and_text_by_bytes() -> None:
    estimate = InputEstimate()
    assert estimate.tokens(PromptSize(token_ids=17)) == 17
    assert estimate.tokens(PromptSize(text_bytes=401)) == 101
    assert estimate.tokens(PromptSize(token_ids=17, text_bytes=8)) == 19
    assert estimate.tokens(PromptSize()) == 1


def test_usage_calibrates_the_estimate() -> None:
    estimate = InputEstimate()
    for _ in range(300):
        estimate.calibrate(PromptSize(text_bytes=1000), 500)
    assert estimate.tokens(PromptSize(text_bytes=1000)) == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize(
    ("size", "prompt_tokens"), [(PromptSize(token_ids=9), 9), (PromptSize(token_ids=9, text_bytes=4), 8)]
)
def test_what_says_nothing_of_text_calibrates_nothing(size: PromptSize, prompt_tokens: int) -> None:
    estimate = InputEstimate()
    estimate.calibrate(size, prompt_tokens)
    assert estimate.bytes_per_token == 4


def test_absurd_usage_is_bounded() -> None:
    estimate = InputEstimate()
    for _ in range(1000):
        estimate.calibrate(PromptSize(text_bytes=1_000_000), 1)
    assert estimate.bytes_per_token <= 16
