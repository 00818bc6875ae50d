"""Rows of a sweep: one for each inference, tidy, with units in the names. Schema version 1.

Every column may be null where it says so in its description and nowhere else; null is "not known",
never 0. No number is infinite or none (NaN), and none but those of SIGNED is below 0. Durations are
whole microseconds. `columns.csv` documents them; `schema()` is the same for
pyarrow, each field with its `description` as metadata and the version beside them. Nested types:
`phases` is a list of (stage int16, phase string, duration_us int64), `energies` of (stage, phase,
energy_mj double).

A row lives as a plain dictionary (`blank()` has every column) until it is written. Version history:
1, the first.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import TinysplitError
from partitioner.output import whole_file

VERSION = 1
VERSION_KEY = b"tinysplit.rows"  # In the Parquet file's metadata.

# What an inference was for. Only `run` counts in medians; the others are there to be looked at.
WARM_UP = "warm_up"
RUN = "run"
INTERRUPTED = "interrupted"  # Of a run that a kill or Ctrl-C cut short and that was repeated.

Row = dict[str, Any]
Table = Any  # pyarrow.Table; pyarrow has no types.


class RowsError(TinysplitError):
    """Rows that cannot be read or written, or are of another version."""


class Column(NamedTuple):
    """`kind` names a pyarrow type; `nullable` says whether null ("not known") may stand there."""

    name: str
    kind: str
    nullable: bool
    description: str


def _documented() -> tuple[Column, ...]:
    text = Path(__file__).with_name("columns.csv").read_text("utf-8")
    return tuple(
        Column(row["column"], row["type"], row["nullable"] == "yes", row["description"])
        for row in csv.DictReader(io.StringIO(text))
    )


DOCUMENTED = _documented()
NAMES = tuple(column.name for column in DOCUMENTED)
_BLANKS: dict[str, Any] = {"string": "", "bool": False, "double": 0.0}
_NESTED = ("phases", "energies", "list of string")
_MOST = 1e30  # Of any unit here; sums and squares of such numbers are still finite.
# Energy is below 0 where less was drawn than the baseline that is subtracted; a warm-up is run -1.
SIGNED = frozenset(
    (
        *("run", "clock_offset_us", "energy_baseline_mw"),
        *("energy_mj", "energy_head_mj", "energy_tail_mj", "energy_phases"),
    )
)


def blank() -> Row:
    """A row with every column: null where that may be, else empty or 0."""
    found: Row = {}
    for column in DOCUMENTED:
        empty = [] if column.kind in _NESTED else _BLANKS.get(column.kind, 0)
        found[column.name] = None if column.nullable else empty
    found["negotiated"] = "{}"
    found["energy_source"] = found["energy_method"] = found["energy_provenance"] = "none"
    return found


def arrow() -> Any:
    """pyarrow. Raises RowsError if it is not installed."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise RowsError(
            f"sweeps need {error.name}: pip install 'tinysplit[bench]' (in its checkout: "
            "pip install '.[bench]')"
        ) from error


def schema() -> Any:
    """The pyarrow schema: every field with its description, and the version."""
    pa = arrow()
    simple = {
        "string": pa.string(),
        "bool": pa.bool_(),
        "double": pa.float64(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
    }
    where = [("stage", pa.int16()), ("phase", pa.string())]
    types = {
        **simple,
        "list of string": pa.list_(pa.string()),
        "phases": pa.list_(pa.struct([*where, ("duration_us", pa.int64())])),
        "energies": pa.list_(pa.struct([*where, ("energy_mj", pa.float64())])),
    }
    fields = [
        pa.field(c.name, types[c.kind], c.nullable, {"description": c.description})
        for c in DOCUMENTED
    ]
    return pa.schema(fields, {VERSION_KEY: str(VERSION).encode()})


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Rows as a pyarrow table.

    Raises:
        RowsError: a column is missing, or a value is of another type; rows count from 0.
    """
    pa = arrow()
    listed = list(rows)
    for row in listed:
        if unlike := row.keys() ^ set(NAMES):
            raise RowsError(f"a row and the schema disagree about {', '.join(sorted(unlike))}")
    try:
        found = pa.Table.from_pylist(listed, schema())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RowsError(f"a row does not fit the schema: {_misfit(listed) or error}") from error
    empty = [c.name for c in DOCUMENTED if not c.nullable and found[c.name].null_count]
    if empty:
        raise RowsError(f"a row lacks what every row has: {', '.join(empty)}")
    return found


def _misfit(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which value pyarrow does not take; empty: each by itself it does."""
    for number, row in enumerate(rows):
        for field in schema():
            if not _takes(field.type, row[field.name]):
                return f"row {number}, {field.name}: {row[field.name]!r} is no {field.type}"
    return ""


def _takes(kind: Any, value: Any) -> bool:
    pa = arrow()
    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def check(rows: Table, name: str) -> None:
    """See that every number is one that can be: finite, and not below 0 unless it is of SIGNED.

    Raises:
        RowsError: names the file (`name`), the row (from 0), the column, and what is there.
    """
    pa = arrow()
    pc = importlib.import_module("pyarrow.compute")
    for column in DOCUMENTED:
        values = rows[column.name]
        rows_of = None  # Where nested values come from.
        if column.kind in ("phases", "energies"):
            rows_of = pc.list_parent_indices(values)
            values = pc.struct_field(pc.list_flatten(values), 2)
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            continue
        tests = [("is no finite number", pc.invert(pc.is_finite(values)))]
        if pa.types.is_floating(values.type):
            tests.append(("is beyond all measure", pc.greater(pc.abs(values), _MOST)))
        if column.name not in SIGNED:
            tests.append(("is below 0", pc.less(values, 0)))
        for what, wrong in tests:
            at = pc.index(wrong, True).as_py()
            if at < 0:
                continue
            number = at if rows_of is None else rows_of[at].as_py()
            value = values[at].as_py()
            raise RowsError(
                f"{name}, row {number} (from 0), column {column.name}: {value} {what}, so nothing "
                "can be said of these results; restore the file, or run the sweep again with "
                "another --output"
            )


def write(rows: Table, path: Path) -> None:
    """A table as a Parquet file, whole or not at all. Raises OutputError."""
    arrow()
    parquet = importlib.import_module("pyarrow.parquet")
    with whole_file(path) as temporary:
        parquet.write_table(rows, temporary, compression="zstd")


def write_csv(rows: Table, path: Path) -> None:
    """A table as CSV (UTF-8): null is empty, nested columns are JSON. Raises OutputError."""
    pa = arrow()
    writer = importlib.import_module("pyarrow.csv")
    columns = [
        pa.array([json.dumps(value) for value in column.to_pylist()], pa.string())
        if pa.types.is_list(column.type)
        else column
        for column in rows.columns
    ]
    with whole_file(path) as temporary:
        writer.write_csv(pa.table(columns, names=rows.column_names), str(temporary))


def read(path: Path) -> Table:
    """The rows in a Parquet file.

    Raises:
        RowsError: unreadable, not rows of tinysplit, or of another version.
    """
    pa = arrow()
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        found = parquet.read_table(path)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise RowsError(f"cannot read {path}: {why}") from error
    except pa.ArrowInvalid as error:
        raise RowsError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error
    return _checked(found, path)


def _checked(found: Table, path: Path) -> Table:
    version = (found.schema.metadata or {}).get(VERSION_KEY)
    if version is None:
        raise RowsError(f"{path} does not hold rows of a sweep (no version in it)")
    if version != str(VERSION).encode():
        raise RowsError(
            f"{path} holds rows of version {version.decode('utf-8', 'replace')}, and this "
            f"tinysplit reads version {VERSION}; read it with the tinysplit that wrote it"
        )
    wanted = schema()
    if not found.schema.equals(wanted):
        unlike = set(found.schema.names) ^ set(NAMES)
        what = ", ".join(sorted(unlike)) or "the types of its columns"
        raise RowsError(f"{path} says it is version {VERSION}, but differs in {what}")
    return found


def joined(tables: Sequence[Table]) -> Table:
    """Tables one after the other; without any, a table without rows."""
    pa = arrow()
    return pa.concat_tables(tables) if tables else schema().empty_table()
