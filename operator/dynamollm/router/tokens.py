"""Counting tokens cheaply: of prompts before they are served, and of streams as they pass."""

from dataclasses import dataclass
from typing import Any, Final

import orjson

DEFAULT_BYTES_PER_TOKEN: Final = 4.0
"""The usual estimate for English, until answers tell better."""

_CALIBRATION_WEIGHT: Final = 0.02
"""Share of each new answer in the estimate: it follows the last fifty."""

_BYTES_PER_TOKEN_RANGE: Final = (1.0, 16.0)
"""What an answer may say and be believed."""

_TAIL_BYTES: Final = 1024
"""Enough for the last events of a stream: usage and [DONE]."""

_EVENT: Final = b"\ndata:"


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What is known of a prompt's length without a tokenizer."""

    token_ids: int = 0
    """Tokens given as ids: exact."""
    text_bytes: int = 0
    """UTF-8 bytes given as text."""


class InputEstimate:
    """Tokens of a prompt: ids exactly, text by a ratio that answers' usage calibrates."""

    def __init__(self) -> None:
        self.bytes_per_token = DEFAULT_BYTES_PER_TOKEN

    def tokens(self, size: PromptSize) -> int:
        """Return the expected tokens, at least 1."""
        return max(1, size.token_ids + -int(-size.text_bytes // self.bytes_per_token))

    def calibrate(self, size: PromptSize, prompt_tokens: int) -> None:
        """Take in the prompt tokens that an engine counted."""
        text_tokens = prompt_tokens - size.token_ids
        if size.text_bytes == 0 or text_tokens <= 0:
            return
        low, high = _BYTES_PER_TOKEN_RANGE
        observed = min(max(size.text_bytes / text_tokens, low), high)
        self.bytes_per_token += _CALIBRATION_WEIGHT * (observed - self.bytes_per_token)


@dataclass(frozen=True, slots=True)
class Usage:
    """What an engine says it read and wrote."""

    prompt_tokens: int
    completion_tokens: int


def usage_of(answer: Any) -> Usage | None:
    """Return the usage in a decoded answer or event, None where there is none."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


class StreamCounter:
    r"""Counts the tokens of a server-sent event stream without parsing it.

    Engines send one event per token. A raw newline cannot occur inside the JSON of an event, so that ``\ndata:`` marks
    an event wherever chunks are cut.

    Args:
        chat: a chat stream begins with an event that carries the role and no token.
    """

    def __init__(self, *, chat: bool) -> None:
        self._overhead = 1 if chat else 0
        self._events = 0
        self._tail = b"\n"

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream."""
        # One byte less than the mark is carried over: a mark is found across the cut, and none is found twice.
        self._events += (self._tail[1 - len(_EVENT) :] + chunk).count(_EVENT)
        self._tail = chunk[-_TAIL_BYTES:] if len(chunk) >= _TAIL_BYTES else (self._tail + chunk)[-_TAIL_BYTES:]

    @property
    def complete(self) -> bool:
        """Whether the stream has ended as OpenAI streams end, and not after an error."""
        return self._tail.rstrip().endswith(b"data: [DONE]") and b'data: {"error"' not in self._tail

    def usage(self) -> Usage | None:
        """Return the usage of the last event but [DONE], None where the client did not ask for it."""
        events = self._tail.rpartition(b"data: [DONE]")[0].rstrip().rpartition(_EVENT)
        if b'"usage"' not in events[2]:
            return None
        try:
            return usage_of(orjson.loads(events[2]))
        except orjson.JSONDecodeError:
            return None

    def tokens(self) -> int:
        """Return the tokens so far: by usage where it is known, else by events."""
        if (usage := self.usage()) is not None:
            return usage.completion_tokens
        return max(0, self._events - self._overhead - (1 if self.complete else 0))
