"""Arena by formula against TFLM's own account, on emulated ESP32-S3 and on x86-64."""

from __future__ import annotations

import pytest

from partitioner import arena
from partitioner.cost.memory import StageMemory, internal_free
from partitioner.cut import split
from partitioner.source import Request, Source, open_source

# Read on an emulated ESP32-S3 with ESP-NN 1.2.3, the scratch of block_1's depthwise put right.
EMULATED = {
    96: {"head": 314_572, "tail": 168_892, "head without": 193_932},
    224: {"head": 1_432_780, "tail": 224_556, "head without": 808_332},
}


def test_each_radio_takes_internal_ram_and_no_arena_is_larger_than_the_largest_block() -> None:
    one, both = internal_free(["wifi"]), internal_free(["wifi", "ble"])
    assert both < one == internal_free(["ble"]) == internal_free([]) == 260 * 1024


@pytest.mark.parametrize("size", [96, 224])
def test_arenas_read_on_the_emulated_board_are_met(size: int, digits_source: Source) -> None:
    graph = (
        digits_source.graph
        if size == 96
        else open_source(Request(size=224, weights="random")).graph
    )
    memory, seen = StageMemory(graph), EMULATED[size]
    assert memory.arena(0, 61).total == pytest.approx(seen["head"], rel=0.001)
    assert memory.arena(61, 65).total == pytest.approx(seen["tail"], rel=0.001)
    assert memory.arena(0, 61, esp_nn=False).total == pytest.approx(seen["head without"], rel=0.001)


def test_tensors_are_planned_as_tflm_plans_them_at_every_cut(digits_source: Source) -> None:
    graph = digits_source.graph
    memory = StageMemory(graph)
    cuts = graph.cuts[::5]
    models = [stage.data for cut in cuts for stage in split(graph, (cut.position,))]
    measured = list(arena.measure(models))
    for number, cut in enumerate(cuts):
        head, tail = measured[2 * number : 2 * number + 2]
        assert memory.arena(0, cut.position, esp_nn=False).planned == head.planned
        assert memory.arena(cut.position, 65, esp_nn=False).planned == tail.planned
