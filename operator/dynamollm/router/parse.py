"""What the router needs to know of a request's body, and no more: engines judge the rest."""

from dataclasses import dataclass
from typing import Any

import orjson

from dynamollm.router.errors import RequestRefusedError
from dynamollm.router.tokens import PromptSize


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """The part of a body that routing depends on."""

    model: str
    size: PromptSize
    max_tokens: int | None
    chat: bool
    stream: bool
    has_priority: bool
    """Whether the client has set ``priority`` itself."""


def parse(raw: bytes, *, chat: bool) -> ClientRequest:
    """Return what a body asks for.

    Raises:
        RequestRefusedError: 400, where it is no JSON object or names no model.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestRefusedError(400, f"the body is not JSON ({error}): send a JSON object") from None
    if not isinstance(body, dict):
        raise RequestRefusedError(400, f"the body is a JSON {type(body).__name__}: send an object")
    model = body.get("model")
    if not isinstance(model, str):
        raise RequestRefusedError(400, f"model is {model!r}: give the name of the model")
    return ClientRequest(
        model=model,
        size=_messages_size(body.get("messages")) if chat else _prompt_size(body.get("prompt")),
        max_tokens=_max_tokens(body),
        chat=chat,
        stream=body.get("stream") is True,
        has_priority="priority" in body,
    )


def with_priority(raw: bytes, priority: int) -> bytes:
    """Return a body that ``parse`` has read and that has no priority, with one; all other bytes stay as they are."""
    before, _, after = raw.partition(b"{")
    return b'%s{"priority":%d,%s' % (before, priority, after)


def _max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def _text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _prompt_size(prompt: Any) -> PromptSize:
    if isinstance(prompt, str):
        return PromptSize(text_bytes=_text_bytes(prompt))
    if not isinstance(prompt, list):
        return PromptSize()
    if prompt and type(prompt[0]) is int:
        return PromptSize(token_ids=len(prompt))
    parts = [_prompt_size(part) for part in prompt if isinstance(part, (str, list))]
    return PromptSize(
        token_ids=sum(part.token_ids for part in parts), text_bytes=sum(part.text_bytes for part in parts)
    )


def _messages_size(messages: Any) -> PromptSize:
    total = 0
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            total += _text_bytes(content)
        elif isinstance(content, list):
            texts = (part.get("text") for part in content if isinstance(part, dict))
            total += sum(_text_bytes(text) for text in texts if isinstance(text, str))
    return PromptSize(text_bytes=total)
