import subprocess
import sys

import pytest

HEAVY = {"grpc", "kopf", "kubernetes", "numpy", "pandas", "prometheus_api_client", "requests", "scipy"}


@pytest.mark.parametrize(
    "modules", ["dynamollm.cli.engine, dynamollm.engine.build", "dynamollm.cli.router, dynamollm.router.server"]
)
def test_a_process_that_exists_by_the_dozen_imports_nothing_heavy(modules: str) -> None:
    code = f"import {modules}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)
    assert "aiohttp" in loaded
