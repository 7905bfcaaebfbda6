"""One request inside the engine, between the pacer that produces its tokens and the handler that sends them."""

import asyncio


class Stream:
    """Tokens on their way to one client.

    Args:
        request_id: in the batch.
        input_tokens: of the prompt.
        output_tokens: how many it will have.
        finish_reason: counted at its end.
        arrived_s: simulated seconds, on the pacer's clock.
        whole: the client wants all at once, so that nothing is handed over before the end.
    """

    __slots__ = (
        "_released",
        "_taken",
        "_waiter",
        "_whole",
        "arrived_s",
        "begun_s",
        "finish_reason",
        "first_s",
        "input_tokens",
        "last_s",
        "made",
        "output_tokens",
        "request_id",
    )

    def __init__(
        self,
        *,
        request_id: int,
        input_tokens: int,
        output_tokens: int,
        finish_reason: str,
        arrived_s: float,
        whole: bool,
    ) -> None:
        self.request_id = request_id
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.finish_reason = finish_reason
        self.arrived_s = arrived_s
        self.begun_s: float | None = None
        """When the first step on its prompt began, simulated seconds: until then it was queued."""
        self.first_s: float | None = None
        """When its first token was made, simulated seconds."""
        self.last_s = arrived_s
        """When its latest token was made."""
        self.made = 0
        """Tokens so far."""
        self._whole = whole
        self._released = 0
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether all tokens have been taken."""
        return self._taken >= self.output_tokens

    @property
    def remaining(self) -> int:
        """Tokens still to be made."""
        return self.output_tokens - self.made

    @property
    def urgent(self) -> bool:
        """Whether its first or its last token waits to be handed over: what latencies are measured by."""
        return self._released < self.made and (self._released == 0 or self.remaining == 0)

    async def take(self) -> int:
        """Wait until tokens have been handed over, then return how many are new."""
        if self._released == self._taken:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        count = self._released - self._taken
        self._taken = self._released
        return count

    def hand_over(self) -> None:
        """Let the handler take what has been made so far."""
        if self.remaining and self._whole:
            return
        self._released = self.made
        if self._released > self._taken and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
