"""The real helm, rendering the chart without a cluster."""

import pytest

from lab.binaries import ensure_tools
from lab.helm import Helm
from lab.progress import Progress


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm of the local cluster: from the cache, or fetched once."""
    return Helm(ensure_tools(Progress())["helm"])
