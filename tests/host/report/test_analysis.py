"""Statistics against what they are defined by, and frames against the rows they come from."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.bench import rows, store
from host.report import analysis
from host.report.analysis import AnalysisError
from tests.host.report.conftest import Sweep

pytest.importorskip("pandas")


def frame(*folders: Path) -> analysis.Frame:
    return analysis.frame({folder.name: store.read(folder).rows for folder in folders})


@pytest.mark.parametrize("count", [6, 7, 10, 31, 200])
def test_the_medians_interval_has_the_ranks_of_the_binomial(count: int) -> None:
    interval = analysis.median_interval(range(1, count + 1))
    assert interval is not None
    low, high = int(interval.low), int(interval.high)
    # low-th and high-th order statistics hold the median with this probability.
    inside = sum(math.comb(count, k) for k in range(low, high)) / 2**count
    narrower = sum(math.comb(count, k) for k in range(low + 1, high - 1)) / 2**count
    assert low + high == count + 1
    assert narrower < 0.95 <= inside


def test_too_few_values_have_no_interval() -> None:
    assert analysis.median_interval([1, 2, 3, 4, 5]) is None
    assert analysis.ratio_interval([1.0] * 5, [1.0] * 9) is None


def test_a_ratios_interval_holds_the_ratio_and_repeats() -> None:
    generator = np.random.default_rng(3)
    base, other = generator.normal(10, 1, 80), generator.normal(20, 1, 80)
    interval = analysis.ratio_interval(list(base), list(other))
    assert interval is not None
    assert 1.8 < interval.low < np.median(other) / np.median(base) < interval.high < 2.2
    assert interval == analysis.ratio_interval(list(base), list(other))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    import pandas as pd

    cells = pd.DataFrame(points, columns=["x", "y"]).astype(float)
    found = set(map(tuple, analysis.front(cells, "x", "y")[["x", "y"]].to_numpy().tolist()))
    wanted = {
        p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)
    }
    assert found == wanted


def test_cells_are_medians_over_the_rows_that_count(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        if row["iteration"] == 0:
            row.update(purpose=rows.WARM_UP, run=-1, round_trip_us=10**9)

    folder = sweep("a", change=spoil)
    cells = analysis.cells(frame(folder))
    plain = [r for r in store.read(folder).rows.to_pylist() if r["purpose"] == rows.RUN]
    assert len(cells) == 8
    for _, cell in cells.iterrows():
        own = [
            r["round_trip_us"] / 1000
            for r in plain
            if (r["cut"], r["transport_name"], r["link"])
            == (cell["cut"], cell["transport_name"], cell["link"])
        ]
        assert cell["inferences"] == len(own) == 14
        assert cell["round_trip_ms"] == pytest.approx(np.median(own))
        assert cell["round_trip_low_ms"] <= cell["round_trip_ms"] <= cell["round_trip_high_ms"]
        assert cell["retransmission_share"] == (0.2 if cell["loss"] else 0)
        assert (cell["checked"], cell["exact"], cell["failed"]) == (14, 14, 0)
    assert next(iter(cells["label"])) == "block_13_project_BN · espnow · clean"


def test_cells_that_were_never_steady_are_told(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        row["steady"] = row["transport"] == "udp"

    for _, cell in analysis.cells(frame(sweep("a", change=spoil))).iterrows():
        assert cell["steady"] == (cell["transport"] == "udp")


def test_failures_and_wrong_results_are_counted_and_not_timed(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        if row["iteration"] == 1:
            row.update(error="no answer", round_trip_us=None, exact=None)
        if row["iteration"] == 2:
            row.update(exact=False)

    for _, cell in analysis.cells(frame(sweep("a", change=spoil))).iterrows():
        assert (cell["inferences"], cell["failed"]) == (16, 2)
        assert (cell["checked"], cell["exact"]) == (14, 12)
        assert cell["round_trip_ms"] < 100


def test_phases_add_up_to_round_trips_near_the_median(sweep: Sweep) -> None:
    taken = analysis.frame({"a": store.read(sweep("a")).rows})
    cells = analysis.cells(taken).set_index("label")
    for _, one in analysis.phases(taken).iterrows():
        median = cells.loc[one["label"]]["round_trip_ms"]
        assert one["total_ms"] == pytest.approx(median, rel=0.05)
        assert one["tail decodes and waits"] == pytest.approx(0.010)
        assert one["head computes"] == pytest.approx(20)


def test_a_slower_sweep_compares_as_slower(sweep: Sweep) -> None:
    both = frame(sweep("a"), sweep("b", slower=3.0, seed=9))
    compared = analysis.compare(both, "a", "b")
    assert len(compared) == 8
    radio = compared[compared["transport"] == "espnow"]
    assert (radio["ratio_low"] > 1.2).all()
    assert (radio["ratio_low"] <= radio["ratio"]).all()


def test_sweeps_without_a_cell_in_common_are_refused(sweep: Sweep) -> None:
    def rename(row: rows.Row) -> None:
        row["cut"] = "elsewhere"

    both = frame(sweep("a"), sweep("b", change=rename))
    with pytest.raises(AnalysisError, match="no cell in common"):
        analysis.compare(both, "a", "b")


def test_nothing_that_counts_is_said(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        row["purpose"] = rows.WARM_UP

    with pytest.raises(AnalysisError, match="completed run"):
        analysis.cells(frame(sweep("a", change=spoil)))
    with pytest.raises(AnalysisError, match="no rows"):
        analysis.frame({"a": rows.joined([])})


def test_labels_name_only_what_differs(sweep: Sweep) -> None:
    taken = frame(sweep("a"))
    one = taken[(taken["cut"] == "block_16_project_BN") & (taken["link"] == "clean")]
    assert analysis.varying(one) == ["transport_name"]
    assert analysis.varying(taken) == ["cut", "transport_name", "link"]
    pairs = itertools.combinations(analysis.cells(taken)["label"], 2)
    assert all(a != b for a, b in pairs)
