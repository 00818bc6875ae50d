"""Energy of a cell's inferences: which meter, and what it says as columns of a row."""

from __future__ import annotations

from typing import Any

from host.bench import costs
from host.bench.rows import Row
from host.bench.spec import Cell, Experiment, MeterSpec
from host.meters.meter import Meter, MeterError, Reading, Source
from host.meters.sampled import AUTO, CHANNELS, Sampling
from partitioner.bundle import Bundle


def source_columns(source: Source) -> Row:
    """What every row of the cell has."""
    return {"energy_source": source.name, "energy_provenance": source.provenance}


def columns(reading: Reading, stages: int) -> Row:
    """What an inference's row has; null where a node is not metered."""
    shares: list[dict[str, Any]] = [
        {"stage": stage, "phase": phase, "energy_mj": mj}
        for (stage, phase), mj in sorted(reading.phases.items())
    ]
    return {
        "energy_mj": reading.energy_mj,
        "energy_head_mj": reading.stages.get(0),
        "energy_tail_mj": reading.stages.get(stages - 1),
        "energy_uncertainty_mj": reading.uncertainty_mj,
        "energy_phases": shares,
        "energy_method": reading.method,
        "energy_baseline_mw": reading.baseline_mw,
    }


def sampling(spec: MeterSpec) -> Sampling:
    """What the experiment says of a meter that samples."""
    given = spec.options
    return Sampling(
        stage=given.get("stage", 0),
        phases=given.get("phases", AUTO),
        channels=given.get("channels", CHANNELS),
        rule=given.get("rule", "trapezoid"),
        baseline_s=float(given.get("baseline_s", 0.0)),
    )


def open_meter(experiment: Experiment, cell: Cell, bundle: Bundle) -> Meter | None:
    """The meter that a cell asks for, not yet entered; None: none.

    Raises:
        MeterError: there is no such stage to meter.
        EvaluateError, ImageError, KernelError: as `costs.costs`.
    """
    spec, given = cell.meter, cell.meter.options
    last = len(bundle.stages) - 1
    if given.get("stage", 0) > last:
        raise MeterError(
            "no_stage",
            f"the meter {spec.name} is at stage {given['stage']}, and the last stage is {last}",
        )
    if spec.meter == "none":
        return None
    if spec.meter == "ppk2":
        from host.meters.ppk2 import AMPERE_MODE, Ppk2

        mode = given.get("mode", AMPERE_MODE)
        return Ppk2(given["port"], mode, given["voltage_mv"], sampling(spec))
    if spec.meter == "joulescope":
        from host.meters.joulescope import Joulescope

        chosen = given.get("serial"), sampling(spec), given.get("channels")
        return Joulescope(*chosen, given.get("accuracy_percent"))
    if spec.meter == "replay":
        from host.meters.replay import Replay

        return Replay(experiment.folder / given["file"], given.get("voltage_mv"), sampling(spec))
    if spec.meter == "board":
        from host.meters.board import IDLE_S, OnBoard

        seconds = float(given.get("baseline_s", 0.0))
        return OnBoard(subtract=seconds > 0, idle_s=seconds or IDLE_S)
    from host.meters.modelled import Modelled

    found = costs.costs(cell, bundle, experiment.inputs)
    return Modelled(costs.ENERGY_SOURCE, costs.energy(found))
