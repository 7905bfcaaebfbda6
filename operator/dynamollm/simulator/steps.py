"""The step model of `core.profile`, compiled: time and power from a table of its coefficients by TP degree and clock.

The formulae stand twice, here and there; a test holds both equal to 1e-9 over random steps, since a result of the
simulator is a statement about the operator only as long as they are.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dynamollm.core.errors import OutOfRangeError
from dynamollm.core.profile import Profile
from dynamollm.simulator.compiled import compiled

_NAMES: Final = (
    *("curves", "exponent", "inverse"),
    *("fixed_ms", "compute_ms", "memory_power", "token_ms", "square_ms", "context_ms", "host_ms", "host_sequence_ms"),
    *("prefill_fixed_ms", "prefill_floor_power", "short_ms", "long_ms", "transition_tokens", "transition_width"),
    *("decode_fixed_ms", "decode_sequence_ms", "decode_square_ms"),
    *("weights_share", "context_share", "token_share", "square_share", "volt", "on_chip_w", "tensor_w", "clock_w"),
    *("static_w", "hbm_w", "power_exponent", "power_inverse", "limit_w"),
    "one_token_ms",  # prefill of a single token: what a mixed step does not pay twice
)

COEFFICIENTS: Final = np.dtype([(name, np.float64) for name in _NAMES])


class StepTable:
    """One row of coefficients for each TP degree and each clock of a profile."""

    def __init__(self, profile: Profile) -> None:
        self.tensor_parallel = profile.tensor_parallel
        self.clocks_mhz = profile.clocks_mhz
        self._range_mhz = (profile.min_clock_mhz, profile.max_clock_mhz)
        self.rows = np.zeros(len(self.tensor_parallel) * len(self.clocks_mhz), COEFFICIENTS)
        for degree in self.tensor_parallel:
            for clock_mhz in self.clocks_mhz:
                at: dict[str, Any] = {"tensor_parallel": degree, "clock_mhz": clock_mhz}
                row = self.rows[self.row(**at)]
                for name, value in profile.coefficients(**at).items():
                    row[name] = value
                row["one_token_ms"] = profile.prefill_ms(tokens=1, squared_tokens=1, **at)

    def row(self, *, tensor_parallel: int, clock_mhz: int) -> int:
        """Return the row of a TP degree and a clock.

        A clock between two supported ones counts as the lower, one below the lowest as that.

        Raises:
            OutOfRangeError: a TP degree or a clock that was not measured.
        """
        if tensor_parallel not in self.tensor_parallel:
            raise OutOfRangeError(f"tensor parallelism {tensor_parallel}: the profile holds for {self.tensor_parallel}")
        lowest, highest = self._range_mhz
        if not lowest <= clock_mhz <= highest:
            raise OutOfRangeError(f"SM clock {clock_mhz} MHz: the profile holds from {lowest} to {highest} MHz")
        clock = max(0, int(np.searchsorted(self.clocks_mhz, clock_mhz, side="right")) - 1)
        return self.tensor_parallel.index(tensor_parallel) * len(self.clocks_mhz) + clock


@compiled
def _prefill_ms(c: Any, tokens: float, squared: float) -> float:
    if c.curves == 0.0:
        both = ((c.compute_ms * tokens) ** c.exponent + c.memory_power) ** c.inverse
        return c.fixed_ms + both + tokens * c.token_ms + squared * c.square_ms
    width = (squared / tokens - c.transition_tokens) / c.transition_width
    long = 1.0 / (1.0 + np.exp(-max(-50.0, min(50.0, width))))
    work = (c.short_ms * (1.0 - long) + c.long_ms * long) * tokens
    return (c.prefill_floor_power + work**c.exponent) ** c.inverse + c.prefill_fixed_ms


@compiled
def _decode_ms(c: Any, batch: float, context: float) -> float:
    if c.curves == 0.0:
        both = ((c.compute_ms * batch) ** c.exponent + c.memory_power) ** c.inverse
        return c.fixed_ms + both + batch * c.token_ms + context * c.context_ms
    return c.decode_fixed_ms + c.decode_sequence_ms * batch + c.decode_square_ms * batch * batch


@compiled
def step_ms(c: Any, tokens: float, squared: float, batch: float, context: float) -> float:
    """Return the time of a step, ms; the arguments are those of `Profile.step`, ``c`` a row of a `StepTable`."""
    if tokens > 0.0 and batch > 0.0:
        duration = _decode_ms(c, batch, context) + _prefill_ms(c, tokens, squared) - c.one_token_ms
    elif tokens > 0.0:
        duration = _prefill_ms(c, tokens, squared)
    else:
        duration = _decode_ms(c, batch, context)
    return duration + c.host_ms + c.host_sequence_ms * batch


@compiled
def step_w(c: Any, duration_ms: float, tokens: float, squared: float, batch: float, context: float) -> float:
    """Return the power of each GPU while a step of this duration runs, W."""
    bandwidth = min(1.0, (c.weights_share + context * c.context_share) / duration_ms)
    operations = ((tokens + batch) * c.token_share + squared * c.square_share) / duration_ms
    memory = c.on_chip_w * bandwidth
    tensor = c.tensor_w * min(1.0, operations)
    mixed = (memory**c.power_exponent + tensor**c.power_exponent) ** c.power_inverse
    return min(c.limit_w, c.static_w + c.hbm_w * bandwidth + c.volt * (mixed + c.clock_w))


@compiled
def steps_cost(
    rows: NDArray[Any],
    row: NDArray[Any],
    tokens: NDArray[Any],
    squared: NDArray[Any],
    batch: NDArray[Any],
    context: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return times (ms) and powers (W of each GPU) of many steps at once; all arguments have one shape [steps]."""
    duration_ms = np.empty(row.size)
    power_w = np.empty(row.size)
    for k in range(row.size):
        c = rows[row[k]]
        duration_ms[k] = step_ms(c, tokens[k], squared[k], batch[k], context[k])
        power_w[k] = step_w(c, duration_ms[k], tokens[k], squared[k], batch[k], context[k])
    return duration_ms, power_w
