"""Cuts, crossings and multiply-accumulates."""

from __future__ import annotations

import csv
from pathlib import Path

from partitioner.graph import Graph
from partitioner.source import Source

# Multiply-accumulates of the head's first operators and of the whole network (alpha 0.35, 96x96,
# 10 classes), from the shapes of the MobileNetV2 paper's table 2 by hand.
FIRST_MACS = [995_328, 331_776, 294_912, 884_736, 248_832, 221_184]


def test_mobilenet_has_the_cuts_it_should(digits_source: Source) -> None:
    graph = digits_source.graph
    single = [cut for cut in graph.cuts if len(cut.tensors) == 1]
    double = [cut for cut in graph.cuts if len(cut.tensors) == 2]
    assert (len(graph.operators), len(single), len(double)) == (65, 34, 30)
    assert len(graph.cuts) == 64


def test_macs_of_known_operators(digits_source: Source) -> None:
    graph = digits_source.graph
    assert [op.macs for op in graph.operators[:6]] == FIRST_MACS
    assert graph.operators[63].macs == 1280 * 10
    assert graph.macs(0, 61) + graph.macs(61) == graph.macs()


def test_what_crosses_inside_a_residual_block_is_branch_and_skip(stranger: Graph) -> None:
    cut = next(c for c in stranger.cuts if c.position == 2)
    shapes = [stranger.tensors[i].shape for i in cut.tensors]
    assert shapes == [(1, 12, 12, 8), (1, 12, 12, 8)]
    assert cut.payload_bytes == 2 * 12 * 12 * 8


def test_every_tensor_needed_after_a_cut_crosses_it(digits_source: Source) -> None:
    graph = digits_source.graph
    for cut in graph.cuts:
        made = {i for op in graph.operators[: cut.position] for i in op.outputs} | {*graph.inputs}
        needed = {i for op in graph.operators[cut.position :] for i in op.inputs}
        assert set(cut.tensors) == made & (needed | {*graph.outputs})


def test_macs_equal_the_measured_reference(digits_source: Source) -> None:
    path = Path(__file__).parents[2] / "partitioner" / "cost" / "data" / "esp32s3_instructions.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["stage"] == "m96_head"]
    assert len(rows) == 61
    for row, op in zip(rows, digits_source.graph.operators, strict=False):
        assert (row["op"], int(row["macs"])) == (op.kind, op.macs)
