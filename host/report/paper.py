"""The figures of arXiv:2507.16594 that a report puts beside its own: `paper.csv`, with sources."""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

LAYER = "block_16_project_BN"
_MS = {"ms": 1.0, "s": 1000.0}


class Figure(NamedTuple):
    """One published figure. `at_least`: it was given as a lower bound."""

    quantity: str
    transport: str
    value: float
    unit: str
    at_least: bool
    source: str

    @property
    def milliseconds(self) -> float:
        return self.value * _MS[self.unit]


@cache
def figures() -> tuple[Figure, ...]:
    """Every figure, in the file's order."""
    text = Path(__file__).with_name("paper.csv").read_text("utf-8")
    return tuple(
        Figure(
            row["quantity"],
            row["transport"],
            float(row["value"].removeprefix(">")),
            row["unit"],
            row["value"].startswith(">"),
            row["source"],
        )
        for row in csv.DictReader(io.StringIO(text))
    )


def round_trips(transport: str) -> list[Figure]:
    """The published steady-state round trips over a transport."""
    return [f for f in figures() if f.quantity == "steady_state_rtt" and f.transport == transport]


def comparable(cells: Any) -> Any:
    """The cells (`host.report.analysis.cells`) that ask what the paper asked.

    Its cut, one head to one tail, a link that nothing was added to, and a round trip to show.
    """
    asked = (cells["cut"] == LAYER) & (cells["heads"] == 1) & (cells["loss"] == 0)
    return cells[asked & cells["round_trip_ms"].notna()]
