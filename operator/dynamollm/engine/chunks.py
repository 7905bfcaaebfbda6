"""Answers in vLLM's shape: one server-sent event per token, or one JSON object.

Everything but the word is rendered once per request, so that a token costs one join of ready bytes.
"""

from typing import Any, Final

import orjson

from dynamollm.engine.requests import GenerationRequest
from dynamollm.engine.stream import Stream

DONE: Final = b"data: [DONE]\n\n"
WORDS: Final = ("lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "do", "eiusmod")
_MARK: Final = "\x00word\x00"


def timing(stream: Stream) -> bytes:
    """Return a comment, which clients skip, with the model's own times since the request's arrival, simulated ms.

    For load generators that run in a faster time: what they measured beyond these is real work, which simulated time
    does not stretch.
    """
    first_s = stream.first_s if stream.first_s is not None else stream.last_s
    first_ms, last_ms = (first_s - stream.arrived_s) * 1e3, (stream.last_s - stream.arrived_s) * 1e3
    return b": simulated first_ms=%.3f last_ms=%.3f\n\n" % (first_ms, last_ms)


def word(index: int) -> str:
    """Return the filler text of the token at this position."""
    return " " + WORDS[index % len(WORDS)]


class Renderer:
    """Renders the answer of one request.

    Args:
        request: what was asked.
        request_id: the id in every chunk, without its prefix.
        model: the served name.
        created_s: unix seconds.
    """

    def __init__(self, request: GenerationRequest, *, request_id: str, model: str, created_s: int) -> None:
        self._request = request
        prefix, kind = ("chatcmpl", "chat.completion") if request.chat else ("cmpl", "text_completion")
        self.id = f"{prefix}-{request_id}"
        self._kind = kind
        self._head: dict[str, Any] = {"id": self.id, "created": created_s, "model": model}
        self._before, self._after = self._template(finish_reason=None)

    def tokens(self, start: int, count: int, *, remark: bytes = b"") -> bytes:
        """Return the events of ``count`` tokens from position ``start``; the last one carries the finish reason.

        ``remark`` comes before the mark that ends the stream.
        """
        request = self._request
        end = start + count
        last = end >= request.output_tokens
        before, after = self._before, self._after
        parts = [self._role()] if start == 0 and request.chat else []
        parts += [before + word(index).encode() + after for index in range(start, end - 1 if last else end)]
        if last:
            before, after = self._template(finish_reason=request.finish_reason)
            parts.append(before + word(end - 1).encode() + after)
            if request.include_usage:
                parts.append(self._event({"choices": [], "usage": self._usage()}))
            parts += [remark, DONE]
        return b"".join(parts)

    def whole(self) -> bytes:
        """Return the answer as one JSON object."""
        request = self._request
        text = "".join(word(index) for index in range(request.output_tokens))
        content = {"message": {"role": "assistant", "content": text}} if request.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": request.finish_reason, "stop_reason": None}
        return orjson.dumps({**self._head, "object": self._kind, "choices": [choice], "usage": self._usage()})

    def _template(self, *, finish_reason: str | None) -> tuple[bytes, bytes]:
        content = {"delta": {"content": _MARK}} if self._request.chat else {"text": _MARK}
        before, _, after = self._choice(content, finish_reason).partition(orjson.dumps(_MARK)[1:-1])
        return before, after

    def _role(self) -> bytes:
        return self._choice({"delta": {"role": "assistant", "content": ""}}, None)

    def _choice(self, content: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
        # vLLM names usage in every chunk once the client has asked for it.
        usage = {"usage": None} if self._request.include_usage else {}
        return self._event({"choices": [choice], **usage})

    def _event(self, fields: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self._request.chat else self._kind
        return b"data: " + orjson.dumps({**self._head, "object": kind, **fields}) + b"\n\n"

    def _usage(self) -> dict[str, int]:
        prompt, generated = self._request.input_tokens, self._request.output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
