"""How long an answer will be: learnt online from the answers so far, by input length.

Per bucket of input lengths a histogram of output lengths with exponential forgetting. A prediction is a quantile of
it, cut by the request's own max_tokens, which is an upper bound and nothing more. Erring high is the cheap side: a
request in too large a pool costs energy, one in too small a pool costs latency (DynamoLLM, HPCA 2025, section IV).
"""

import bisect
import itertools
import math
from typing import Final

QUANTILE: Final = 0.6
"""Which quantile is predicted: above the median, since erring high is the cheap side."""

HALF_LIFE: Final = 500
"""Answers after which an old one counts half: a few minutes of a busy service, and small noise (±2 % of a share)."""

PRIOR_OUTPUT_TOKENS: Final = 200.0
"""The expectation before any answer: the median of conversations (Azure trace, 2023)."""

PRIOR_WEIGHT: Final = 5.0
"""How many answers the prior is worth."""

_STEPS_PER_DOUBLING: Final = 4
"""Output bins: a ratio of 2^(1/4), so that a prediction is within ±9 % of the quantile."""

_OUTPUT_BINS: Final = 17 * _STEPS_PER_DOUBLING + 1
"""Up to 2^17 tokens; longer answers count in the last bin."""

_INPUT_BUCKETS: Final = 18
"""One per doubling of the input, up to 2^17 tokens."""

_RESCALE_ABOVE: Final = 1e12
"""Weights grow instead of old ones shrinking; beyond this all are divided, long before floats lose precision."""


class OutputLengthModel:
    """Predicts output lengths and learns from each answer; a step costs microseconds.

    Deterministic: the same answers in the same order give the same predictions.
    """

    def __init__(self) -> None:
        self._buckets = [_DecayingHistogram() for _ in range(_INPUT_BUCKETS)]

    def predict(self, *, input_tokens: int, max_tokens: int | None) -> float:
        """Return the expected number of output tokens, at least 1.

        Args:
            input_tokens: of the prompt.
            max_tokens: what the request allows at most, or None.
        """
        expected = self._bucket(input_tokens).quantile(QUANTILE)
        # The length is min(what the model wants, max_tokens), and so is its quantile.
        return expected if max_tokens is None else max(1.0, min(expected, float(max_tokens)))

    def learn(self, *, input_tokens: int, output_tokens: int, max_tokens: int | None) -> None:
        """Take in one complete answer.

        An answer that max_tokens cut tells only that it would have been at least that long: its weight is spread over
        the longer answers seen before.
        """
        cut = max_tokens is not None and output_tokens >= max_tokens
        self._bucket(input_tokens).add(output_tokens, censored=cut)

    def _bucket(self, input_tokens: int) -> "_DecayingHistogram":
        return self._buckets[min(max(input_tokens, 1).bit_length() - 1, _INPUT_BUCKETS - 1)]


class _DecayingHistogram:
    """Weights by output bin; every new weight is larger than the one before by the same factor."""

    _GROWTH: Final = 2.0 ** (1.0 / HALF_LIFE)

    def __init__(self) -> None:
        self._weights = [0.0] * _OUTPUT_BINS
        self._next = 1.0
        self._weights[_bin(PRIOR_OUTPUT_TOKENS)] = PRIOR_WEIGHT

    def add(self, tokens: int, *, censored: bool) -> None:
        first = _bin(tokens)
        self._next *= self._GROWTH
        longer = sum(self._weights[first:]) if censored else 0.0
        if longer > 0:
            factor = 1 + self._next / longer
            self._weights[first:] = [weight * factor for weight in self._weights[first:]]
        else:
            self._weights[first] += self._next
        if self._next > _RESCALE_ABOVE:
            self._weights = [weight / self._next for weight in self._weights]
            self._next = 1.0

    def quantile(self, share: float) -> float:
        """Return the length that this share of the weight does not exceed, in tokens (middle of its bin)."""
        running = list(itertools.accumulate(self._weights))
        return _tokens(bisect.bisect_left(running, share * running[-1]))


def _bin(tokens: float) -> int:
    return min(round(math.log2(max(tokens, 1.0)) * _STEPS_PER_DOUBLING), _OUTPUT_BINS - 1)


def _tokens(index: int) -> float:
    return float(2.0 ** (index / _STEPS_PER_DOUBLING))
