"""The schema of rows, and files of other versions."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from host.bench import rows
from host.bench.rows import RowsError


def test_every_column_is_documented_and_durations_and_sizes_have_units() -> None:
    schema = rows.schema()
    assert schema.names == list(rows.NAMES)
    for column in rows.DOCUMENTED:
        assert len(column.description) > 10
        stored = schema.field(column.name).metadata[b"description"].decode()
        assert stored == column.description
    bare = {"boot", "run", "iteration", "heads", "repetition", "loss", "reorder", "corrupt"}
    bare |= {"duplicate", "input_size", "predicted", "truth", "output_crc32", "data_frames"}
    bare |= {"retransmissions", "wire_frames", "air_packets", "air_lost", "exact", "steady"}
    units = ("_us", "_ms", "_bytes", "_bps", "_mj", "_mw")
    for column in rows.DOCUMENTED:
        if column.kind in ("int32", "int64", "double", "bool"):
            assert column.name in bare or column.name.endswith(units), column.name


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    row = {**rows.blank(), "cell": "a", "round_trip_us": 5, "exact": True, "nodes": ["virtual"]}
    row["phases"] = [{"stage": 0, "phase": "invoke", "duration_us": 3}]
    rows.write(rows.table([row]), tmp_path / "x.parquet")
    assert rows.read(tmp_path / "x.parquet").to_pylist() == [row]


def test_null_is_only_where_it_means_not_known() -> None:
    with pytest.raises(RowsError, match="lacks what every row has: cell"):
        rows.table([{**rows.blank(), "cell": None}])
    with pytest.raises(RowsError, match="bundle"):
        rows.table([{k: v for k, v in rows.blank().items() if k != "bundle"}])
    with pytest.raises(RowsError, match="does not fit"):
        rows.table([{**rows.blank(), "round_trip_us": "soon"}])


def test_csv_has_every_row_with_nested_columns_as_json(tmp_path: Path) -> None:
    row = {**rows.blank(), "cell": 'a, "b"', "nodes": ["virtual", "host"]}
    rows.write_csv(rows.table([row] * 3), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3
    assert found[0]["cell"] == 'a, "b"'
    assert found[0]["round_trip_us"] == ""
    assert json.loads(found[0]["nodes"]) == ["virtual", "host"]


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    whole = rows.table([rows.blank()])
    metadata = {rows.VERSION_KEY: b"7"}
    pyarrow.parquet.write_table(whole.replace_schema_metadata(metadata), path)
    with pytest.raises(RowsError, match="holds rows of version 7, and this tinysplit reads"):
        rows.read(path)
    pyarrow.parquet.write_table(whole.drop_columns(["cell"]), path)
    with pytest.raises(RowsError, match="differs in cell"):
        rows.read(path)
    pyarrow.parquet.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RowsError, match="does not hold rows of a sweep"):
        rows.read(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(RowsError, match=r"no Parquet file|cannot read"):
        rows.read(path)
