"""The file format: what is written is aligned and complete, what is damaged is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import TinysplitError
from partitioner.cut import split
from partitioner.graph import Graph
from partitioner.tflite import TfliteError, read
from tests.conftest import DATA

STRANGER = (DATA / "stranger.tflite").read_bytes()


def buffer_offsets(data: bytes) -> list[int]:
    """Where in the file the data of each non-empty buffer starts."""
    model = schema.Model.GetRootAs(data, 0)
    found = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if not buffer.DataIsNone() and buffer.DataLength():
            field = buffer._tab.Offset(4)
            found.append(buffer._tab.Vector(field))
    return found


def test_every_buffer_of_a_stage_is_aligned_to_16_bytes(stranger: Graph) -> None:
    for position in range(1, len(stranger.operators)):
        for stage in split(stranger, (position,)):
            offsets = buffer_offsets(stage.data)
            assert all(offset % 16 == 0 for offset in offsets), (position, offsets)


def test_stages_carry_the_identifier_and_no_signatures_or_metadata(stranger: Graph) -> None:
    for stage in split(stranger, (4,)):
        model = read(stage.data)
        assert stage.data[4:8] == b"TFL3"
        assert not model.signatureDefs
        assert not model.metadata


@pytest.mark.parametrize("length", [0, 3, 7, 8, 100, 1000, len(STRANGER) // 2, len(STRANGER) - 1])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(TfliteError, match=r"not a \.tflite|damaged|truncated"):
        Graph(STRANGER[:length])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" * 50, b"\x89HDF\r\n\x1a\n" * 9])
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(TfliteError, match=r"not a \.tflite file"):
        Graph(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(STRANGER) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_read_or_refused_by_name(position: int, flip: int) -> None:
    damaged = bytearray(STRANGER)
    damaged[position] ^= flip
    with suppress(TinysplitError):
        graph = Graph(bytes(damaged))
        assert [cut.position for cut in graph.cuts] == sorted({c.position for c in graph.cuts})


def test_indices_out_of_range_are_refused(stranger: Graph) -> None:
    from partitioner import tflite
    from partitioner.cut import extract

    model = read(extract(stranger, 0, 3, stranger.inputs, stranger.operators[2].outputs))
    model.subgraphs[0].operators[1].inputs = [9999]
    with pytest.raises(TfliteError, match="out of range"):
        read(tflite.rewrite(model))
