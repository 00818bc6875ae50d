"""Folders of results, written the way a sweep writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from host.bench import method, rows, spec, store
from host.bench.store import Store

TEXT = """\
version: 1
name: made-up
description: Rows made up for tests.
models: [{model: mobilenet_v2, name: digits}]
cuts: [block_16_project_BN, block_13_project_BN]
transports: [udp, espnow]
links: [{name: clean}, {name: loss10, loss: 0.1}]
"""
PAYLOAD = {"block_16_project_BN": 1008, "block_13_project_BN": 504}

Sweep = Callable[..., Path]


def made_up(cell: spec.Cell, iteration: int, seed: int, slower: float) -> rows.Row:
    """A row that could be: phases add up to the round trip."""
    generator = random.Random(f"{cell.name}/{iteration}/{seed}")
    radio = cell.transport.transport == "espnow"
    payload = PAYLOAD[cell.cut[0]]
    link = round((5000 if radio else 800) * slower * generator.uniform(0.9, 1.2) + payload)
    row = rows.blank()
    row.update(cell.coordinates)
    row.update(
        experiment="", cell=cell.name, purpose=rows.RUN, iteration=iteration,
        transport=cell.transport.transport, transport_name=cell.transport.name,
        payload_bytes=payload, nodes=["virtual", "virtual"], kernels="reference",
        loss=cell.link.impairment.loss, head_queue_us=10, head_invoke_us=20_000,
        head_encode_us=50, link_us=link, between_us=0, tail_decode_us=5, tail_queue_us=5,
        tail_invoke_us=3_000, tail_encode_us=30, return_us=400, round_trip_us=link + 23_500,
        one_way_us=link // 2, one_way_uncertainty_us=100, data_frames=10,
        retransmissions=2 if cell.link.impairment.loss else 0, wire_frames=14, wire_bytes=1200,
        energy_mj=12.0 if radio else 9.0, energy_uncertainty_mj=0.5, energy_source="cost model",
        energy_method="model", energy_provenance="modelled", exact=True, predicted=3,
        provenance="measured and modelled" if radio else "measured",
        compute_provenance="measured", link_provenance="modelled" if radio else "measured",
    )  # fmt: skip
    return {name: value for name, value in row.items() if name in rows.NAMES}


def write(
    parent: Path,
    name: str,
    *,
    runs: int = 2,
    iterations: int = 8,
    seed: int = 0,
    slower: float = 1.0,
    cells: int | None = None,
    under_way: int = 0,
    change: Callable[[rows.Row], None] = lambda row: None,
    failed: str = "",
) -> Path:
    """Results in `parent / name`. `change` spoils rows, `failed` names the cells that did.

    `under_way`: rows of one more cell, which is not over.
    """
    folder = parent / name
    plan = spec.parse(TEXT, Path())
    with Store(folder, plan) as held:
        for cell in plan.ordered()[:cells]:
            boot = held.begin(cell)
            held.base({**rows.blank(), "cell": cell.name, "purpose": rows.RUN})
            for run in range(runs):
                for iteration in range(iterations):
                    row = made_up(cell, iteration, seed + run, slower)
                    change(row)
                    held.add({**row, "boot": boot, "run": run})
                held.end_run({"boot": boot, "run": run})
            state: dict[str, Any] = {"state": "done", "reason": None}
            if failed and failed in cell.name:
                state = {"state": "failed", "reason": "the tail went away"}
            held.end_cell({**state, **method.cell_summary([], 0, None)})
        if cells is None:
            held.finish()
        elif under_way:
            cell = plan.ordered()[cells]
            held.begin(cell)
            held.base({**rows.blank(), "cell": cell.name, "purpose": rows.RUN})
            for iteration in range(under_way):
                held.add({**made_up(cell, iteration, seed, slower), "boot": 0, "run": 0})
    (folder / store.ENVIRONMENT).write_text(json.dumps({"machine": "a test's"}))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """`sweep("a", change=lambda row: ...)` writes results and returns their folder."""
    return partial(write, tmp_path)
