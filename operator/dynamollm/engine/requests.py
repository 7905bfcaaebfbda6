"""From the body of an OpenAI request to what the instance model needs: lengths, priority, and how to answer."""

import math
import zlib
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from dynamollm.engine.errors import ApiError

OUTPUT_TOKENS_HEADER: Final = "X-Simulated-Output-Tokens"
TIMING_HEADER: Final = "X-Simulated-Timing"
"""Sets the generated length, so that a load generator need not tell the router the truth through max_tokens."""

BYTES_PER_TOKEN: Final = 4
"""Tokens of a text are its UTF-8 bytes by this, rounded up: the usual estimate for English."""

MEDIAN_OUTPUT_TOKENS: Final = 200
"""Median of the sampled length, near that of the Azure conversation trace of 2023."""

OUTPUT_SIGMA: Final = 0.9
"""Standard deviation of the logarithm of the sampled length: a few percent of answers are beyond 1,000 tokens."""

DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's and vLLM's default of max_tokens in /v1/completions; a chat may fill the context."""

_COMMON: Final = frozenset(
    {
        *("model", "max_tokens", "stream", "stream_options", "ignore_eos", "priority", "seed", "n", "temperature"),
        *("top_p", "top_k", "min_p", "stop", "stop_token_ids", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "logit_bias", "logprobs", "user", "min_tokens", "skip_special_tokens", "request_id"),
    }
)
_COMPLETION: Final = _COMMON | {"prompt", "echo", "best_of", "suffix"}
_CHAT: Final = _COMMON | {
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request that the engine accepts."""

    chat: bool
    input_tokens: int
    output_tokens: int
    """How many it will generate."""
    finish_reason: str
    """``stop`` or ``length``, as max_tokens compares with the length that the model would have chosen."""
    priority: int
    """Lower is served first, where the engine orders by priority."""
    stream: bool
    include_usage: bool


def parse(
    raw: bytes, *, chat: bool, model: str, max_model_tokens: int, forced_output: str | None = None
) -> GenerationRequest:
    """Return the request in ``raw``.

    Args:
        raw: the JSON body.
        chat: /v1/chat/completions rather than /v1/completions.
        model: the name that is served here.
        max_model_tokens: the most tokens, prompt and answer together, that one request may hold; longer answers are
            cut there, a prompt that leaves no room is refused.
        forced_output: the value of the header ``X-Simulated-Output-Tokens``.

    Raises:
        ApiError: 400 for a body that is not one, 404 for another model.
    """
    body = _object(raw, _CHAT if chat else _COMPLETION)
    _check_model(body, model)
    if (count := body.get("n", 1)) not in (1, None) or body.get("best_of", 1) not in (1, None):
        raise ApiError(400, f"n is {count!r}: this engine generates one answer per request; leave n out", param="n")
    input_tokens = _chat_tokens(body) if chat else _prompt_tokens(body)
    room = max_model_tokens - input_tokens
    if room < 1:
        message = (
            f"the prompt has {input_tokens} tokens and the context holds {max_model_tokens}: shorten the prompt by "
            f"{1 - room} or more"
        )
        raise ApiError(400, message, param="messages" if chat else "prompt")
    limit = _limit(body, chat=chat, room=room)
    natural = _natural_length(body, raw, limit=limit, forced_output=forced_output)
    # A forced length is the truth of the trace: max_tokens does not cut it, the context does.
    output_tokens = min(natural, room if forced_output is not None else limit)
    stream_options = body.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise ApiError(400, f"stream_options is {stream_options!r}: give an object", param="stream_options")
    return GenerationRequest(
        chat=chat,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        finish_reason="length" if output_tokens < natural else "stop",
        priority=_integer(body, "priority", default=0, minimum=None),
        stream=_boolean(body, "stream"),
        include_usage=bool((stream_options or {}).get("include_usage")),
    )


def text_tokens(text: str) -> int:
    """Return the tokens of a text by the estimate of four bytes each."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // BYTES_PER_TOKEN)


def _object(raw: bytes, known: frozenset[str]) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON ({error}): send a JSON object") from None
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is a JSON {type(body).__name__}: send an object")
    if unknown := sorted(body.keys() - known):
        raise ApiError(400, f"unknown field {unknown[0]!r}: leave it out", param=unknown[0])
    return body


def _check_model(body: dict[str, Any], model: str) -> None:
    name = body.get("model", model)
    if name != model:
        raise ApiError(404, f"the model {name!r} does not exist: this engine serves {model!r}", param="model")


def _prompt_tokens(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return text_tokens(prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return len(prompt)
    raise ApiError(400, "prompt must be one non-empty string or list of token ids", param="prompt")


def _chat_tokens(body: dict[str, Any]) -> int:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a non-empty list of {role, content}", param="messages")
    return max(1, sum(_content_tokens(message) for message in messages))


def _content_tokens(message: Any) -> int:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError(400, f"message {message!r:.80}: give an object with role and content", param="messages")
    content = message.get("content")
    if isinstance(content, str):
        return text_tokens(content)
    if content is None:
        return 0
    parts = content if isinstance(content, list) else [content]
    total = 0
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, f"content {part!r:.80}: this engine reads text parts only", param="messages")
        total += text_tokens(part["text"])
    return total


def _limit(body: dict[str, Any], *, chat: bool, room: int) -> int:
    default = room if chat else DEFAULT_COMPLETION_TOKENS
    limit = _integer(body, "max_tokens", default=default, minimum=1)
    if chat:
        limit = _integer(body, "max_completion_tokens", default=limit, minimum=1)
    return min(limit, room)


def _natural_length(body: dict[str, Any], raw: bytes, *, limit: int, forced_output: str | None) -> int:
    if forced_output is not None:
        if not forced_output.isascii() or not forced_output.isdigit() or int(forced_output) < 1:
            raise ApiError(400, f"{OUTPUT_TOKENS_HEADER} is {forced_output!r}: give an integer of 1 or more")
        return int(forced_output)
    if _boolean(body, "ignore_eos"):
        return limit + 1  # it would go on: the limit is what ends it
    seed = _integer(body, "seed", default=zlib.crc32(raw), minimum=None)
    return max(1, round(Random(seed).lognormvariate(math.log(MEDIAN_OUTPUT_TOKENS), OUTPUT_SIGMA)))


def _integer(body: dict[str, Any], name: str, *, default: int, minimum: int | None) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or (minimum is not None and value < minimum):
        what = "an integer" if minimum is None else f"an integer of {minimum} or more"
        raise ApiError(400, f"{name} is {value!r}: give {what}", param=name)
    return value


def _boolean(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise ApiError(400, f"{name} is {value!r}: give true or false", param=name)
    return value
