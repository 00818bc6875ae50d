"""Cells that need no board: the cost model's figure, or the link library in simulated time.

`use: modelled` is one row per cell, of the mean inference, by `partitioner.plan` (two or more
ESP32-S3 with PSRAM, ESP-NN's kernels). `use: simulated` runs firmware/core itself by `host.sim`:
each run of the method is a seed and `run_seconds` of simulated time, stages take what the cost
model says, and each head begins an inference every 1.2 times what one alone would take, so that it
is several heads on a tail, not one head's own speed, that makes a queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from host.bench import method, rows
from host.bench.measured import base_row, now_utc
from host.bench.metering import columns, source_columns
from host.bench.rows import Row
from host.bench.spec import MODELLED, Cell, Experiment, SpecError
from host.boards.virtual.core import error_name
from host.meters import meter
from host.meters.meter import Reading, Source
from host.sim import scenario as scenarios
from host.sim import world
from host.sim.experiment import medium
from partitioner.bundle import Bundle
from partitioner.cost.links import Link
from partitioner.graph import Graph
from partitioner.plan.model import KNOWN_NODES, HopCost, SplitModel, StageCost, named
from partitioner.plan.problem import Plan

_NODE = "esp32s3-psram"
_IDLE_SHARE = 1.2
_LEAST_SECONDS = 1.0
_SETTLE_SECONDS = 5.0  # Beside the longest inference.


@dataclass(frozen=True)
class Costs:
    """A bundle's stages and hops by the cost model."""

    model: SplitModel
    stages: list[StageCost]
    hops: list[HopCost]

    @property
    def round_trip_us(self) -> float:
        """Of one inference on idle nodes."""
        air = sum(hop.crossing.us + hop.result.us for hop in self.hops)
        return sum(stage.us for stage in self.stages) + air


def link(cell: Cell) -> Link:
    """A cell's transport and loss as the cost model takes them."""
    radio = cell.transport.radio
    chosen: dict[str, Any] = {}
    if "espnow_version" in radio:
        chosen["version"] = radio["espnow_version"]
    if "espnow_rate" in radio:
        chosen["rate"] = radio["espnow_rate"]
    return Link(
        cell.transport.transport,  # type: ignore[arg-type]  # One of its four, by the schema.
        loss=cell.impairment.loss,
        mtu=cell.transport.mtu,
        **chosen,
    )


def costs(cell: Cell, bundle: Bundle) -> Costs:
    """What the bundle costs on ESP32-S3 boards over the cell's link. Raises LinkError."""
    count = len(bundle.stages)
    profiles = named([KNOWN_NODES[_NODE]] * count)
    model = SplitModel(Graph(bundle.full), profiles, [link(cell)] * (count - 1))
    ends = [model.positions.index(at) for at in bundle.manifest.cut_positions]
    plan = Plan(tuple(range(count)), (*ends, len(model.positions) - 1))
    return Costs(model, model.stages(plan), model.hops(plan))


ENERGY_SOURCE = "cost model: ESP32-S3, datasheet currents, above idle"


def energy(cell: Cell, bundle: Bundle) -> Reading:
    """Energy above idle, of ESP32-S3 boards by their datasheet's currents."""
    found = costs(cell, bundle)
    shares: dict[tuple[int, str], float] = {}
    for number, stage in enumerate(found.stages):
        power = found.model.nodes[number].power
        parts = {"invoke": stage.compute_mj, "send": 0.0, "receive": 0.0}
        if number > 0:
            hop = found.hops[number - 1]
            parts["receive"] += power.receive_mj(hop.crossing)
            parts["send"] += power.send_mj(hop.result)
        if number < len(found.hops):
            hop = found.hops[number]
            parts["send"] += power.send_mj(hop.crossing)
            parts["receive"] += power.receive_mj(hop.result)
        shares |= {(number, phase): float(mj) for phase, mj in parts.items()}
    stages = {
        number: sum(mj for (stage, _), mj in shares.items() if stage == number)
        for number in range(len(found.stages))
    }
    return Reading(stages, meter.MODEL, phases=shares)


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
    found = costs(work.cell, work.bundle)
    base = base_row(work.experiment, work.cell, work.bundle) | {
        "kernels": "ESP-NN (modelled)",
        "nodes": [work.cell.boards.name] * len(found.stages),
        "provenance": "modelled",
        "compute_provenance": "modelled",
        "link_provenance": "modelled",
        "purpose": rows.RUN,
        "input": "none",
        "started_utc": now_utc(),
        "boundary_bytes": work.bundle.manifest.boundaries[0].payload_bytes,
        "frame_bytes": link(work.cell).frame_bytes,
        "head_invoke_us": round(found.stages[0].us),
        "tail_invoke_us": round(found.stages[-1].us),
    }
    if work.cell.meter.meter == MODELLED:
        base |= source_columns(Source(ENERGY_SOURCE, meter.MODELLED))
        base |= columns(energy(work.cell, work.bundle), len(found.stages))
    if work.cell.boards.name == MODELLED:
        return _modelled(base, found)
    return _simulated(work, base, found)


def _modelled(base: Row, found: Costs) -> Computed:
    first, air = found.hops[0], [(hop.crossing, hop.result) for hop in found.hops]
    total = round(found.round_trip_us)
    between = sum(stage.us for stage in found.stages[1:-1])
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
        "phases": [
            {"stage": number, "phase": "invoke", "duration_us": round(stage.us)}
            for number, stage in enumerate(found.stages)
        ],
    }
    run = method.run_summary(0, 0, 0.0, [total], 0)
    summary = method.cell_summary([run], 0, None)
    link_us = found.round_trip_us - sum(stage.us for stage in found.stages)
    summary["least_us"] = round(link_us + sum(stage.low_us for stage in found.stages))
    summary["largest_us"] = round(link_us + sum(stage.high_us for stage in found.stages))
    return Computed(base, [row], [run], summary)


def scenario(work: Work, found: Costs) -> scenarios.Scenario:
    """The cell as a scenario of the simulator. Raises ScenarioError."""
    cell, manifest = work.cell, work.bundle.manifest
    period_ms = found.round_trip_us / 1e3 * _IDLE_SHARE
    nodes = [
        {"stage": number, "invoke_ms": stage.us / 1e3, **({} if number else {"count": cell.heads})}
        for number, stage in enumerate(found.stages)
    ]
    nodes[0]["period_ms"] = period_ms
    payloads = [boundary.payload_bytes for boundary in manifest.boundaries]
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
