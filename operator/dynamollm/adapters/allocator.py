"""The C library's allocator, told what plans are like: they take and give back the same megabytes over and over.

By default glibc returns large arrays to the system when they are freed, and gets them again as fresh pages, each of which
costs a fault. That is a fifth of the time of a plan.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""

LARGEST_BYTES: Final = 32 * 2**20
"""Arrays up to this size come from what was freed before; it is the largest that glibc takes. Plans' are below 3 MiB."""
KEPT_BYTES: Final = 64 * 2**20
"""So much freed memory is kept at most."""


def keep_freed_memory() -> bool:
    """Let this process keep memory that it has freed; tell whether the C library knows how (glibc does, musl does not)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
