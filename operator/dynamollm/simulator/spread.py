"""Where the runs of a campaign go: processes of this machine, or the workers of a Dask scheduler on many."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from joblib import Parallel, parallel_config

from dynamollm.core.errors import InvalidInputError

_CONNECT_S: Final = 10.0
"""Wall seconds until a scheduler must have answered."""

_PACKAGE: Final = "dynamollm"

_HOW: Final[dict[str, Any]] = {"return_as": "generator_unordered", "batch_size": 1}
"""Runs take minutes: one at a time each, and answers as they come."""


@contextmanager
def workers(*, jobs: int, scheduler: str | None) -> Iterator[Parallel]:
    """Give joblib's ``Parallel`` over so many processes, or over all workers of a Dask scheduler.

    Workers must have this version of the package, and see the same files at the same paths.

    Raises:
        InvalidInputError: Dask is not installed, or there is no such scheduler, or no workers that can do it.
    """
    if scheduler is None:
        yield Parallel(n_jobs=jobs, **_HOW)
        return
    with _client(scheduler) as client:
        _check(client, scheduler)
        with parallel_config(backend="dask", client=client):
            yield Parallel(n_jobs=-1, **_HOW)


def _client(scheduler: str) -> Any:
    try:
        # An extra of the package: most campaigns do without.
        from distributed import Client  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"{error.name} is not installed, which --scheduler needs: pip install '{_PACKAGE}[dask]'"
        ) from None
    try:
        return Client(scheduler, set_as_default=False, timeout=_CONNECT_S)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(
            f"--scheduler {scheduler}: {reason}: give the address that dask scheduler printed, tcp://HOST:PORT"
        ) from None


def _check(client: Any, scheduler: str) -> None:
    """See that there are workers, and that they would answer as this process does."""
    # A function of the standard library, since a worker may not have the package.
    found: dict[str, Any] = client.run(version, _PACKAGE, on_error="return")
    if not found:
        raise InvalidInputError(f"--scheduler {scheduler}: it has no workers: start some, dask worker {scheduler}")
    mine = version(_PACKAGE)
    for worker, theirs in sorted(found.items()):
        if theirs != mine:
            other = "no version" if isinstance(theirs, PackageNotFoundError) else theirs
            raise InvalidInputError(
                f"--scheduler {scheduler}: worker {worker} has {other} of {_PACKAGE}, and this is {mine}: install the same "
                "there"
            )
