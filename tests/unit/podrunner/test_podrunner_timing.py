import pytest

from lab.podrunner.timing import Timing


@pytest.mark.parametrize(
    ("scale", "given_s", "wall_s"),
    [(1.0, 30.0, 30.0), (1.0, 0.0, 0.0), (10.0, 300.0, 30.0), (10.0, 30.0, 5.0), (10.0, 2.0, 2.0)],
)
def test_grace_has_a_floor(scale: float, given_s: float, wall_s: float) -> None:
    assert Timing(scale).grace_s(given_s) == wall_s


@pytest.mark.parametrize(
    ("scale", "given_s", "wall_s"), [(1.0, 10.0, 10.0), (8.0, 10.0, 1.25), (100.0, 10.0, 0.25), (100.0, 0.0, 0.0)]
)
def test_probe_periods_have_a_floor(scale: float, given_s: float, wall_s: float) -> None:
    assert Timing(scale).period_s(given_s) == wall_s


@pytest.mark.parametrize(
    ("scale", "given_s", "wall_s"), [(1.0, 10.0, 10.0), (8.0, 10.0, 1.25), (8.0, 2.0, 1.0), (8.0, 1.0, 1.0)]
)
def test_what_is_ready_is_probed_less_often(scale: float, given_s: float, wall_s: float) -> None:
    assert Timing(scale).period_s(given_s, ready=True) == wall_s


def test_back_off_doubles_from_the_second_end_on_up_to_five_minutes() -> None:
    assert [Timing().backoff_s(ends) for ends in range(10)] == [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert Timing(10.0).backoff_s(2) == 1.0
    assert Timing().backoff_s(10**6) == 300


def test_ten_simulated_minutes_without_an_end_are_forgiven() -> None:
    assert [Timing(10.0).forgiven(ran_s) for ran_s in (59.0, 60.0)] == [False, True]
