"""How a sweep tells how far it is: for people, for scripts as lines of JSON, or not at all.

A terminal is drawn between inferences only, and seldom, so that it takes no time from them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from host.bench.rows import Row
from host.bench.spec import Cell, Experiment

_DRAW_EVERY_S = 0.5
_SHOWN_CELLS = 12
_START_S = 5.0  # Of a chain, before any was seen.
_MEDIAN_OF = 100


class Observer:
    """Told what happens; this one says nothing."""

    def begin(
        self, experiment: Experiment, over: Sequence[Mapping[str, Any]], left: Sequence[Cell]
    ) -> None:
        """The sweep begins, with cells that are over and those that are left, in order."""

    def cell(self, cell: Cell) -> None:
        """A cell begins."""

    def row(self, row: Row) -> None:
        """An inference is over."""

    def run_over(self, summary: Mapping[str, Any]) -> None:
        """A run is over."""

    def cell_over(self, summary: Mapping[str, Any]) -> None:
        """A cell is over, done or failed."""

    def end(self) -> None:
        """All cells are over."""


class JsonLines(Observer):
    """Events as lines of JSON: begin, cell, run, cell_over, end."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._sink, flush=True)

    def begin(
        self, experiment: Experiment, over: Sequence[Mapping[str, Any]], left: Sequence[Cell]
    ) -> None:
        name = experiment.name
        self._write("begin", experiment=name, cells_over=len(over), cells_left=len(left))

    def cell(self, cell: Cell) -> None:
        self._write("cell", number=cell.number, name=cell.name)

    def run_over(self, summary: Mapping[str, Any]) -> None:
        self._write("run", **summary)

    def cell_over(self, summary: Mapping[str, Any]) -> None:
        self._write("cell_over", **{k: v for k, v in summary.items() if k != "runs"})

    def end(self) -> None:
        self._write("end")


class Lines(Observer):
    """A line per cell, for logs."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def begin(
        self, experiment: Experiment, over: Sequence[Mapping[str, Any]], left: Sequence[Cell]
    ) -> None:
        self._names = cell_names(experiment)
        self._over, self._every = len(over), len(over) + len(left)

    def cell_over(self, summary: Mapping[str, Any]) -> None:
        self._over += 1
        line = f"{self._over} of {self._every}: {self._names[summary['number']]}: "
        if summary["state"] != "done":
            line += f"{summary['state']}: {summary['reason']}"
        elif summary["median_us"] is not None:
            line += f"{summary['median_us'] / 1e3:.2f} ms (median, {_how(summary)})"
        print(f"{line} in {clock(summary['seconds'])}", file=self._sink, flush=True)


class Screen(Observer):
    """A table of the last cells with live medians, failures and when it will be over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._drawn = 0.0
        self._now: Cell | None = None
        self._provenance = ""
        self._round_trips: list[int] = []
        self._inferences = self._failures = self._run = 0

    def begin(
        self, experiment: Experiment, over: Sequence[Mapping[str, Any]], left: Sequence[Cell]
    ) -> None:
        self._experiment, self._over, self._left = experiment, list(over), list(left)
        self._names = cell_names(experiment)
        self._resumed = len(over)
        self._started = time.monotonic()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()
        self._draw()

    def cell(self, cell: Cell) -> None:
        self._now, self._round_trips, self._provenance = cell, [], ""
        self._cell_started = time.monotonic()
        self._inferences = self._failures = self._run = 0
        self._draw()

    def row(self, row: Row) -> None:
        self._inferences += 1
        self._run, self._provenance = row["run"], row["provenance"]
        if row["round_trip_us"] is None:
            self._failures += 1
        else:
            self._round_trips = [*self._round_trips[1 - _MEDIAN_OF :], row["round_trip_us"]]
        if time.monotonic() - self._drawn > _DRAW_EVERY_S:
            self._draw()

    def cell_over(self, summary: Mapping[str, Any]) -> None:
        self._over.append(summary)
        self._left = [cell for cell in self._left if cell.number != summary["number"]]
        self._now = None
        self._draw()

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the terminal. Safe to call twice."""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        assert self._live is not None
        self._drawn = time.monotonic()
        table = cells_table(self._over[-_SHOWN_CELLS:], self._names)
        if self._now is not None:
            table.add_row(
                Text(f"> {self._names[self._now.number]}"), _ms(self._round_trips), "",
                self._provenance, f"{self._inferences}", _failures(self._failures), self._where(),
            )  # fmt: skip
        self._live.update(Group(table, Text(self._line())), refresh=True)

    def _where(self) -> str:
        runs = self._experiment.method.runs
        return "starting" if not self._inferences else (
            "warm-up" if self._run < 0 else f"run {self._run + 1} of {runs}"
        )  # fmt: skip

    def _line(self) -> str:
        now = time.monotonic()
        every = len(self._over) + len(self._left)
        line = f"{self._experiment.name}: {len(self._over)} of {every} cells"
        failed = sum(cell["state"] != "done" for cell in self._over)
        line += f", {failed} failed" if failed else ""
        if self._left:
            took = [cell["seconds"] for cell in self._over[self._resumed :]]
            method = self._experiment.method
            each = statistics.mean(took) if took else method.runs * method.run_seconds + _START_S
            spent = now - self._cell_started if self._now is not None else 0.0
            line += f", about {clock(max(each * len(self._left) - spent, 0.0))} left"
        return line + f" ({clock(now - self._started)} so far)"


def cell_names(experiment: Experiment) -> dict[int, str]:
    """A short name for every cell, by its number."""
    every = [{**cell.coordinates, "repetition": cell.repetition} for cell in experiment.cells]
    return {cell.number: name for cell, name in zip(experiment.cells, labels(every), strict=True)}


def labels(coordinates: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells cells apart: the coordinates in which they differ, or the transport."""
    varied = [
        axis
        for axis in (coordinates[0] if coordinates else ())
        if len({str(one[axis]) for one in coordinates}) > 1
    ]
    shown = varied or ["transport"]
    plain = ("model", "cut", "transport", "link", "boards")
    return [
        ", ".join(str(one[axis]) if axis in plain else f"{axis} {one[axis]}" for axis in shown)
        for one in coordinates
    ]


def cells_table(cells: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Table:
    """Cells that are over, as cells.json has them, under these names by number.

    `median` is of the medians of the runs and `range` from the least of these to the largest; of a
    modelled cell, the model's value and its band. `how` is how their round trips came about.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cell", overflow="fold", min_width=20)
    for heading in ("median ms", "range ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("how")
    for heading in ("inferences", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for cell in cells:
        least, largest = cell["least_us"], cell["largest_us"]
        spread = "" if least is None else f"{least / 1e3:.2f} to {largest / 1e3:.2f}"
        median = "" if cell["median_us"] is None else f"{cell['median_us'] / 1e3:.2f}"
        state: RenderableType = cell["state"]
        if cell["state"] != "done":
            state = Text(f"{cell['state']}: {cell['reason']}", style="red")
        elif cell["warm_up"] and cell["steady_after"] is None:
            state = "done, not steady"
        elif cell.get("note"):
            state = f"done; {cell['note']}"
        table.add_row(
            Text(names[cell["number"]]), median, spread, _how(cell) if median else "",
            f"{cell['inferences']:,}", _failures(cell["failed"]), state,
        )  # fmt: skip
    return table


def _how(cell: Mapping[str, Any]) -> str:
    """Of sweeps from before it was noted beside the rows, it is in the rows only."""
    return cell.get("provenance") or "not noted"


def _failures(count: int) -> Text:
    return Text(f"{count:,}", style="red" if count else "")


def _ms(round_trips_us: Sequence[int]) -> str:
    return f"{statistics.median(round_trips_us) / 1e3:.2f}" if round_trips_us else ""


def clock(seconds: float) -> str:
    """A duration for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
