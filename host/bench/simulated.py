"""An experiment's cells through the simulator: two kinds of kernels on every link, no board.

Theory of operation. `partitioner.cost` says how long stages take on ESP32-S3 boards, and the link
library itself runs over its links: every head begins the next inference a while after the last
one's result, so that none waits for another. What a cell is, is `host.bench`'s affair; boards,
meters and repetitions make no difference here. All figures are modelled.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from host.bench.spec import Cell, Experiment
from host.sim import scenario as scenarios
from host.sim import world
from host.sim.scenario import Scenario
from host.sim.world import Event
from models.errors import TinysplitError
from partitioner import bundle as bundles
from partitioner.catalogue import Catalogue
from partitioner.cost.compute import Kernels
from partitioner.cost.links import Link
from partitioner.graph import Graph
from partitioner.plan.model import KNOWN_NODES, SplitModel, StageCost, named
from partitioner.plan.problem import Plan
from partitioner.source import Request, open_source

KERNELS: tuple[Kernels, ...] = get_args(Kernels)
NODE = "esp32s3-psram"
_INFERENCES = 100
_PAUSE = 0.3  # Of a round trip, between two inferences: its start drifts along BLE's events.
_RAW = "raw"


class ModelledError(TinysplitError):
    """A cell that cannot be simulated."""


@dataclass(frozen=True)
class Modelled:
    """A cell with one kind of kernels. Times in microseconds, means over all inferences.

    `low_us` and `high_us` are the round trip at the ends of the compute model's band.
    """

    cell: Cell
    kernels: Kernels
    payload_bytes: int
    wire_bytes: float
    stages: tuple[StageCost, ...]
    link_us: float
    round_trip_us: float
    low_us: float
    high_us: float
    inferences: int
    seed: int


@dataclass(frozen=True)
class _Network:
    graph: Graph
    positions: tuple[int, ...]


def is_experiment(content: Any) -> bool:
    """Whether what a YAML file holds is an experiment, rather than a scenario."""
    return isinstance(content, dict) and "transports" in content


def distinct(experiment: Experiment) -> list[Cell]:
    """The cells that differ by model, cut, transport, link or heads.

    Raises:
        ModelledError: none is without a codec, which the simulator does not know.
    """
    found: dict[tuple[Any, ...], Cell] = {}
    for cell in experiment.cells:
        if cell.codec == _RAW:
            at = cell.coordinates
            key = tuple(at[axis] for axis in ("model", "cut", "transport", "link", "heads"))
            found.setdefault(key, cell)
    if not found:
        raise ModelledError(f"{experiment.name}: only boundaries as they are can be simulated: "
                            f"add `{_RAW}` to codecs")  # fmt: skip
    return list(found.values())


def simulate(experiment: Experiment, seed: int) -> Iterator[Modelled]:
    """Every distinct cell with each kind of kernels.

    Raises:
        TinysplitError: a model or cut that is not there, a link that cannot be; or a simulation
            in which a property does not hold.
    """
    for cell in distinct(experiment):
        network = _network(cell.model.request, cell.model.bundle, cell.cut)
        for kernels in KERNELS:
            yield _simulate(cell, network, kernels, seed)


@cache
def _network(request: Request | None, bundle: Path | None, cut: tuple[str, ...]) -> _Network:
    if bundle is not None:
        found = bundles.read(bundle)
        return _Network(Graph(found.full), tuple(found.manifest.cut_positions))
    assert request is not None
    source = _source(request)
    chain = Catalogue(source.graph, source.layers).chain(cut)
    return _Network(source.graph, tuple(cut.position for _, cut in chain))


_source = cache(open_source)


def _simulate(cell: Cell, network: _Network, kernels: Kernels, seed: int) -> Modelled:
    count = len(network.positions) + 1
    board = replace(KNOWN_NODES[NODE], kernels=kernels)
    model = SplitModel(network.graph, named([board] * count), [_link(cell)] * (count - 1))
    ends = [model.positions.index(at) for at in network.positions]
    plan = Plan(tuple(range(count)), (*ends, len(model.positions) - 1))
    stages, hops = model.stages(plan), model.hops(plan)
    alone_us = sum(stage.us for stage in stages)
    alone_us += sum(hop.crossing.us + hop.result.us for hop in hops)
    result_bytes = sum(network.graph.tensors[t].bytes for t in network.graph.outputs)
    sizes = [*(hop.payload_bytes for hop in hops), result_bytes]
    one = _scenario(cell, stages, sizes, alone_us)
    report, events = world.run(one, seed, trace=True)
    if report.problems:
        raise ModelledError(f"{cell.name}, seed {seed}: {', '.join(report.problems)}")
    trips, crossings = _times(events)
    if not trips:
        raise ModelledError(f"{cell.name}, seed {seed}: no inference came back")
    mean = statistics.mean(trips)
    return Modelled(
        cell=cell,
        kernels=kernels,
        payload_bytes=sizes[0],
        wire_bytes=report.counts["bytes"] / len(trips),
        stages=tuple(stages),
        link_us=statistics.mean(crossings),
        round_trip_us=mean,
        low_us=mean + sum(stage.low_us - stage.us for stage in stages),
        high_us=mean + sum(stage.high_us - stage.us for stage in stages),
        inferences=len(trips),
        seed=seed,
    )


def _link(cell: Cell) -> Link:
    radio = cell.transport.radio
    names = {"espnow_version": "version", "espnow_rate": "rate"}
    chosen = {names[key]: value for key, value in radio.items() if key in names}
    return Link(
        cell.transport.transport,  # type: ignore[arg-type]  # One of its four, by the schema.
        loss=cell.link.impairment.loss,
        mtu=cell.transport.mtu,
        **chosen,
    )


def medium(cell: Cell) -> dict[str, Any]:
    """A cell's transport and link condition as a scenario's `link`."""
    link, spoilt = _link(cell), cell.link.impairment
    found: dict[str, Any] = {"medium": link.transport, "loss": spoilt.loss}
    if link.transport == "espnow":
        found |= {"version": link.version, "rate": link.rate}
    elif cell.transport.mtu:
        found["mtu"] = cell.transport.mtu
    for name in ("corrupt", "reorder", "duplicate", "jitter_ms", "delay_ms", "rate_bps"):
        if getattr(spoilt, name):
            found[name] = getattr(spoilt, name)  # Refused by name where it means nothing.
    return found


def _scenario(cell: Cell, stages: list[StageCost], sizes: list[int], alone_us: float) -> Scenario:
    nodes: list[dict[str, Any]] = [
        {"stage": number, "invoke_ms": stage.us / 1e3} for number, stage in enumerate(stages)
    ]
    period_us = alone_us * (1 + _PAUSE)
    nodes[0] |= {"period_ms": period_us / 1e3, "count": cell.heads}
    return scenarios.parse(
        {
            "name": cell.name[:64],
            "seconds": period_us * _INFERENCES / 1e6,
            "settle_seconds": 40 + 4 * alone_us / 1e6,
            "timeout_ms": min(600_000, round(10_000 + 20 * alone_us / 1e3)),
            "input_bytes": 1,  # Inputs do not travel, and what a stage takes is said above.
            "stages": sizes,
            "nodes": nodes,
            "link": medium(cell),
        }
    )


def _times(events: Iterable[Event]) -> tuple[list[int], list[int]]:
    """Round trips, and what boundaries take from a head to the next stage."""
    begun: dict[tuple[int, int], int] = {}
    handed: list[int] = []
    trips, crossings = [], []
    for event in events:
        if event.kind == "begun":
            begun[event.node, event.value] = event.at_us
        elif event.kind == "result" and event.other == 0:
            trips.append(event.at_us - begun[event.node, event.value])
        elif event.kind == "invoke" and event.other == 0:
            handed.append(event.at_us + event.value)
        elif event.kind == "invoke" and event.other == 1 and handed:
            crossings.append(event.at_us - handed.pop(0))
    return trips, crossings
