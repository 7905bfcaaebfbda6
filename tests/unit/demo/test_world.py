import pytest

from lab.demo.world import Groups, Reconfigurations, held_gpus

ONE, TWO = {("ll", 4): 1}, {("ll", 4): 2}
BESIDE = {("ll", 4): 1, ("ms", 2): 1}
MOVING, MOVED = {("ll", 4): 1, ("ll", 8): 1}, {("ll", 8): 1}
MIXED, REMIXED = {("ll", 2): 5, ("ll", 4): 1}, {("ll", 2): 1, ("ll", 4): 2}


@pytest.mark.parametrize(
    ("looks", "scalings", "reshardings"),
    [
        ([ONE, ONE], 0, 0),
        ([ONE, ONE, TWO, TWO, ONE, ONE], 2, 0),
        # What stands for one look alone is a step on the way.
        ([ONE, ONE, TWO, ONE, ONE], 0, 0),
        # A pool appears, and goes.
        ([ONE, ONE, BESIDE, BESIDE, ONE, ONE], 2, 0),
        # TP4 → TP8, make before break: one re-sharding.
        ([ONE, ONE, MOVING, MOVED, MOVED], 0, 1),
        # Four of TP2 become one of TP4, beside others that stay.
        ([MIXED, MIXED, REMIXED, REMIXED], 0, 1),
        # The end counts as settled.
        ([ONE, ONE, TWO], 1, 0),
        # An empty Deployment is no group.
        ([{**ONE, ("ll", 8): 0}, ONE, ONE], 0, 0),
    ],
)
def test_changes_are_counted_between_settled_states(looks: list[Groups], scalings: int, reshardings: int) -> None:
    changes = Reconfigurations(settled_looks=2)
    for look in looks:
        changes.look(look)
    changes.finish()
    assert (changes.scalings, changes.reshardings) == (scalings, reshardings)


def pod(tensor_parallel: int, *, node: str | None, phase: str) -> dict[str, object]:
    labels = {"dynamollm.io/tensor-parallel": str(tensor_parallel)}
    spec = {"nodeName": node} if node else {}
    return {"metadata": {"labels": labels}, "spec": spec, "status": {"phase": phase}}


def test_gpus_are_held_from_the_binding_to_the_end() -> None:
    pods = [
        pod(4, node="a", phase="Running"),
        pod(2, node="a", phase="Pending"),
        pod(8, node=None, phase="Pending"),
        pod(8, node="b", phase="Failed"),
    ]
    assert held_gpus(pods) == 6


def test_a_change_under_way_is_not_settled_however_long_it_stands() -> None:
    changes = Reconfigurations(settled_looks=2)
    for look, converged in [(ONE, True), (ONE, True), (MOVING, False), (MOVING, False), (MOVING, False), (MOVED, True)]:
        changes.look(look, converged=converged)
    changes.finish()
    assert (changes.scalings, changes.reshardings) == (0, 1)
