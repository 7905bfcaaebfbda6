"""What runs in the image starts without the simulator's extra: no numba, and so no cache that must be writable."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["operator", "agent", "router", "engine", "check", "uninstall", "plan", "capacity"])
def test_a_command_of_the_image_imports_nothing_of_the_extra(command: str) -> None:
    program = (
        f"import sys, dynamollm.cli.{command}; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'numba', 'joblib', 'plotly', 'distributed'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout.split() == []
