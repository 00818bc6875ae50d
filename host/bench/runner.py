"""Runs the cells of an experiment one after the other, and goes on from wherever it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from host.bench import method, rows
from host.bench.bundles import Key, key
from host.bench.computed import Computed
from host.bench.measured import Examples, OnNodes, base_row, now_utc
from host.bench.progress import Observer
from host.bench.rows import Row
from host.bench.spec import Cell, Experiment
from host.bench.store import Store, StoreError
from host.boards.board import BoardError
from host.meters.meter import MeterError
from models.errors import TinysplitError
from partitioner.bundle import Bundle

DONE, FAILED = "done", "failed"


class CellFailedError(TinysplitError):
    """A cell that cannot be satisfied, and why."""


def run(
    experiment: Experiment,
    store: Store,
    bundles: Mapping[Key, Bundle],
    folders: Mapping[Key, Path],
    computed: Callable[[Sequence[Cell]], Mapping[int, Callable[[], Computed]]],
    observer: Observer,
    on_boards: Callable[[Cell, list[dict[str, Any]]], None],
    on_text: Callable[[str, str], None] | None = None,
) -> None:
    """Every cell that is not over yet.

    Args:
        computed: given the cells that need no board, by number who waits for their rows.
        on_boards: told who the boards of a cell are, once they are up.
        on_text: gets the name of a board and a line that it printed.

    Raises:
        StoreError, OutputError: the results cannot be written. All else fails its cell only.
    """
    examples = Examples(experiment.inputs)
    left = [cell for cell in experiment.ordered() if cell.number not in store.cells]
    under_way = store.progress.number
    left.sort(key=lambda cell: cell.number != under_way)  # Stable: that one first.
    waiting = computed([cell for cell in left if cell.boards.boardless])
    observer.begin(experiment, [store.cells[n] for n in sorted(store.cells)], left)
    for cell in left:
        observer.cell(cell)
        bundle = bundles[key(cell)]
        started = time.monotonic()
        try:
            if cell.boards.boardless:
                summary = _take(store, cell, waiting[cell.number](), observer)
            else:
                folder = folders[key(cell)]
                nodes = OnNodes(experiment, cell, bundle, folder, examples, on_text)
                summary = CellRun(experiment, store, cell, nodes, observer, on_boards).run()
            state: dict[str, Any] = {"state": DONE, "reason": None}
        except StoreError:
            raise
        except TinysplitError as error:
            reason = " ".join(str(error).split())
            summary = _failed(experiment, store, cell, bundle, error, reason)
            state = {"state": FAILED, "reason": reason}
        boots = store.progress.boot + 1
        state["provenance"] = store.progress.base["provenance"]
        store.end_cell(
            {
                **state,
                "coordinates": {**cell.coordinates, "repetition": cell.repetition},
                "boots": boots,
                "seconds": round(time.monotonic() - started, 3),
                "ended_utc": now_utc(),
                **summary,
            }
        )
        observer.cell_over(store.cells[cell.number])
    observer.end()


def _take(store: Store, cell: Cell, found: Computed, observer: Observer) -> dict[str, Any]:
    store.begin(cell)
    store.base(found.base)
    for row in found.rows:
        store.add(row)
        observer.row(row)
    for summary in found.runs:
        store.end_run(summary)
    return found.summary


def _failed(
    experiment: Experiment, store: Store, cell: Cell, bundle: Bundle, error: Exception, reason: str
) -> dict[str, Any]:
    """What is known of a cell that failed; the failure is a row, too."""
    if store.progress.number != cell.number:
        store.begin(cell)
    progress = store.progress
    row = base_row(experiment, cell, bundle) if not progress.base["cell"] else progress.base
    code = type(error).__name__
    if isinstance(error, BoardError | MeterError):
        code = error.code
    store.add(
        {
            **row,
            "purpose": rows.RUN if progress.runs else rows.WARM_UP,
            "run": len(progress.runs) if progress.runs else -1,
            "iteration": sum(r["boot"] == progress.boot for r in progress.rows),
            "boot": progress.boot,
            "started_utc": now_utc(),
            "error": reason,
            "error_code": code,
        }
    )
    warm_up = sum(row["purpose"] == rows.WARM_UP for row in progress.rows)
    return method.cell_summary(progress.runs, warm_up, None)


class CellRun:
    """One cell, from its first inference of this start to its last."""

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        cell: Cell,
        nodes: OnNodes,
        observer: Observer,
        on_boards: Callable[[Cell, list[dict[str, Any]]], None],
    ) -> None:
        self._method = experiment.method
        self._store, self._cell, self._nodes, self._observer = store, cell, nodes, observer
        self._on_boards = on_boards
        self._boot = 0
        self._failed_in_a_row = 0
        self._steady_after: int | None = None
        self._warm_up = 0

    def run(self) -> dict[str, Any]:
        """Start the chain and satisfy the cell; returns its summary.

        Raises:
            TinysplitError: why it failed.
        """
        self._boot = self._store.begin(self._cell)
        with self._nodes:
            self.begin()
            self._warm()
            for number in range(len(self._store.progress.runs), self._method.runs):
                self._run(number)
        return method.cell_summary(self._store.progress.runs, self._warm_up, self._steady_after)

    def begin(self) -> None:
        """The chain is up: note what it says of itself."""
        self._store.base(self._nodes.base)
        self._on_boards(self._cell, self._nodes.boards)
        self._deadline = time.monotonic() + self._method.cell_seconds

    def infer(self, purpose: str, run: int, iteration: int) -> Row:
        """One inference, recorded. Raises BoardError, CellFailedError, StoreError."""
        if time.monotonic() > self._deadline:
            limit = f"{self._method.cell_seconds:g} s (method: cell_seconds)"
            raise CellFailedError(f"not satisfied within {limit}")
        row = self._nodes.infer()
        steady = None if purpose == rows.WARM_UP else self._steady_after is not None
        row |= {
            "boot": self._boot,
            "purpose": purpose,
            "run": run,
            "iteration": iteration,
            "steady": steady,
        }
        self._store.add(row)
        self._observer.row(row)
        if row["error"] is None:
            self._failed_in_a_row = 0
        else:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._method.give_up_after:
                count = self._failed_in_a_row
                raise CellFailedError(
                    f"{count} inferences in a row failed, the last: {row['error']}"
                )
        return row

    def _warm(self) -> None:
        took: list[int] = []
        until = time.monotonic() + self._method.warm_up_seconds
        for number in range(self._method.warm_up_inferences):
            if time.monotonic() > until:
                return
            row = self.infer(rows.WARM_UP, -1, number)
            self._warm_up += 1
            if row["round_trip_us"] is not None:
                took.append(row["round_trip_us"])
            if method.is_steady(took, self._method):
                self._steady_after = self._warm_up
                return

    def _run(self, number: int) -> None:
        took: list[int] = []
        failed = iteration = 0
        started = time.monotonic()
        while True:
            row = self.infer(rows.RUN, number, iteration)
            iteration += 1
            if row["round_trip_us"] is None:
                failed += 1
            else:
                took.append(row["round_trip_us"])
            seconds = time.monotonic() - started
            if method.is_long_enough(seconds, len(took), self._method):
                break
        summary = method.run_summary(self._boot, number, seconds, took, failed)
        self._store.end_run(summary)
        self._observer.run_over(summary)
