"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], *, timeout_s: float = 60.0, why: str = "") -> T:
    """Return the first answer that is not false; fail with the last one when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s: {why or 'still not so'} (last: {answer!r})")
        time.sleep(0.05)
