"""What plans keep in reserve."""

import pytest

from dynamollm.core.margins import reserve
from dynamollm.core.records import Order, SloRule


@pytest.mark.parametrize("order", list(Order))
def test_of_pools_of_whole_prompts_no_more_is_used_than_computed_where_that_was_not_simulated(order: Order) -> None:
    kept = {rule: reserve(chunked=False, order=order, rule=rule) for rule in SloRule}
    assert kept[SloRule.PER_CLASS_PERCENTILE].pooled == 1.0
    assert kept[SloRule.PER_REQUEST].pooled < 1.0
    assert all(one.instances > 1.0 for one in kept.values())
