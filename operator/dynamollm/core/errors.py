"""The one small hierarchy of errors: every message names what was wrong, with the value, and what to do."""


class DynamoLLMError(Exception):
    """Base of every error that dynamollm raises on purpose."""


class InvalidInputError(DynamoLLMError):
    """A value from outside is not acceptable: names the field, the value and the remedy."""


class OutOfRangeError(DynamoLLMError):
    """A question outside the measured range of a profile: names the axis."""


class UnknownDataError(DynamoLLMError):
    """A source did not give a trustworthy value: no answer, empty, NaN, stale."""
