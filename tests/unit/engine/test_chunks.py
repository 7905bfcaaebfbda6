import json
from typing import Any

import pytest

from dynamollm.engine.chunks import Renderer, word
from dynamollm.engine.requests import GenerationRequest


def renderer(*, chat: bool = False, tokens: int = 5, include_usage: bool = False) -> Renderer:
    request = GenerationRequest(
        chat=chat,
        input_tokens=9,
        output_tokens=tokens,
        finish_reason="stop",
        priority=0,
        stream=True,
        include_usage=include_usage,
    )
    return Renderer(request, request_id="7", model='a"b', created_s=11)


def events(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    lines = data.decode().removesuffix("\n\n").split("\n\n")
    return [line if line.endswith("[DONE]") else json.loads(line.removeprefix("data: ")) for line in lines]


def test_one_event_per_token_however_they_are_gathered() -> None:
    whole = renderer().tokens(0, 5)
    assert renderer().tokens(0, 2) + renderer().tokens(2, 3) == whole
    *tokens, done = events(whole)
    assert done == "data: [DONE]"
    assert tokens[0] == {
        "id": "cmpl-7",
        "created": 11,
        "model": 'a"b',
        "object": "text_completion",
        "choices": [{"index": 0, "text": " lorem", "logprobs": None, "finish_reason": None, "stop_reason": None}],
    }
    assert [token["choices"][0]["text"] for token in tokens] == [word(index) for index in range(5)]
    assert [token["choices"][0]["finish_reason"] for token in tokens] == [None] * 4 + ["stop"]


def test_a_chat_begins_with_its_role() -> None:
    role, first, last, _done = events(renderer(chat=True, tokens=2).tokens(0, 2))
    assert (role["object"], role["id"]) == ("chat.completion.chunk", "chatcmpl-7")
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["delta"] == {"content": " lorem"}
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("chat", [False, True])
def test_usage_comes_last_when_asked_for(*, chat: bool) -> None:
    *tokens, usage, done = events(renderer(chat=chat, include_usage=True).tokens(0, 5))
    assert done == "data: [DONE]"
    assert (usage["choices"], usage["usage"]) == (
        [],
        {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
    )
    assert all(token["usage"] is None for token in tokens)


@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_in_one_piece_has_the_same_text(*, chat: bool) -> None:
    answer = json.loads(renderer(chat=chat).whole())
    choice = answer["choices"][0]
    text = choice["message"]["content"] if chat else choice["text"]
    assert text == "".join(word(index) for index in range(5))
    assert answer["object"] == ("chat.completion" if chat else "text_completion")
    assert answer["usage"]["completion_tokens"] == 5
