"""Cells that need no board: the cost model's figure, or the link library in simulated time.

`use: modelled` is one row per cell, of the mean inference, by `host.bench.costs` (two or more
ESP32-S3 with PSRAM, ESP-NN's kernels). `use: simulated` runs firmware/core itself by `host.sim`:
each run of the method is a seed and `run_seconds` of simulated time, stages take what the cost
model says, coding included, and coded boundaries are as long as it says. Each head begins an
inference every 1.2 times what one alone would take, so that it is several heads on a tail, not one
head's own speed, that makes a queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from host.bench import method, rows
from host.bench.costs import ENERGY_SOURCE, Costs, costs, energy, link
from host.bench.measured import base_row, now_utc
from host.bench.metering import columns, source_columns
from host.bench.rows import Row
from host.bench.simulated import medium
from host.bench.spec import MODELLED, Cell, Experiment, SpecError
from host.boards.virtual.core import error_name
from host.meters import meter
from host.meters.meter import Source
from host.sim import scenario as scenarios
from host.sim import world
from partitioner.bundle import Bundle

_IDLE_SHARE = 1.2
_LEAST_SECONDS = 1.0
_SETTLE_SECONDS = 5.0  # Beside the longest inference.


@dataclass(frozen=True)
class Work:
    """A cell to compute, wherever that is."""

    experiment: Experiment
    cell: Cell
    bundle: Bundle


@dataclass(frozen=True)
class Computed:
    """Rows of a cell, summaries of its runs, and of the cell."""

    base: Row
    rows: list[Row]
    runs: list[dict[str, Any]]
    summary: dict[str, Any]


def compute(work: Work) -> Computed:
    """All of a cell. Raises TinysplitError."""
    found = costs(work.cell, work.bundle, work.experiment.inputs)
    base = base_row(work.experiment, work.cell, work.bundle) | {
        "kernels": "ESP-NN (modelled)",
        "nodes": [work.cell.boards.name] * len(found.stages),
        "provenance": "modelled",
        "compute_provenance": "modelled",
        "link_provenance": "modelled",
        "purpose": rows.RUN,
        "input": "none",
        "started_utc": now_utc(),
        "boundary_bytes": found.hops[0].payload_bytes,
        "frame_bytes": link(work.cell).frame_bytes,
        "head_invoke_us": round(found.stages[0].us),
        "head_encode_us": round(found.hops[0].encode_us),
        "tail_decode_us": round(found.hops[-1].decode_us),
        "tail_invoke_us": round(found.stages[-1].us),
    }
    if work.cell.meter.meter == MODELLED:
        base |= source_columns(Source(ENERGY_SOURCE, meter.MODELLED))
        base |= columns(energy(found), len(found.stages))
    if work.cell.boards.name == MODELLED:
        return _modelled(base, found)
    return _simulated(work, base, found)


def _modelled(base: Row, found: Costs) -> Computed:
    first, air = found.hops[0], [(hop.crossing, hop.result) for hop in found.hops]
    total = round(found.round_trip_us)
    last = len(found.stages) - 1
    between = sum(found.busy_us(stage) for stage in range(1, last))
    between += sum(hop.crossing.us for hop in found.hops[1:])
    row = {
        **base,
        "head_queue_us": 0,
        "tail_queue_us": 0,
        "link_us": round(first.crossing.us),
        "between_us": round(between),
        "return_us": round(sum(result.us for _, result in air)),
        "round_trip_us": total,
        "one_way_us": round(first.crossing.us),
        "one_way_method": "model",
        "data_frames": round(first.crossing.frames),
        "wire_bytes": round(sum(there.bytes + back.bytes for there, back in air)),
        "airtime_us": round(sum(there.airtime_us + back.airtime_us for there, back in air)),
        "phases": _phases(found),
    }
    run = method.run_summary(0, 0, 0.0, [total], 0)
    summary = method.cell_summary([run], 0, None)
    link_us = found.round_trip_us - sum(stage.us for stage in found.stages)
    summary["least_us"] = round(link_us + sum(stage.low_us for stage in found.stages))
    summary["largest_us"] = round(link_us + sum(stage.high_us for stage in found.stages))
    return Computed(base, [row], [run], summary)


def _phases(found: Costs) -> list[dict[str, Any]]:
    """What each stage's processor does; coding where there is any."""
    made: list[tuple[int, str, float]] = []
    for number, stage in enumerate(found.stages):
        if number > 0 and found.hops[number - 1].decode_us:
            made.append((number, "decode", found.hops[number - 1].decode_us))
        made.append((number, "invoke", stage.us))
        if number < len(found.hops) and found.hops[number].encode_us:
            made.append((number, "encode", found.hops[number].encode_us))
    return [
        {"stage": number, "phase": phase, "duration_us": round(us)} for number, phase, us in made
    ]


def scenario(work: Work, found: Costs) -> scenarios.Scenario:
    """The cell as a scenario of the simulator. Raises ScenarioError."""
    cell, manifest = work.cell, work.bundle.manifest
    period_ms = found.round_trip_us / 1e3 * _IDLE_SHARE
    nodes = [
        {"stage": n, "invoke_ms": found.busy_us(n) / 1e3, **({} if n else {"count": cell.heads})}
        for n in range(len(found.stages))
    ]
    nodes[0]["period_ms"] = period_ms
    payloads = [hop.payload_bytes for hop in found.hops]
    return scenarios.parse(
        {
            "name": work.experiment.name,
            "seconds": max(work.experiment.method.run_seconds, _LEAST_SECONDS),
            "settle_seconds": _SETTLE_SECONDS + work.experiment.method.timeout_ms / 1e3,
            "timeout_ms": work.experiment.method.timeout_ms,
            "input_bytes": sum(spec.bytes for spec in manifest.inputs),
            "stages": [*payloads, sum(spec.bytes for spec in manifest.outputs)],
            "nodes": nodes,
            "link": medium(cell),
        }
    )


def _simulated(work: Work, base: Row, found: Costs) -> Computed:
    chosen = scenario(work, found)
    made: list[Row] = []
    runs: list[dict[str, Any]] = []
    starved = 0
    for run in range(work.experiment.method.runs):
        report, events = world.run(chosen, work.cell.impairment.seed + run, trace=True)
        if report.counts["wrong"] or report.counts["mixed"]:
            raise SpecError(f"the simulation broke a property: {', '.join(report.problems)}")
        starved = max(starved, report.counts["stuck"])
        begun: dict[tuple[int, int], int] = {}
        took: list[int] = []
        failed = iteration = 0
        first_us = next((event.at_us for event in events if event.kind == "begun"), 0)
        until_us = first_us + chosen["seconds"] * 1e6
        for event in events:
            if event.kind == "begun" and event.at_us < until_us:
                begun[event.node, event.value] = event.at_us
            elif event.kind == "result" and (event.node, event.value) in begun:
                us = event.at_us - begun.pop((event.node, event.value))
                row = {**base, "run": run, "iteration": iteration, "input": f"head {event.node}"}
                if event.other == 0:
                    row |= {"round_trip_us": us, "exact": True}
                    took.append(us)
                else:
                    why = error_name(event.other)
                    row |= {"error": f"the inference failed: {why}", "error_code": why}
                    failed += 1
                made.append(row)
                iteration += 1
        runs.append(method.run_summary(0, run, chosen["seconds"], took, failed))
    summary = method.cell_summary(runs, 0, None)
    if starved:  # Of an overloaded tail; the simulator's own scenarios count it as a fault.
        summary["note"] = f"{starved} heads got nothing done in the end"
    return Computed(base, made, runs, summary)
