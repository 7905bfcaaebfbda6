from pathlib import Path

import numpy as np
import pytest

from dynamollm.simulator.experiment import Question, prepare
from dynamollm.simulator.single_pool_size import fixed_pool

pytestmark = pytest.mark.timeout(1200)


def test_single_pool_is_the_fewest_servers_that_keep_the_slo_at_the_peak(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    # Half an hour of which five minutes are four times as busy.
    times = np.sort(np.concatenate([draw.uniform(0, 1800, 9000), draw.uniform(600, 900, 4500)]))
    rows = "".join(
        f"{t:.3f},{i},{o}\n"
        for t, i, o in zip(times, draw.integers(50, 3000, times.size), draw.integers(5, 400, times.size), strict=True)
    )
    trace = tmp_path / "own.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    prepared = prepare(Question(trace=str(trace)))
    assert prepared.seen.peak_s == 600.0
    peak = prepared.workload.part(start_s=300.0, end_s=900.0)
    peak["counted"] = peak["arrival_s"] >= 300.0

    def kept(servers: int) -> bool:
        return fixed_pool(peak, prepared.service, prepared.profile, instances=servers).meets_slo

    assert prepared.single_pool > 1
    assert kept(prepared.single_pool)
    assert not kept(prepared.single_pool - 1)
