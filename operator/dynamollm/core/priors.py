"""What is assumed about requests before any were seen: the mix of classes and typical lengths."""

from collections.abc import Mapping
from typing import Final

from dynamollm.core.classes import ClassBoundaries, Length, RequestClass
from dynamollm.core.records import ClassLoad

PRIOR_SHARE: Final[Mapping[RequestClass, float]] = {
    RequestClass.SS: 0.036,
    RequestClass.SM: 0.098,
    RequestClass.SL: 0.001,
    RequestClass.MS: 0.190,
    RequestClass.MM: 0.104,
    RequestClass.ML: 0.077,
    RequestClass.LS: 0.151,
    RequestClass.LM: 0.088,
    RequestClass.LL: 0.255,
}
"""Shares of the classes in the conversation trace of 2023 (Azure/AzurePublicDataset) at the default boundaries. Not those
of the hour that the paper evaluates (SS 14 %, …, LL 11 %): they follow from the tertiles of the lengths, not from 256 and
1024 tokens, and would expect too few long prompts."""

LONG_INPUT_FACTOR: Final = 1.8
LONG_OUTPUT_FACTOR: Final = 1.2
"""Mean length of long inputs and outputs over the boundary where "long" begins (1024 and 350 tokens): measured on the
conversation trace of 2023 (Azure/AzurePublicDataset)."""


def typical_lengths(boundaries: ClassBoundaries) -> dict[RequestClass, ClassLoad]:
    """Return mid-range lengths in tokens for every class, at rate 0."""
    inputs = _typical(boundaries.input_short, boundaries.input_medium, LONG_INPUT_FACTOR)
    outputs = _typical(boundaries.output_short, boundaries.output_medium, LONG_OUTPUT_FACTOR)
    return {
        request_class: ClassLoad(
            rate_per_s=0.0,
            input_tokens=inputs[request_class.input_length],
            output_tokens=outputs[request_class.output_length],
        )
        for request_class in RequestClass
    }


def nominal_load(classes: tuple[RequestClass, ...], *, boundaries: ClassBoundaries) -> dict[RequestClass, ClassLoad]:
    """Return the prior mix of these classes at 1 request/s: the shape of a pool that nobody asks anything of."""
    lengths = typical_lengths(boundaries)
    total = sum(PRIOR_SHARE[request_class] for request_class in classes)
    return {
        request_class: ClassLoad(
            rate_per_s=PRIOR_SHARE[request_class] / total,
            input_tokens=lengths[request_class].input_tokens,
            output_tokens=lengths[request_class].output_tokens,
        )
        for request_class in classes
    }


def _typical(short: int, medium: int, long_factor: float) -> dict[Length, float]:
    return {Length.SHORT: short / 2, Length.MEDIUM: (short + medium) / 2, Length.LONG: medium * long_factor}
