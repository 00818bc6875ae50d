"""What rows say of a boundary's way, by two clocks."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from host.bench.measured import by_clocks, durations
from host.link.messages import Phase

US = st.integers(0, 1_000_000)


def stats(sent_us: int, came_us: int, offset_us: int | None, doubt_us: int, **more: Any) -> Any:
    """Of the head and of the next stage, after inference 7."""
    head = {"handed": {"inference": 7, "at_us": sent_us}, "clock_offset_us": offset_us}
    head |= {"clock_uncertainty_us": doubt_us, "clock_age_us": 0}
    following = {"complete": {"inference": 7, "at_us": came_us}}
    return head | more, following


def bounds(least_us: int, most_us: int) -> dict[str, Any]:
    phases = {(0, int(Phase.SEND)): most_us, (1, int(Phase.RECEIVE)): least_us}
    return durations(phases, most_us, 2)


@given(US, US, US, st.integers(-(10**12), 10**12), US, st.floats(-1, 1), st.integers(0, 10**8))
def test_the_true_time_is_in_the_range_and_the_range_never_wider_than_without_clocks(
    took: int, less: int, more: int, offset: int, doubt: int, error: float, age_us: int
) -> None:
    row = bounds(max(took - less, 0), took + more)
    wrong = int(error * (doubt + age_us * 40e-6))
    head, following = stats(5, 5 + took + offset, offset + wrong, doubt, clock_age_us=age_us)
    found = row | by_clocks(row, head, following)
    assert abs(found["one_way_us"] - took) <= found["one_way_uncertainty_us"]
    assert found["one_way_uncertainty_us"] <= row["one_way_uncertainty_us"] + 1
    assert (found["one_way_method"] == "clocks") is (found != row)


def test_without_bounds_the_clocks_alone_tell() -> None:
    row = {"one_way_us": None, "one_way_uncertainty_us": None, "one_way_method": None}
    found = by_clocks(row, *stats(1_000, 51_400, 50_000, 99))
    assert found == {"one_way_us": 400, "one_way_uncertainty_us": 100, "one_way_method": "clocks"}


def test_stamps_of_different_inferences_or_none_or_impossible_ones_say_nothing() -> None:
    row = bounds(100, 900)
    head, following = stats(1_000, 51_400, 50_000, 99)
    assert by_clocks(row, head, following)
    assert by_clocks(row, {**head, "clock_offset_us": None}, following) == {}
    assert by_clocks(row, {**head, "handed": None}, following) == {}
    assert by_clocks(row, head, {}) == {}
    other = {"complete": {"inference": 8, "at_us": 51_400}}
    assert by_clocks(row, head, other) == {}
    assert by_clocks(row, {**head, "clock_offset_us": 0}, following) == {}
    assert by_clocks(row, {**head, "clock_uncertainty_us": 5_000}, following) == {}
