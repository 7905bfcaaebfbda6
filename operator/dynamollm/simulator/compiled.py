"""``compiled``: numba's decorator as the simulator uses it: typed, IEEE arithmetic, cached outside the tree.

numba keeps one cache entry per source file and does not see that a function which is called from another file has
changed. So the cache's folder carries a digest of every compiled module's source: a change anywhere compiles anew.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba.core import event

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SOURCES: Final = Path(__file__).parent


def _cache_folder() -> Path:
    base = os.environ.get("DYNAMOLLM_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dynamollm")  # noqa: PTH118 - reads plainer
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    return Path(base) / "numba" / digest.hexdigest()[:16]


_CONFIG: Final[Any] = numba.config
if not _CONFIG.CACHE_DIR:  # a user's NUMBA_CACHE_DIR stands
    _CONFIG.CACHE_DIR = str(_cache_folder())


def is_compiled() -> bool:
    """Return whether an earlier process has compiled the simulator as it is."""
    return any(Path(_CONFIG.CACHE_DIR).rglob("*.nbi"))


@contextmanager
def when_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` whenever this process compiles a function meanwhile; what an earlier one compiled is loaded."""
    with event.install_listener("numba:compile", _Teller(tell)):
        yield


class _Teller(event.Listener):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def on_start(self, event: Any) -> None:  # noqa: ARG002 - numba's signature
        self._tell()

    def on_end(self, event: Any) -> None:
        pass


def compiled(function: _Function) -> _Function:
    """Return the function compiled to machine code at its first call, or loaded from an earlier process's cache.

    Without fast-math: the same input gives the same bits. Division by zero gives inf, as numpy's does.
    """
    return cast("_Function", numba.njit(cache=True, error_model="numpy")(function))
