"""One world and one agent a test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from component.agent.agent_world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An agent's world, without the agent."""
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()
