"""Answers that stand for a class's, how often each comes, and how long a request with such an answer takes alone."""

from typing import Final

import numpy as np

from dynamollm.core.steptable import Floats, step_table
from dynamollm.core.stream import Grid

_OUTPUT_POINTS: Final = (-1.4, 0.0, 1.4)
"""Deviations from the mean output, of equal weight: a short answer has less slack, a long one more. A little wider than three
points of a normal variable would be, since it is the short ones that miss."""

_SOME: Final = 0.01
"""Of the answers are not brief, at least: a mean needs some."""

BRIEF_GAPS: Final = (1.0, 3.0)
"""Between the tokens of a brief answer, half of them each: half of those of the conversations of 2024 have two tokens. Where they have
more, more is planned for than comes."""


def usual_output_tokens(grid: Grid) -> Floats:
    """Return the mean of the answers that are not brief, [class]."""
    brief = np.minimum(grid.mixes.brief_share, 1 - _SOME)
    others = (grid.mixes.output_tokens - brief * (1 + sum(BRIEF_GAPS) / len(BRIEF_GAPS))) / (1 - brief)
    usual: Floats = np.maximum(others, grid.mixes.output_tokens)
    return usual


def answer_gaps(grid: Grid) -> Floats:
    """Return the gaps between the tokens of answers that stand for a class's, [output, class]; the last are the brief ones, if any."""
    sigma = np.sqrt(np.log(1 + grid.output_cv**2))
    outputs = usual_output_tokens(grid) * np.exp(sigma * np.array(_OUTPUT_POINTS)[:, None] - sigma**2 / 2)
    gaps: Floats = np.maximum(outputs - 1, 0.0)
    brief = np.tile(np.array(BRIEF_GAPS)[:, None], gaps.shape[1])
    return np.vstack([gaps, brief]) if grid.mixes.brief_share.any() else gaps


def answer_weights(grid: Grid) -> Floats:
    """Return which share of a class's answers each of those stands for, [output, class]."""
    brief = grid.mixes.brief_share
    usual = np.tile((1 - brief) / len(_OUTPUT_POINTS), (len(_OUTPUT_POINTS), 1))
    return np.vstack([usual, np.tile(brief / len(BRIEF_GAPS), (len(BRIEF_GAPS), 1))]) if brief.any() else usual


def alone_ms(grid: Grid) -> Floats:
    """Return the end-to-end latency of requests alone at the largest TP degree and the highest clock, [output, quadrature, class]."""
    profile = grid.profile
    table = step_table(profile, (max(profile.tensor_parallel),), (profile.max_clock_mhz,))
    inputs, gaps = grid.prompt_tokens, answer_gaps(grid)[:, None, :]
    decode = table.decode_ms(np.ones_like(inputs), inputs + gaps / 2)
    if not grid.chunked:
        whole: Floats = table.prefill_ms(inputs, inputs * inputs) + gaps * decode
        return whole
    chunks, rest = np.divmod(inputs, grid.budget)
    full, part = np.full_like(inputs, grid.budget), np.maximum(rest, 1.0)
    prompt = chunks * table.prefill_ms(full, 0.0 * full) + np.where(rest > 0, table.prefill_ms(part, 0.0 * part), 0.0)
    latency: Floats = prompt + inputs * inputs * table.c["square_ms"] + gaps * decode
    return latency
