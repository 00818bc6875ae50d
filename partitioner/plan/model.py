"""A network, boards and links as a split problem: what `partitioner.cost` says, as matrices.

Theory of operation. Positions are the network's start, its legal cuts and its end. A stage's time
is the sum of its operators' (prefix sums, so a matrix is one subtraction); its arena decides
whether it lies in internal RAM or in PSRAM, and with that how fast it is. The last node sends the
result back along the chain, which is part of each hop. Energy is counted above idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.errors import TinysplitError
from partitioner.cost import compute, energy
from partitioner.cost.compute import Band, ComputeModel, Kernels
from partitioner.cost.energy import PowerModel
from partitioner.cost.links import Crossing, Link
from partitioner.cost.memory import StageMemory
from partitioner.cost.operators import shapes
from partitioner.graph import Graph
from partitioner.plan.problem import Costs, Criterion, Limit, Plan, Problem

# FACTS of an application with Wi-Fi: largest free internal block at start (below 270 KB seen).
INTERNAL_BYTES = 260 * 1024
PSRAM_BYTES = 8 << 20
SLOT_BYTES = 1 << 20
_IMAGE_BYTES = 8 * 1024  # Header, manifest, self-test and signature beside the model, at most.


class NodeError(TinysplitError):
    """A node that does not exist or makes no sense."""


@dataclass(frozen=True)
class NodeProfile:
    """A node. `speed` is a factor on the ESP32-S3's; battery in mWh, 0: fed by the mains."""

    name: str
    internal_bytes: int = INTERNAL_BYTES
    psram_bytes: int = 0
    slot_bytes: int = SLOT_BYTES
    speed: float = 1.0
    kernels: Kernels = "esp-nn"
    battery_mwh: float = 0.0
    power: PowerModel = field(default_factory=energy.esp32s3)
    model: ComputeModel = field(default_factory=compute.esp32s3)

    def __post_init__(self) -> None:
        numbers = (self.internal_bytes, self.psram_bytes, self.slot_bytes, self.battery_mwh)
        if not all(np.isfinite(n) and n >= 0 for n in numbers):
            raise NodeError(f"{self.name}: memory and battery are numbers not below 0")
        if not (np.isfinite(self.speed) and self.speed > 0):
            raise NodeError(f"{self.name}: a speed is a number above 0")


KNOWN_NODES = {
    "esp32s3": NodeProfile("esp32s3"),
    "esp32s3-psram": NodeProfile("esp32s3-psram", psram_bytes=PSRAM_BYTES),
    # A PC: no limit that matters, some hundred times faster than the board with exact kernels.
    "host": NodeProfile("host", 1 << 34, 0, 1 << 34, speed=50.0),
}


def node(text: str) -> NodeProfile:
    """A known node by name. Raises NodeError."""
    try:
        return KNOWN_NODES[text]
    except KeyError:
        known = ", ".join(KNOWN_NODES)
        raise NodeError(f"no node {text!r}: one of {known}") from None


@dataclass(frozen=True)
class StageCost:
    """A stage of a plan: time as a band, where its arena lies, energy above idle in mJ."""

    node: str
    first: int
    last: int
    cycles: Band
    us: float
    low_us: float
    high_us: float
    arena_bytes: int
    memory: str
    flash_bytes: int
    compute_mj: float


@dataclass(frozen=True)
class HopCost:
    """A boundary between two stages of a plan, and the result's way back over the same link."""

    position: int
    payload_bytes: int
    crossing: Crossing
    result: Crossing


class SplitModel:
    """What any plan of a network over these nodes costs; all figures modelled.

    Args:
        links: one per neighbouring pair of nodes.
    """

    def __init__(self, graph: Graph, nodes: Sequence[NodeProfile], links: Sequence[Link]) -> None:
        if len(links) != len(nodes) - 1:
            raise NodeError(f"{len(nodes)} nodes have {len(nodes) - 1} links, not {len(links)}")
        self.graph, self.nodes, self.links = graph, tuple(nodes), tuple(links)
        self.shapes = shapes(graph)
        self.positions = (0, *(cut.position for cut in graph.cuts), len(graph.operators))
        self._payload = {cut.position: (cut.payload_bytes, len(cut.tensors)) for cut in graph.cuts}
        self._result = sum(graph.tensors[t].bytes for t in graph.outputs), len(graph.outputs)
        self._arena = self._arenas()
        self._flash = self._flashes()

    def _arenas(self) -> dict[bool, Costs]:
        memory = StageMemory(self.graph)
        found = {}
        for esp_nn in {n.kernels == "esp-nn" for n in self.nodes}:
            table = np.zeros((len(self.positions),) * 2)
            for i, start in enumerate(self.positions):
                for j in range(i + 1, len(self.positions)):
                    table[i, j] = memory.arena(start, self.positions[j], esp_nn=esp_nn).total
            found[esp_nn] = table
        return found

    def _flashes(self) -> Costs:
        """Weights, and what the rest of a .tflite takes by the whole model's measure."""
        weights = np.cumsum([0, *(shape.weights for shape in self.shapes)])
        rest = max(len(self.graph.data) - int(weights[-1]), 0) / max(len(self.shapes), 1)
        at = np.array(self.positions)
        size = (weights[at] + rest * at).astype(float)
        found: Costs = np.maximum(size[None, :] - size[:, None], 0.0) + _IMAGE_BYTES
        return found

    def _cycles(self, profile: NodeProfile, memory: compute.Memory, part: str) -> Costs:
        """(P, P): cycles of stages by one end of the band."""
        bands = [profile.model.cycles(s, memory, profile.kernels) for s in self.shapes]
        prefix = np.cumsum([0.0, *(getattr(band, part) for band in bands)])[list(self.positions)]
        found: Costs = np.maximum(prefix[None, :] - prefix[:, None], 0.0) / profile.speed
        return found

    def _stage_us(self, profile: NodeProfile, part: str = "middle") -> Costs:
        arena = self._arena[profile.kernels == "esp-nn"]
        inside = self._cycles(profile, "internal", part)
        outside = self._cycles(profile, "psram", part)
        return np.where(arena <= profile.internal_bytes, inside, outside) / compute.CLOCK_HZ * 1e6

    def _crossing(self, link: Link, position: int) -> Crossing:
        return link.crossing(*self._payload[position])

    def problem(self, *, max_payload: int | None = None) -> Problem:
        """The problem, every node used, with memory, flash and payload as limits."""
        count, nodes = len(self.positions), self.nodes
        arenas = [self._arena[n.kernels == "esp-nn"] for n in nodes]
        ram = [max(n.internal_bytes, n.psram_bytes) for n in nodes]
        slots = [n.slot_bytes for n in nodes]
        limits = [
            Limit("RAM", "B", ram, stages=arenas),
            Limit("flash", "B", slots, stages=[self._flash] * len(nodes)),
        ]
        if max_payload is not None:
            hops = np.zeros((len(nodes), len(nodes), count))
            for index, position in enumerate(self.positions[1:-1], 1):
                hops[:, :, index] = self._payload[position][0]
            limits.append(Limit("payload", "B", [max_payload] * len(nodes), hops=hops))
        return Problem(count, len(nodes), tuple(limits))

    def latency(self) -> Criterion:
        """From the input in the head to the result back in it, in us."""
        return self._timed("latency", "sum", result=True)

    def period(self) -> Criterion:
        """Time between results when every node and link works on another inference, in us."""
        return self._timed("period", "max", result=False)

    def _timed(self, name: str, combine: str, *, result: bool) -> Criterion:
        nodes, count = len(self.nodes), len(self.positions)
        hops = np.zeros((nodes, nodes, count))
        for sender, link in enumerate(self.links):
            back = link.crossing(*self._result).us if result else 0.0
            for index, position in enumerate(self.positions[1:-1], 1):
                hops[sender, sender + 1, index] = self._crossing(link, position).us + back
        stages = [self._stage_us(profile) for profile in self.nodes]
        return Criterion(name, "us", "max" if combine == "max" else "sum", stages, hops)

    def energy(self) -> Criterion:
        """Energy above idle of all nodes together, in mJ."""
        stages = self._node_mj([1.0] * len(self.nodes))
        nodes, count = len(self.nodes), len(self.positions)
        return Criterion("energy", "mJ", "sum", stages, np.zeros((nodes, nodes, count)))

    def drain(self) -> Criterion:
        """The largest share of a battery that an inference takes, in millionths."""
        weights = [1e6 / (3600 * n.battery_mwh) if n.battery_mwh else 0.0 for n in self.nodes]
        nodes, count = len(self.nodes), len(self.positions)
        stages = self._node_mj(weights)
        return Criterion("drain", "ppm", "max", stages, np.zeros((nodes, nodes, count)))

    def _node_mj(self, weights: Sequence[float]) -> list[Costs]:
        """(P, P) per node: computing, receiving its input, sending its output, and the result."""
        found = []
        for index, (profile, weight) in enumerate(zip(self.nodes, weights, strict=True)):
            table = self._stage_us(profile) * profile.power.compute_mw / 1e6
            if index > 0:
                table = table + self._radio_mj(profile, self.links[index - 1], sends=False)[:, None]
            if index < len(self.links):
                table = table + self._radio_mj(profile, self.links[index], sends=True)[None, :]
            found.append(table * weight)
        return found

    def _radio_mj(self, profile: NodeProfile, link: Link, *, sends: bool) -> Costs:
        result = link.crossing(*self._result)
        found = np.zeros(len(self.positions))
        for index, position in enumerate(self.positions[1:-1], 1):
            crossing = self._crossing(link, position)
            if sends:
                found[index] = profile.power.send_mj(crossing) + profile.power.receive_mj(result)
            else:
                found[index] = profile.power.receive_mj(crossing) + profile.power.send_mj(result)
        return found

    def stages(self, plan: Plan) -> list[StageCost]:
        """Every stage of a plan in full."""
        found = []
        for index, start, end in plan.stages:
            profile = self.nodes[index]
            arena = int(self._arena[profile.kernels == "esp-nn"][start, end])
            memory: compute.Memory = "internal" if arena <= profile.internal_bytes else "psram"
            first, last = self.positions[start], self.positions[end]
            bands = [
                profile.model.cycles(s, memory, profile.kernels) for s in self.shapes[first:last]
            ]
            band = compute.total(bands)
            scale = 1e6 / compute.CLOCK_HZ / profile.speed
            found.append(
                StageCost(
                    node=profile.name,
                    first=first,
                    last=last,
                    cycles=band,
                    us=band.middle * scale,
                    low_us=band.low * scale,
                    high_us=band.high * scale,
                    arena_bytes=arena,
                    memory=memory,
                    flash_bytes=int(self._flash[start, end]),
                    compute_mj=profile.power.compute_mj(band.middle * scale),
                )
            )
        return found

    def hops(self, plan: Plan) -> list[HopCost]:
        """Every hop of a plan in full."""
        found = []
        for sender, _, index in plan.hops:
            position, link = self.positions[index], self.links[sender]
            found.append(
                HopCost(
                    position,
                    self._payload[position][0],
                    self._crossing(link, position),
                    link.crossing(*self._result),
                )
            )
        return found


def named(profiles: Sequence[NodeProfile]) -> list[NodeProfile]:
    """The same with names that tell equal ones apart."""
    names = [profile.name for profile in profiles]
    return [
        replace(p, name=f"{p.name} {i}") if names.count(p.name) > 1 else p
        for i, p in enumerate(profiles)
    ]
