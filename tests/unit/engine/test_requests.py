import json
import statistics
from typing import Any

import pytest

from dynamollm.engine.errors import ApiError
from dynamollm.engine.requests import GenerationRequest, parse

ROOM = 4096


def parsed(*, chat: bool = False, forced: str | None = None, room: int = ROOM, **fields: Any) -> GenerationRequest:
    content = {"messages": [{"role": "user", "content": "x" * 40}]} if chat else {"prompt": "x" * 40}
    raw = json.dumps({"model": "m"} | content | fields).encode()
    return parse(raw, chat=chat, model="m", max_model_tokens=room, forced_output=forced)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("abcde", 2), ("abcd", 1), ("ä" * 4, 2), ([5, 6, 7], 3), (["abcdefgh"], 2), ([[1, 2]], 2)],
)
def test_prompt_tokens_are_counted_exactly(prompt: Any, expected: int) -> None:
    assert parsed(prompt=prompt).input_tokens == expected


def test_chat_tokens_are_those_of_all_messages() -> None:
    parts = [{"type": "text", "text": "x" * 8}, {"type": "text", "text": "x" * 4}]
    messages = [{"role": "system", "content": "x" * 8}, {"role": "user", "content": parts}]
    assert parsed(chat=True, messages=messages).input_tokens == 5


@pytest.mark.parametrize(
    ("fields", "tokens", "reason"),
    [
        ({"max_tokens": 30, "ignore_eos": True}, 30, "length"),
        ({"ignore_eos": True}, 16, "length"),
        ({"max_tokens": 1, "seed": 1}, 1, "length"),
        ({"max_tokens": 30, "forced": "7"}, 7, "stop"),
        ({"max_tokens": 5, "forced": "70"}, 70, "stop"),
        ({"max_tokens": 5, "forced": "7", "ignore_eos": True}, 7, "stop"),
        ({"forced": "5000"}, ROOM - 10, "length"),
        ({"chat": True, "ignore_eos": True}, ROOM - 10, "length"),
        ({"chat": True, "max_completion_tokens": 9, "ignore_eos": True}, 9, "length"),
        ({"max_tokens": 9000, "ignore_eos": True}, ROOM - 10, "length"),
    ],
)
def test_generated_length(fields: dict[str, Any], tokens: int, reason: str) -> None:
    request = parsed(**fields)
    assert (request.output_tokens, request.finish_reason) == (tokens, reason)


def test_sampled_lengths_are_seeded_and_spread_around_200() -> None:
    lengths = [parsed(max_tokens=4000, seed=seed).output_tokens for seed in range(500)]
    assert lengths == [parsed(max_tokens=4000, seed=seed).output_tokens for seed in range(500)]
    assert statistics.median(lengths) == pytest.approx(200, rel=0.15)
    assert len(set(lengths)) > 200


def test_without_a_seed_the_body_is_one() -> None:
    assert parsed(max_tokens=4000) == parsed(max_tokens=4000)
    assert parsed(max_tokens=4000).output_tokens != parsed(max_tokens=4000, user="b").output_tokens


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "other"}, 404, "'other'"),
        ({"surprise": 1}, 400, "'surprise'"),
        ({"messages": []}, 400, "'messages'"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": [1, "b"]}, 400, "prompt"),
        ({"prompt": {}}, 400, "prompt"),
        ({"prompt": [1] * ROOM}, 400, "4096 tokens"),
        ({"max_tokens": 0}, 400, "max_tokens is 0"),
        ({"max_tokens": True}, 400, "max_tokens is True"),
        ({"stream": "yes"}, 400, "stream is 'yes'"),
        ({"stream_options": 3}, 400, "stream_options is 3"),
        ({"priority": 1.5}, 400, "priority is 1.5"),
        ({"n": 2}, 400, "n is 2"),
        ({"forced": "0"}, 400, "X-Simulated-Output-Tokens is '0'"),
        ({"forced": "many"}, 400, "X-Simulated-Output-Tokens is 'many'"),
        ({"chat": True, "messages": []}, 400, "messages"),
        ({"chat": True, "messages": [{"content": "a"}]}, 400, "message"),
        ({"chat": True, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text parts"),
        ({"chat": True, "prompt": "a"}, 400, "'prompt'"),
    ],
)
def test_refusals_name_the_field_and_the_value(fields: dict[str, Any], status: int, word: str) -> None:
    with pytest.raises(ApiError, match=word) as refused:
        parsed(**fields)
    assert refused.value.status == status
    error = json.loads(refused.value.body())["error"]
    assert (error["code"], error["message"]) == (status, str(refused.value))


@pytest.mark.parametrize("raw", [b"{", b"[]", b"3"])
def test_a_body_that_is_no_object(raw: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse(raw, chat=False, model="m", max_model_tokens=ROOM)
    assert refused.value.status == 400
