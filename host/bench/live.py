"""A sweep followed from another terminal: it reads the folder of results, and writes nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from host.bench import rows, store
from host.bench.progress import cell_names, cells_table
from host.bench.store import Progress
from partitioner.command import wide_console

_LOOK_EVERY_S = 0.5


def picture(folder: Path) -> tuple[Group, bool]:
    """The folder as it is now, and whether the sweep is over.

    Raises:
        StoreError, SpecError: no results there.
    """
    found = store.read_state(folder)
    now = found.under_way
    over = found.finished
    names = cell_names(found.experiment)
    lines: list[RenderableType] = [cells_table(found.cells, names)]
    count = (
        f"{found.experiment.name}: {len(found.cells)} of {len(found.experiment.cells)} cells "
        "are over"
    )
    failed = sum(cell["state"] != "done" for cell in found.cells)
    lines.append(Text(count + (f", {failed} failed" if failed else "")))
    if now.number >= 0:
        lines.append(Text(under_way(now, names)))
    if not over and not store.is_locked(folder):
        lines.append(Text("nobody is writing here now; `tinysplit bench` goes on with it"))
    return Group(*lines), over


def under_way(now: Progress, names: Mapping[int, str]) -> str:
    """The cell under way in a line."""
    took = [row["round_trip_us"] for row in now.rows[-100:] if row["round_trip_us"] is not None]
    failures = sum(row["error"] is not None for row in now.rows)
    where = "starting"
    if now.rows:
        last = now.rows[-1]
        where = "warm-up" if last["purpose"] == rows.WARM_UP else f"run {last['run'] + 1}"
    median = ""
    if took:
        how = now.rows[-1]["provenance"]
        median = f", median {statistics.median(took) / 1e3:.2f} ms ({how})"
    name = names.get(now.number, now.name)
    return f"now: {name}: {where}, {len(now.rows)} inferences{median}, {failures} failed"


def follow(folder: Path, console: Console, *, once: bool = False) -> None:
    """Draw the folder again and again until the sweep is over; once where there is no terminal."""
    shown, over = picture(folder)
    if once or not console.is_terminal:
        wide_console(*(one for one in shown.renderables if isinstance(one, Table))).print(shown)
        return
    with Live(shown, console=console, auto_refresh=False) as screen:
        while not over:
            time.sleep(_LOOK_EVERY_S)
            shown, over = picture(folder)
            screen.update(shown, refresh=True)
