"""The nine request classes of the paper (DynamoLLM, HPCA 2025): input length × output length.

The order of the members is the order of size: a request of a smaller class may always be served by the
pool of a larger one, which is how small pools are merged.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

BRIEF_TOKENS: Final = 8
"""Answers of two tokens up to so many are brief: a prompt beside them can hold up all of their tokens, and no other averages it out.
An answer of one token has no time between tokens."""


class Length(StrEnum):
    """Short, medium or long, of the input or of the output."""

    SHORT = "S"
    MEDIUM = "M"
    LONG = "L"


class RequestClass(StrEnum):
    """A request class; the first letter is the input's length, the second the output's."""

    SS = "SS"
    SM = "SM"
    SL = "SL"
    MS = "MS"
    MM = "MM"
    ML = "ML"
    LS = "LS"
    LM = "LM"
    LL = "LL"

    @property
    def input_length(self) -> Length:
        """The input's length."""
        return Length(self.value[0])

    @property
    def output_length(self) -> Length:
        """The output's length."""
        return Length(self.value[1])


@dataclass(frozen=True, slots=True)
class ClassBoundaries:
    """Where the classes part, in tokens: short < ``*_short`` ≤ medium < ``*_medium`` ≤ long.

    The defaults are the paper's.
    """

    input_short: int = 256
    input_medium: int = 1024
    output_short: int = 100
    output_medium: int = 350

    def classify(self, *, input_tokens: float, output_tokens: float) -> RequestClass:
        """Return the class of a request with these lengths in tokens."""
        first = _length(input_tokens, self.input_short, self.input_medium)
        second = _length(output_tokens, self.output_short, self.output_medium)
        return RequestClass(first + second)


def is_brief(output_tokens: Any) -> Any:
    """Return whether an answer is so short that one long step makes it slow: of a number of tokens, or of each in an array."""
    return (output_tokens > 1) & (output_tokens <= BRIEF_TOKENS)


def _length(tokens: float, short: int, medium: int) -> Length:
    if tokens < short:
        return Length.SHORT
    return Length.MEDIUM if tokens < medium else Length.LONG
