"""The boards that a search found, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from host.boards.discovery.found import FoundBoard, Search

BUNDLE_DIGITS = 12
_WAYS = {"serial": "serial ports", "network": "network", "bluetooth": "Bluetooth", "mqtt": "broker"}


def table(searches: Sequence[Search]) -> Table | None:
    """A line for each board and port; None if there are none."""
    boards = [board for search in searches for board in search.boards]
    if not boards:
        return None
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("address", "name", "role", "stage", "bundle", "firmware", ""):
        out.add_column(heading)
    for board in boards:
        out.add_row(
            board.address,
            board.name or "-",
            board.role or "-",
            _stage(board),
            _bundle(board),
            board.firmware or "-",
            board.note,
        )
    return out


def _stage(board: FoundBoard) -> str:
    if board.stage is None:
        return "-"
    return f"{board.stage} of {board.stages}" if board.stages else str(board.stage)


def _bundle(board: FoundBoard) -> str:
    if board.bundle is None:
        return "-"
    return board.bundle[:BUNDLE_DIGITS] or "none"


def notes(searches: Sequence[Search]) -> list[str]:
    """What there is to say beside the table, a line for each way of searching."""
    return [f"{_WAYS[search.way]}: {search.note}" for search in searches if search.note]


def as_json(searches: Sequence[Search]) -> str:
    """`boards`: a list of FoundBoard; `notes`: by way of searching."""
    content = {
        "boards": [asdict(board) for search in searches for board in search.boards],
        "notes": {search.way: search.note for search in searches if search.note},
    }
    return json.dumps(content, indent=2)
