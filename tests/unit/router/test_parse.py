import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamollm.router.errors import RequestRefusedError
from dynamollm.router.parse import parse, with_priority
from dynamollm.router.tokens import PromptSize


def size(*, chat: bool = False, **fields: Any) -> PromptSize:
    return parse(json.dumps({"model": "m"} | fields).encode(), chat=chat).size


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("abcd", PromptSize(text_bytes=4)),
        ("äöü", PromptSize(text_bytes=6)),
        ([1, 2, 3], PromptSize(token_ids=3)),
        ([[1, 2], [3]], PromptSize(token_ids=3)),
        (["ab", "cd"], PromptSize(text_bytes=4)),
        ([], PromptSize()),
        (7, PromptSize()),
        (None, PromptSize()),
    ],
)
def test_size_of_a_prompt(prompt: Any, expected: PromptSize) -> None:
    assert size(prompt=prompt) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "abcd"}, {"role": "assistant", "content": "ef"}], 6),
        ([{"role": "user", "content": [{"type": "text", "text": "abc"}, {"type": "image_url"}]}], 3),
        ([{"role": "user"}, 5], 0),
        ("text", 0),
    ],
)
def test_size_of_a_chat(messages: Any, expected: int) -> None:
    assert size(chat=True, messages=messages) == PromptSize(text_bytes=expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"max_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 0}, None),
        ({"max_tokens": "9"}, None),
    ],
)
def test_max_tokens(fields: dict[str, Any], expected: int | None) -> None:
    assert parse(json.dumps({"model": "m"} | fields).encode(), chat=False).max_tokens == expected


@pytest.mark.parametrize(("raw", "word"), [(b"{", "JSON"), (b"3", "int"), (b"{}", "model"), (b'{"model":[]}', "model")])
def test_refusals_name_what_was_wrong(raw: bytes, word: str) -> None:
    with pytest.raises(RequestRefusedError, match=word) as refused:
        parse(raw, chat=False)
    assert refused.value.status == 400


@given(
    fields=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=4),
    blanks=st.text(" \n\t", max_size=3),
    priority=st.integers(min_value=0, max_value=2**53),
)
def test_a_priority_is_added_and_nothing_else_changes(fields: dict[str, Any], blanks: str, priority: int) -> None:
    fields = {"model": "m"} | {key: value for key, value in fields.items() if key not in {"model", "priority"}}
    raw = (blanks + json.dumps(fields)).encode()
    assert json.loads(with_priority(raw, priority)) == {**fields, "priority": priority}


@pytest.mark.parametrize(("fields", "expected"), [({}, False), ({"priority": 3}, True), ({"priority": None}, True)])
def test_a_clients_own_priority_is_seen(fields: dict[str, Any], expected: bool) -> None:  # noqa: FBT001 - a table
    assert parse(json.dumps({"model": "m"} | fields).encode(), chat=False).has_priority is expected
