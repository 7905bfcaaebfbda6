"""What the router itself answers when it cannot pass a request on: OpenAI's error body."""

from typing import Final

import orjson

from dynamollm.core.errors import DynamoLLMError

_TYPES: Final = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}


class RequestRefusedError(DynamoLLMError):
    """A request that does not get to an instance.

    Args:
        status: the HTTP status, 400, 404 or 503.
        message: what was wrong, with the value, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> bytes:
        """Return the JSON body in the shape that OpenAI clients read."""
        error = {"message": str(self), "type": _TYPES[self.status], "param": None, "code": self.status}
        return orjson.dumps({"error": error})
