"""When a cell is satisfied."""

import pytest

from host.bench import method
from host.bench.spec import Method

FIVE = Method(steady_window=5, steady_tolerance=0.05)


@pytest.mark.parametrize(
    ("round_trips", "steady"),
    [
        ([100] * 9, False),
        ([100] * 10, True),
        ([200] * 5 + [100] * 5, False),
        ([100] * 5 + [105] * 5, True),
        ([100] * 5 + [106] * 5, False),
        ([900] * 20 + [100, 100, 100, 900, 900] + [100] * 5, True),
    ],
)
def test_steady_means_that_the_last_two_windows_agree(round_trips: list[int], steady: bool) -> None:
    assert method.is_steady(round_trips, FIVE) is steady


@pytest.mark.parametrize(
    ("seconds", "inferences", "enough"),
    [(10.0, 10, True), (9.9, 1000, False), (60.0, 9, False)],
)
def test_a_run_lasts_long_enough_and_has_enough(
    seconds: float, inferences: int, enough: bool
) -> None:
    assert method.is_long_enough(seconds, inferences, Method()) is enough


def test_the_default_is_that_of_mlperf_tiny() -> None:
    default = Method()
    assert (default.runs, default.run_seconds, default.run_inferences) == (5, 10, 10)


def test_a_run_tells_its_drift_and_a_cell_the_median_of_medians() -> None:
    one = method.run_summary(0, 0, 1.0, [100, 100, 150, 150], 1)
    assert (one["median_us"], one["drift"], one["failed"]) == (125.0, 0.5, 1)
    runs = [one, *(method.run_summary(0, n, 1.0, [n * 100] * 4, 0) for n in (1, 9))]
    cell = method.cell_summary(runs, 7, None)
    assert (cell["median_us"], cell["least_us"], cell["largest_us"]) == (125.0, 100.0, 900.0)
    assert (cell["warm_up"], cell["steady_after"], cell["inferences"]) == (7, None, 12)


def test_a_run_in_which_nothing_went_well_has_no_median() -> None:
    run = method.run_summary(0, 0, 1.0, [], 3)
    assert run["median_us"] is None
    assert method.cell_summary([run], 0, None)["median_us"] is None
