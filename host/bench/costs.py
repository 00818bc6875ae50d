"""What a cell costs by the cost model: times for cells without boards, energy for any cell.

Nodes are ESP32-S3 with PSRAM and ESP-NN's kernels. All figures are modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from host import link_run
from host.bench.spec import Cell, Inputs
from host.meters import meter
from host.meters.meter import Reading
from partitioner import codec, evaluate, kernels
from partitioner.bundle import Bundle
from partitioner.cost import codecs
from partitioner.cost.codecs import CodedSizes
from partitioner.cost.links import Link
from partitioner.graph import Graph
from partitioner.kernels import Array
from partitioner.plan.model import KNOWN_NODES, HopCost, SplitModel, StageCost, named
from partitioner.plan.problem import Plan

ENERGY_SOURCE = "cost model: ESP32-S3, datasheet currents, above idle"
_NODE = "esp32s3-psram"


@dataclass(frozen=True)
class Costs:
    """A bundle's stages and hops by the cost model."""

    model: SplitModel
    stages: list[StageCost]
    hops: list[HopCost]

    @property
    def round_trip_us(self) -> float:
        """Of one inference on idle nodes."""
        return sum(stage.us for stage in self.stages) + sum(hop.us for hop in self.hops)

    def busy_us(self, stage: int) -> float:
        """What its processor takes: reading the boundary, its operators, coding the next one."""
        took = self.stages[stage].us
        if stage > 0:
            took += self.hops[stage - 1].decode_us
        if stage < len(self.hops):
            took += self.hops[stage].encode_us
        return took


def link(cell: Cell) -> Link:
    """A cell's transport, loss and codec as the cost model takes them.

    `auto` is codec 1: every node of the model speaks it, as the firmware does.
    """
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
        codec=codec.RAW if cell.codec == "raw" else codec.RANGE,
        **chosen,
    )


def costs(cell: Cell, bundle: Bundle, inputs: Inputs) -> Costs:
    """What the bundle costs on ESP32-S3 boards over the cell's link.

    Sizes of coded boundaries are means over the experiment's inputs.

    Raises:
        LinkError: there is no such link.
        EvaluateError, ImageError, KernelError: its inputs cannot be had, or do not run.
    """
    chosen, graph, count = link(cell), Graph(bundle.full), len(bundle.stages)
    cuts, coded = bundle.manifest.cut_positions, CodedSizes()
    if chosen.codec != codec.RAW:
        coded = codecs.measure(graph, kernels.exact(), _samples(bundle, inputs), cuts)
    profiles = named([KNOWN_NODES[_NODE]] * count)
    model = SplitModel(graph, profiles, [chosen] * (count - 1), coded)
    ends = [model.positions.index(at) for at in cuts]
    plan = Plan(tuple(range(count)), (*ends, len(model.positions) - 1))
    return Costs(model, model.stages(plan), model.hops(plan))


def _samples(bundle: Bundle, inputs: Inputs) -> Sequence[Sequence[Array]]:
    """The first of the experiment's inputs, as tensors: as many as `tinysplit plan` looks at."""
    count = min(inputs.count, codecs.SAMPLES)
    if inputs.images == "selftest":
        return [one.quantized for one in link_run.golden_examples(bundle)[:count]]
    found = evaluate.held_out(
        inputs.images, bundle.manifest, resize=inputs.resize, count=count, seed=0
    )
    return [link_run.quantized(image[None], bundle.manifest) for image in found.images]


def energy(found: Costs) -> Reading:
    """Energy above idle, of ESP32-S3 boards by their datasheet's currents."""
    shares: dict[tuple[int, str], float] = {}
    for number, stage in enumerate(found.stages):
        power = found.model.nodes[number].power
        parts = dict.fromkeys(("invoke", "decode", "encode", "send", "receive"), 0.0)
        parts["invoke"] = stage.compute_mj
        if number > 0:
            hop = found.hops[number - 1]
            parts["decode"] += power.compute_mj(hop.decode_us)
            parts["receive"] += power.receive_mj(hop.crossing)
            parts["send"] += power.send_mj(hop.result)
        if number < len(found.hops):
            hop = found.hops[number]
            parts["encode"] += power.compute_mj(hop.encode_us)
            parts["send"] += power.send_mj(hop.crossing)
            parts["receive"] += power.receive_mj(hop.result)
        shares |= {
            (number, phase): float(mj)
            for phase, mj in parts.items()
            if mj or phase not in ("decode", "encode")
        }
    stages = {
        number: sum(mj for (stage, _), mj in shares.items() if stage == number)
        for number in range(len(found.stages))
    }
    return Reading(stages, meter.MODEL, phases=shares)
