"""What the API answers when it refuses: vLLM's error body, and the status that goes with it."""

from typing import Final

import orjson

from dynamollm.core.errors import DynamoLLMError

_TYPES: Final = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}


class ApiError(DynamoLLMError):
    """A request that the engine refuses.

    Args:
        status: the HTTP status.
        message: what was wrong, with the value, and what to do.
        param: the field of the body, where one is to blame.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> bytes:
        """Return the JSON body in the shape that OpenAI clients read."""
        error = {"message": str(self), "type": _TYPES[self.status], "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})
