import ctypes
import platform
import subprocess
import sys

import pytest

from dynamollm.adapters import allocator

FAULTS = """
import resource
from dynamollm.adapters.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    bytearray(3 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 3 * 2**20 // 4096


def faults(*, keep: bool) -> int:
    """Return the page faults of taking 3 MiB fifty times, in a process of its own."""
    script = FAULTS.format(keep=keep)
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    assert faults(keep=True) < 2 * PAGES < faults(keep=False)


@pytest.mark.parametrize("raised", [OSError, AttributeError])
def test_a_c_library_without_mallopt_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, raised: type[Exception]) -> None:
    def load(_name: object) -> object:
        raise raised

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not allocator.keep_freed_memory()
