"""kopf in a container."""

import asyncio
import getpass

import kopf
import pytest

from dynamollm.controller.run import run_kopf


async def test_kopf_starts_for_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's numeric user is in no /etc/passwd: kopf gets as far as logging in."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    started = asyncio.Event()
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def note(**_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_kopf(registry, identity="operator-0_1", ready=asyncio.Event()))
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=120)
        assert started.is_set(), task
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
