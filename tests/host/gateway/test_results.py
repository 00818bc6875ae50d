"""What becomes of results that a sink cannot keep."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from host.gateway import results
from host.gateway.results import COLUMNS, ParquetSink, Row


def row(number: int) -> Row:
    return {**dict.fromkeys(COLUMNS), "inference_id": number}


def test_what_came_is_kept_lost_or_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More than may wait come at once: the oldest go, the others are in a file at the end."""
    monkeypatch.setattr(results, "MOST_WAITING", 20)

    async def go() -> ParquetSink:
        sink = ParquetSink(tmp_path, "lab", lambda _: None)
        sink.start()
        for number in range(50):
            sink.put(row(number))
        assert (sink.written, sink.dropped, sink.waiting) == (0, 30, 20)
        await sink.close()
        return sink

    sink = asyncio.run(go())
    assert (sink.written, sink.dropped, sink.waiting) == (20, 30, 0)
    (file,) = tmp_path.iterdir()
    assert pq.read_table(file)["inference_id"].to_pylist() == list(range(30, 50))
    assert [record.getMessage() for record in caplog.records] == [
        "results to parquet: 30 of 50 rows are lost"
    ]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        there = [path.name for path in tmp_path.glob("lab-*.parquet")]
        opened = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append(f"{opened.name} {len(there)}")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)

    async def go() -> None:
        sink = ParquetSink(tmp_path, "lab", lambda _: None)
        sink.start()
        sink.put(row(1))
        await sink.close()

    asyncio.run(go())
    file, folder = synced
    assert file.startswith(".lab-")
    assert file.endswith(" 0")
    assert folder == f"{tmp_path.name} 1"


def test_a_sink_that_fails_by_a_defect_loses_nothing_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_sink: ParquetSink, _rows: list[Row]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ParquetSink, "_write", broken)

    async def go() -> ParquetSink:
        sink = ParquetSink(tmp_path, "lab", lambda _: None)
        sink.start()
        for number in range(3):
            sink.put(row(number))
        await sink.close()
        return sink

    assert asyncio.run(go()).dropped == 3
    assert "results to parquet: 3 of 3 rows are lost" in caplog.text
