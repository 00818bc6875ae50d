"""When a cell is satisfied: warm-up until steady, runs long enough, a median over runs.

The default numbers (`Method`) follow the performance mode of MLPerf Tiny ("MLPerf Tiny Benchmark",
arXiv:2106.07597, section 4.3: at least 10 s and 10 inferences, the median of five runs). Steady
means that the medians of the last two windows of inferences agree; whether a cell got there before
its runs, and how far each run still drifted, is reported, and no inference is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from host.bench.spec import Method


def is_steady(round_trips_us: Sequence[float], method: Method) -> bool:
    """Whether the medians of the last two windows are within the tolerance of each other."""
    window = method.steady_window
    if len(round_trips_us) < 2 * window:
        return False
    before = statistics.median(round_trips_us[-2 * window : -window])
    now = statistics.median(round_trips_us[-window:])
    return abs(now - before) <= method.steady_tolerance * before


def is_long_enough(seconds: float, inferences: int, method: Method) -> bool:
    """Whether a run with so many inferences that went well may end."""
    return seconds >= method.run_seconds and inferences >= method.run_inferences


def run_summary(
    boot: int, run: int, seconds: float, round_trips_us: Sequence[int], failed: int
) -> dict[str, Any]:
    """A run that is over. `drift`: median of its second half over that of its first, minus 1."""
    half = len(round_trips_us) // 2
    drift = None
    if half:
        first = statistics.median(round_trips_us[:half])
        drift = statistics.median(round_trips_us[half:]) / first - 1 if first else None
    return {
        "boot": boot,
        "run": run,
        "seconds": round(seconds, 3),
        "inferences": len(round_trips_us),
        "failed": failed,
        "median_us": statistics.median(round_trips_us) if round_trips_us else None,
        "drift": None if drift is None else round(drift, 4),
    }


def cell_summary(
    runs: Sequence[dict[str, Any]], warm_up: int, steady_after: int | None
) -> dict[str, Any]:
    """A cell whose runs are over: the median of their medians, and the least and largest of them.

    `warm_up`: inferences before the first run; `steady_after`: how many it took, None: it was not
    steady when the runs began.
    """
    medians = [run["median_us"] for run in runs if run["median_us"] is not None]
    return {
        "median_us": statistics.median(medians) if medians else None,
        "least_us": min(medians, default=None),
        "largest_us": max(medians, default=None),
        "inferences": sum(run["inferences"] for run in runs),
        "failed": sum(run["failed"] for run in runs),
        "warm_up": warm_up,
        "steady_after": steady_after,
        "runs": list(runs),
    }
