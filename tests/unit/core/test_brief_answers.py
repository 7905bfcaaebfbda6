"""Answers of a few tokens: how many there are, and what they do to what an instance carries."""

from dataclasses import replace
from itertools import pairwise

import pytest
from model_fixtures import MODERN, PAPER, SLO, mix, profile

from dynamollm.core.capacity import capacity_per_s
from dynamollm.core.classes import RequestClass, is_brief
from dynamollm.core.records import Order, SloRule

SS, MS, LS = RequestClass.SS, RequestClass.MS, RequestClass.LS


def carried(
    share: float,
    *,
    tp: int,
    name: str = MODERN,
    rule: SloRule = SloRule.PER_REQUEST,
    order: Order = Order.EARLIEST_DEADLINE_FIRST,
) -> float:
    load = {c: replace(part, output_tokens=30.0, brief_share=share) for c, part in mix(SS, MS, LS).items()}
    return capacity_per_s(
        profile(name), load=load, slo=replace(SLO, rule=rule), tensor_parallel=tp, clock_mhz=1980, order=order
    )


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    assert [tokens for tokens in range(1, 20) if is_brief(tokens)] == list(range(2, 9))


def test_they_matter_where_a_step_full_of_prompts_is_above_the_limit() -> None:
    # 109 ms of 100 at TP 2; 56 ms at TP 4.
    assert carried(0.3, tp=2) < 0.4 * carried(0.0, tp=2)
    assert carried(0.3, tp=4) > 0.95 * carried(0.0, tp=4)


@pytest.mark.parametrize("rule", [SloRule.PER_REQUEST, SloRule.FIVE_TIMES_ALONE])
@pytest.mark.parametrize("name", [MODERN, PAPER])
@pytest.mark.parametrize("order", list(Order))
def test_more_of_them_are_never_easier(name: str, rule: SloRule, order: Order) -> None:
    rates = [carried(share, tp=2, name=name, rule=rule, order=order) for share in (0.0, 0.1, 0.3, 0.6)]
    assert all(more <= fewer * 1.001 for fewer, more in pairwise(rates))
