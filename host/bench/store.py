"""A folder of results, written so that nothing but the inference under way can be lost.

    experiment.yaml     the experiment, byte for byte as it was read
    environment.json    versions, commit, boards, bundles, room notes, sessions
    cells.json          what became of each cell: done or failed and why, runs, medians
    journal             what has happened in the cell under way
    cells/0007.parquet  the rows of a cell that is over
    rows.parquet        all rows, once the sweep is over (cells/ is gone then)
    lock                held while a sweep writes here

Theory of operation. The journal is append-only: lines of a CRC-32, a space and JSON. A kill leaves
at most a torn last line, which the next start drops; it is flushed to the disk after every run.
When a cell is over, its rows become a Parquet file, then cells.json names it, then the journal is
emptied; each step leaves what a start needs to take it again. Records of the journal, by
their only key:

    cell  number, name and boot: a chain is being started
    base  what its rows have in common
    row   what differs from the base row
    run   a run is over: its summary
    end   the cell is over: its summary
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from host.bench import rows, spec
from host.bench.rows import Row, Table
from host.bench.spec import Cell, Experiment
from host.closing import Assembly
from models.errors import TinysplitError
from partitioner.output import whole_file

VERSION = 1
EXPERIMENT, ENVIRONMENT, CELLS = "experiment.yaml", "environment.json", "cells.json"
JOURNAL, PARTS, ROWS, CSV, LOCK = "journal", "cells", "rows.parquet", "rows.csv", "lock"


# What reading cells.json relies on: `method.cell_summary` and what became of the cell.
_COUNT = {"type": "integer", "minimum": 0}
_US = {"type": ["number", "null"], "minimum": 0}
_CELL = {
    "number": _COUNT,
    "name": {"type": "string"},
    "state": {"enum": ["done", "failed"]},
    "reason": {"type": ["string", "null"]},
    "provenance": {"type": "string"},
    "median_us": _US,
    "least_us": _US,
    "largest_us": _US,
    "inferences": _COUNT,
    "failed": _COUNT,
    "warm_up": _COUNT,
    "steady_after": {"type": ["integer", "null"]},
}
_NEEDED = [name for name in _CELL if name != "provenance"]  # Which came later.
_CELLS_SCHEMA = {
    "required": ["cells"],
    "properties": {
        "cells": {
            "type": "array",
            "items": {"type": "object", "required": _NEEDED, "properties": _CELL},
        }
    },
}


class StoreError(TinysplitError):
    """Results that cannot be written, read or resumed."""


@dataclass
class Progress:
    """What the journal says of the cell under way. `runs` are summaries of those completed."""

    number: int = -1
    name: str = ""
    boot: int = -1
    base: Row = field(default_factory=rows.blank)
    rows: list[Row] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """Follow one record. Raises KeyError or TypeError for what is none."""
        if "cell" in record:
            one = record["cell"]
            if one["number"] != self.number:
                self.rows, self.runs, self.end = [], [], None
            self.number, self.name, self.boot = one["number"], one["name"], one["boot"]
            self.base = rows.blank()
        elif "base" in record:
            self.base = {**rows.blank(), **record["base"]}
        elif "row" in record:
            self.rows.append({**self.base, **record["row"]})
        elif "run" in record:
            self.runs.append(record["run"])
        else:
            self.end = record["end"]

    def settled(self) -> list[Row]:
        """The rows, those of runs that never ended marked as interrupted."""
        whole = {(run["boot"], run["run"]) for run in self.runs}
        return [
            {**row, "purpose": rows.INTERRUPTED}
            if row["purpose"] == rows.RUN and (row["boot"], row["run"]) not in whole
            else row
            for row in self.rows
        ]


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as a line of the journal."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode(data: bytes, name: str) -> tuple[list[dict[str, Any]], int]:
    """The records in a journal, and how many of its bytes they take; a torn end is left out.

    Raises:
        StoreError: a line that is not the last is damaged.
    """
    found: list[dict[str, Any]] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]
        record = _record(line)
        if record is None:
            if data.find(b"\n", end + 1) < 0:
                break
            raise StoreError(
                f"{name} is damaged at line {len(found) + 1}; what follows cannot be trusted. "
                "Give another --output, or remove that file: its cell is then run again"
            )
        found.append(record)
        at = end + 1
    return found, at


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        whole = int(line[:8], 16) == zlib.crc32(line[9:])
        found = json.loads(line[9:]) if whole else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class Store(Assembly):
    """A folder that a sweep writes to; a context manager that holds its lock.

    Raises (entering):
        StoreError: another sweep writes there, or the folder is another experiment's.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        super().__init__()
        self.folder = folder
        self._experiment = experiment
        self._journal = -1
        self._size = 0
        self.progress = Progress()
        self.cells: dict[int, dict[str, Any]] = {}

    def _assemble(self) -> None:
        try:
            self._open()
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write {self.folder}: {error.strerror or error}; what is there is whole, and "
            "the same command goes on from it"
        )

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder} is no folder; give another --output")
        if self.folder.is_dir() and not (self.folder / EXPERIMENT).exists():
            strange = [p.name for p in self.folder.iterdir() if p.name != LOCK]
            if strange:
                raise StoreError(
                    f"{self.folder} holds {sorted(strange)[0]!r}, which is no sweep's; give "
                    "another --output"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock()
        self._same_experiment()
        self.cells = {cell["number"]: cell for cell in _read_cells(self.folder, self._experiment)}
        self._journal = os.open(self.folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._stack.callback(os.close, self._journal)
        self._recover()

    def _lock(self) -> None:
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        self._stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            raise StoreError(
                f"another sweep (process {holder or 'unknown'}) writes to {self.folder}; wait for "
                "it, or give another --output"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())

    def _same_experiment(self) -> None:
        path = self.folder / EXPERIMENT
        text = self._experiment.text
        if not path.exists():
            with whole_file(path) as temporary:
                temporary.write_bytes(text.encode())
            return
        if path.read_bytes() != text.encode():
            raise StoreError(
                f"{self.folder} was begun with another {self._experiment.name}: its {EXPERIMENT} "
                "differs from this one. Give another --output, or restore the file to resume"
            )

    def _recover(self) -> None:
        path = self.folder / JOURNAL
        records, good = decode(path.read_bytes(), str(path))
        try:
            for record in records:
                self.progress.take(record)
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} holds a record that is none: {error!r}") from error
        os.ftruncate(self._journal, good)
        self._size = good
        if self.progress.end is not None:
            self._settle()

    def _append(self, record: Mapping[str, Any]) -> None:
        line = encode(record)
        try:
            written = os.write(self._journal, line)
            if written < len(line):
                written += os.write(self._journal, line[written:])  # Raises what is wrong.
        except OSError as error:
            os.ftruncate(self._journal, self._size)
            raise self._cannot(error) from error
        self._size += len(line)
        self.progress.take(record)

    def begin(self, cell: Cell) -> int:
        """A chain is being started for the cell; returns how often one was before."""
        again = self.progress.number == cell.number
        if not again and self.progress.number >= 0:
            raise StoreError("a cell is begun while another is under way")
        boot = self.progress.boot + 1 if again else 0
        self._append({"cell": {"number": cell.number, "name": cell.name, "boot": boot}})
        return boot

    def base(self, row: Row) -> None:
        """What the rows to come have in common."""
        self._append({"base": row})

    def add(self, row: Row) -> None:
        """An inference is over."""
        base = self.progress.base
        self._append({"row": {name: v for name, v in row.items() if base.get(name) != v}})

    def end_run(self, summary: Mapping[str, Any]) -> None:
        """A run is over; `summary` has `boot` and `run`."""
        self._append({"run": dict(summary)})
        try:
            os.fsync(self._journal)  # A power cut costs the run under way.
        except OSError as error:
            raise self._cannot(error) from error

    def end_cell(self, summary: Mapping[str, Any]) -> None:
        """The cell is over, done or failed."""
        self._append({"end": dict(summary)})
        self._settle()

    def _settle(self) -> None:
        done = self.progress
        assert done.end is not None
        try:
            os.fsync(self._journal)
            rows.write(rows.table(done.settled()), _part(self.folder, done.number))
            self.cells[done.number] = {"number": done.number, "name": done.name, **done.end}
            self._write_cells()
            os.ftruncate(self._journal, 0)
        except OSError as error:
            raise self._cannot(error) from error
        self._size = 0
        self.progress = Progress()

    def _write_cells(self) -> None:
        write_json(
            self.folder / CELLS,
            {
                "version": VERSION,
                "experiment": self._experiment.name,
                "sha256": self._experiment.sha256,
                "cells": [self.cells[number] for number in sorted(self.cells)],
            },
        )

    def forget(self, numbers: Iterable[int]) -> None:
        """Take cells out of the results, to run them again."""
        gone = set(numbers)
        if not gone:
            return
        self._part_again()
        self.cells = {n: cell for n, cell in self.cells.items() if n not in gone}
        self._write_cells()
        for number in gone:
            _part(self.folder, number).unlink(missing_ok=True)
        (self.folder / ROWS).unlink(missing_ok=True)

    def _part_again(self) -> None:
        """Give every cell its own file again."""
        if (self.folder / ROWS).exists():
            pa = rows.arrow()
            whole = rows.read(self.folder / ROWS)
            for number, cell in self.cells.items():
                here = pa.array([name == cell["name"] for name in whole["cell"].to_pylist()])
                rows.write(whole.filter(here), _part(self.folder, number))

    def finish(self, *, csv: bool = False) -> Table:
        """All cells are over: their rows in one file. Returns them."""
        target = self.folder / ROWS
        try:
            if not target.exists():
                over = [self.cells[number] for number in sorted(self.cells)]
                rows.write(rows.joined([*_tables(self.folder, over).values()]), target)
            for number in self.cells:
                _part(self.folder, number).unlink(missing_ok=True)
            if (self.folder / PARTS).is_dir():
                (self.folder / PARTS).rmdir()
            whole = rows.read(target)
            if csv:
                rows.write_csv(whole, self.folder / CSV)
        except OSError as error:
            raise self._cannot(error) from error
        return whole


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON for people, whole or not at all. Raises OutputError."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no value of JSON")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; empty if there is no such file. Raises StoreError."""
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=_no_json)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not a mapping of names to values")
    return content


def _read_cells(folder: Path, experiment: Experiment) -> list[dict[str, Any]]:
    path = folder / CELLS
    content = read_json(path)
    if not content:
        return []
    if content.get("version") != VERSION:
        version = content.get("version")
        raise StoreError(f"{path} is of version {version}, and this tinysplit reads {VERSION}")
    for error in jsonschema.Draft202012Validator(_CELLS_SCHEMA).iter_errors(content):
        where = "/".join(str(part) for part in error.absolute_path)
        raise StoreError(
            f"{path} is damaged{f' at {where}' if where else ''}; restore it, or give another "
            "--output to `tinysplit bench`"
        )
    found: list[dict[str, Any]] = content["cells"]
    names = [cell.name for cell in experiment.cells]
    for cell in found:
        if cell["number"] >= len(names) or cell["name"] != names[cell["number"]]:
            raise StoreError(
                f"{path} names cell {cell['number']}, {cell['name']!r}, which the {EXPERIMENT} "
                "beside it does not have; restore the two"
            )
    return found


@dataclass(frozen=True)
class State:
    """How far a sweep is: cells that are over as in cells.json, and the one under way."""

    experiment: Experiment
    cells: list[dict[str, Any]]
    under_way: Progress

    @property
    def finished(self) -> bool:
        return len(self.cells) == len(self.experiment.cells)


@dataclass(frozen=True)
class Results(State):
    """What a folder holds, finished or not. `rows` is a pyarrow table (`host.bench.rows`)."""

    folder: Path
    environment: dict[str, Any]
    rows: Table


def read_state(folder: Path) -> State:
    """How far the sweep in a folder is, also while it runs.

    Raises:
        StoreError: no results there, or damaged ones.
        SpecError: its experiment.yaml is not an experiment.
    """
    if not (folder / EXPERIMENT).is_file():
        raise StoreError(f"{folder} holds no results (no {EXPERIMENT} in it)")
    under_way = read_progress(folder)
    experiment = spec.read(folder / EXPERIMENT)
    cells = _read_cells(folder, experiment)
    if under_way.number in {cell["number"] for cell in cells}:
        under_way = Progress()  # It has just been settled.
    return State(experiment, cells, under_way)


def read(folder: Path) -> Results:
    """The results in a folder, also while a sweep writes there; without a row, an empty table.

    Raises:
        StoreError, SpecError: as `read_state`.
        RowsError: rows of another version, or with numbers that cannot be.
    """
    state = read_state(folder)
    tables = _tables(folder, state.cells)
    if state.under_way.rows:
        try:
            tables[folder / JOURNAL] = rows.table(state.under_way.rows)
        except rows.RowsError as error:
            raise rows.RowsError(
                f"{folder / JOURNAL}: {error}; remove that file, and its cell is run again"
            ) from error
    for path, table in tables.items():
        rows.check(table, str(path))
    return Results(
        **vars(state),
        folder=folder,
        environment=read_json(folder / ENVIRONMENT),
        rows=rows.joined([*tables.values()]),
    )


def _part(folder: Path, number: int) -> Path:
    return folder / PARTS / f"{number:04}.parquet"


def _tables(folder: Path, cells: Iterable[Mapping[str, Any]]) -> dict[Path, Table]:
    """The rows of cells that are over, by file. Raises StoreError (some are missing), RowsError."""
    parts = [_part(folder, cell["number"]) for cell in cells]
    missing = [path for path in parts if not path.exists()]
    # In this order: a sweep that ends meanwhile takes the parts away once all rows are in one file.
    if (folder / ROWS).exists():
        return {folder / ROWS: rows.read(folder / ROWS)}
    if missing:
        raise StoreError(
            f"{folder} has lost rows of cells that are over (neither {ROWS} nor "
            f"{PARTS}/{missing[0].name} is there); restore them, or give another --output"
        )
    return {path: rows.read(path) for path in parts}


def is_locked(folder: Path) -> bool:
    """Whether a sweep writes to the folder now."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def read_progress(folder: Path) -> Progress:
    """The cell under way, as the journal has it now. Raises StoreError."""
    path = folder / JOURNAL
    found = Progress()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    try:
        for record in decode(data, str(path))[0]:
            found.take(record)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} holds a record that is none: {error!r}") from error
    return found
