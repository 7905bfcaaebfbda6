"""Which kind of trace a file is: ``FILE`` or ``FILE:COLUMN``."""

from pathlib import Path

from dynamollm.core.classes import ClassBoundaries
from dynamollm.core.errors import InvalidInputError
from dynamollm.simulator.csvtrace import read_csv
from dynamollm.simulator.promtrace import read_prometheus_json
from dynamollm.simulator.weektrace import WeekTrace, read_hourly_csv
from dynamollm.simulator.workload import ScaledTrace, Trace


def open_trace(name: str, *, scale: float, boundaries: ClassBoundaries, seed: int) -> Trace:
    """Return the trace that a command line names, its rate times ``scale``.

    A column after a colon means hourly totals; ``.json`` is what Prometheus answered; all else is a CSV of requests.

    Raises:
        InvalidInputError: there is no such file, or it is not such a trace.
    """
    if not 0 < scale < float("inf"):
        raise InvalidInputError(f"a scale of {scale:g}: give a number above 0")
    path = Path(name)
    if not path.exists() and ":" in name:
        stem, column = name.rsplit(":", 1)
        trace = read_hourly_csv(Path(stem), column, seed=seed)
        return WeekTrace(trace.name, trace.totals, trace.service, seed, scale)
    if path.suffix == ".json":
        return _scaled(read_prometheus_json(path, boundaries=boundaries, seed=seed), scale)
    return _scaled(read_csv(path), scale)


def _scaled(trace: Trace, scale: float) -> Trace:
    return trace if scale == 1 else ScaledTrace(trace, scale)
