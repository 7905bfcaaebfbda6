"""What has to be known of a whole trace before it is simulated: when it is busiest, and each class's own peak.

SinglePool is sized for the busiest minutes; policies whose instances are fixed are fixed at the peaks.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.classes import RequestClass, is_brief
from dynamollm.core.records import ClassLoad, Load, LoadHistory
from dynamollm.simulator.workload import Workload

WINDOW_S: Final = 300.0
"""The peak is that of windows of this length: the interval at which the paper's pools adapt."""

_SAMPLES: Final = 60
"""Minutes of a history that says that load is constant: enough to be sure of it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Requests and tokens by window and class, as the router would predict the classes."""

    requests: NDArray[np.int64]
    """[window, class]."""
    input_tokens: NDArray[np.int64]
    """[window, class]."""
    output_tokens: NDArray[np.int64]
    """[window, class]."""
    brief: NDArray[np.int64]
    """[window, class] requests with brief answers."""

    @property
    def total(self) -> int:
        """Requests in all."""
        return int(self.requests.sum())

    @property
    def peak_s(self) -> float:
        """When the busiest window begins, by tokens, from the trace's beginning."""
        return float(np.argmax((self.input_tokens + self.output_tokens).sum(axis=1))) * WINDOW_S

    def load(self, window: int) -> Load:
        """Return the load of a window."""
        return self._load(self.requests[window] / WINDOW_S, self.requests[window], window)

    def peaks(self) -> Load:
        """Return each class's own peak; they need not come at one time."""
        return self._load(self.requests.max(axis=0) / WINDOW_S, self.requests.sum(axis=0), None)

    def _load(self, rates: NDArray[np.float64], counts: NDArray[np.int64], window: int | None) -> Load:
        chosen = slice(None) if window is None else slice(window, window + 1)
        inputs, outputs, brief = (
            each[chosen].sum(axis=0) for each in (self.input_tokens, self.output_tokens, self.brief)
        )
        return {
            request_class: ClassLoad(
                rate_per_s=float(rates[index]),
                input_tokens=float(inputs[index] / counts[index]),
                output_tokens=float(outputs[index] / counts[index]),
                brief_share=float(brief[index] / counts[index]),
            )
            for index, request_class in enumerate(RequestClass)
            if counts[index] > 0
        }


def survey(workload: Workload) -> Survey:
    """Read a trace once."""
    windows = int(np.ceil(workload.trace.duration_s / WINDOW_S))
    size = windows * len(RequestClass)
    sums = [np.zeros(size, np.int64) for _ in range(4)]
    for _, arrivals in workload.arrivals():
        counted = arrivals[arrivals["counted"] > 0]
        window = ((counted["arrival_s"] - workload.warm_up_s) // WINDOW_S).astype(np.int64)
        key = np.clip(window, 0, windows - 1) * len(RequestClass) + counted["predicted"]
        outputs = counted["output_tokens"]
        for place, weights in enumerate((None, counted["input_tokens"], outputs, is_brief(outputs))):
            sums[place] += np.bincount(key, weights=weights, minlength=size).astype(np.int64)
    return Survey(*(total.reshape(windows, -1) for total in sums))


def constant_history(load: Load, *, now_s: float) -> LoadHistory:
    """Return a history that says for sure that load is and will be this."""
    return LoadHistory(
        end_s=now_s,
        step_s=60.0,
        rate_per_s={c: (load[c].rate_per_s if c in load else 0.0,) * _SAMPLES for c in RequestClass},
        input_tokens={c: part.input_tokens for c, part in load.items()},
        output_tokens={c: part.output_tokens for c, part in load.items()},
        brief_share={c: part.brief_share for c, part in load.items()},
    )
