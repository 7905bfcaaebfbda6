"""How lengths vary within a class, one number at a time, for the plain forms of the model."""

from dynamollm.core.lengthspread import LENGTH_CV

BOUNDS = {
    "S": ((1.0, 256.0), (1.0, 100.0)),
    "M": ((256.0, 1024.0), (100.0, 350.0)),
    "L": ((1024.0, 8192.0), (350.0, 2048.0)),
}


def variation(mean: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if not low <= mean <= high:
        return LENGTH_CV
    return min(max(min(0.9 * (mean - low), 0.75 * (high - mean)) / mean, 0.05), LENGTH_CV)
