"""What a sweep shows while it runs."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from host.bench import progress, rows, spec
from host.bench.progress import JsonLines, Lines, Observer, Screen

TEXT = """\
version: 1
name: test
models: [{model: mobilenet_v2}]
cuts: [block_5_add]
transports: [udp, espnow]
links: [{name: clean}, {name: lossy, loss: 0.1}]
method: {runs: 3}
"""


def tell(observer: Observer) -> None:
    """A cell that was over before, one that goes well, one that fails."""
    experiment = spec.parse(TEXT, Path())
    over, left = summary(3, "done", 5000.0), list(experiment.cells[:3])
    observer.begin(experiment, [over], left)
    observer.cell(left[0])
    blank = {**rows.blank(), "provenance": "emulated"}
    for number in range(4):
        row = {**blank, "run": 1, "round_trip_us": 2000 + number, "iteration": number}
        observer.row(row)
    observer.row({**blank, "run": 1, "error": "lost"})
    observer.run_over({"boot": 0, "run": 1, "median_us": 2001.5})


def summary(number: int, state: str, median_us: float | None) -> dict[str, Any]:
    return {
        "number": number, "name": "long name", "state": state, "reason": "stage1 ended: killed",
        "provenance": "measured and modelled",
        "median_us": median_us, "least_us": median_us, "largest_us": median_us, "inferences": 10,
        "failed": 0, "warm_up": 20, "steady_after": None, "seconds": 70.0, "runs": [],
    }  # fmt: skip


def test_the_screen_has_the_cell_its_median_failures_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_DRAW_EVERY_S", 0.0)
    sink = io.StringIO()
    screen = Screen(Console(file=sink, force_terminal=True, width=120))
    tell(screen)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sink.getvalue())
    assert "> udp, clean" in shown
    last = shown.rsplit("> udp, clean", 1)[1]
    assert last.split()[:3] == ["2.00", "emulated", "5"]
    assert re.search(r"espnow, lossy +5.00 +5.00 to 5.00 +measured and modelled +10 ", shown)
    assert "run 2 of 3" in last
    assert "test: 1 of 4 cells, about 1 min 45 s left" in last
    assert "espnow, lossy" in shown
    assert "done, not steady" in shown
    screen.cell_over(summary(0, "failed", None))
    screen.end()
    screen.close()
    end = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sink.getvalue())
    assert "failed: stage1 ended: killed" in end
    assert "test: 2 of 4 cells, 1 failed" in end


def test_a_log_gets_a_line_per_cell() -> None:
    sink = io.StringIO()
    observer = Lines(sink)
    tell(observer)
    observer.cell_over(summary(0, "done", 2000.0))
    observer.cell_over(summary(1, "failed", None))
    assert sink.getvalue().splitlines() == [
        "2 of 4: udp, clean: 2.00 ms (median, measured and modelled) in 1 min 10 s",
        "3 of 4: udp, lossy: failed: stage1 ended: killed in 1 min 10 s",
    ]


def test_scripts_get_a_line_of_json_per_event() -> None:
    sink = io.StringIO()
    observer = JsonLines(sink)
    tell(observer)
    observer.cell_over(summary(0, "done", 2000.0))
    observer.end()
    events = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["begin", "cell", "run", "cell_over", "end"]
    assert events[0] == {
        "event": "begin", "experiment": "test", "cells_over": 1, "cells_left": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert progress.clock(seconds) == shown
