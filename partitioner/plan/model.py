"""A network, boards and links as a split problem: what `partitioner.cost` says, as matrices.

Theory of operation. Positions are the network's start, its legal cuts and its end. A stage's time
is the sum of its operators' (prefix sums, so a matrix is one subtraction); its arena decides
whether it lies in internal RAM or in PSRAM, and with that how fast it is. How much internal RAM
there is depends on the radios that the node's hops need: Wi-Fi (ESP-NOW, UDP, TCP), Bluetooth.
Each hop has options, a `Link` each: a transport with its PHY rate and codec. The last node sends
the result back along the chain, raw, which is part of each hop. Energy is counted above rest.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from models.errors import TinysplitError
from partitioner.cost import compute, energy, memory
from partitioner.cost.codecs import CodedSizes, decode_us, encode_us
from partitioner.cost.compute import Band, ComputeModel, Kernels
from partitioner.cost.energy import PowerModel
from partitioner.cost.links import Crossing, Link
from partitioner.cost.memory import Radio, StageMemory
from partitioner.cost.operators import shapes
from partitioner.graph import Graph
from partitioner.plan.problem import Costs, Criterion, Limit, Plan, Problem

PSRAM_BYTES = 8 << 20
SLOT_BYTES = 1 << 20
DAY_S = 86_400
_IMAGE_BYTES = 8 * 1024  # Header, manifest, self-test and signature beside the model, at most.
_CLASS: dict[Radio, int] = {"wifi": 1, "ble": 2}


class NodeError(TinysplitError):
    """A node that does not exist or makes no sense."""


@dataclass(frozen=True)
class NodeProfile:
    """A node.

    Args:
        internal_bytes: internal RAM for an arena; None: what its radios leave of an ESP32-S3's.
        speed: a factor on the ESP32-S3's at 240 MHz.
        battery_mwh: 0: fed by the mains.
    """

    name: str
    internal_bytes: int | None = None
    psram_bytes: int = 0
    slot_bytes: int = SLOT_BYTES
    speed: float = 1.0
    kernels: Kernels = "esp-nn"
    battery_mwh: float = 0.0
    power: PowerModel = field(default_factory=energy.esp32s3)
    model: ComputeModel = field(default_factory=compute.esp32s3)

    def __post_init__(self) -> None:
        power = self.power
        numbers = (
            self.internal_bytes or 0, self.psram_bytes, self.slot_bytes, self.battery_mwh,
            power.idle_mw, power.compute_mw, power.transmit_mw, power.receive_mw,
        )  # fmt: skip
        if not all(np.isfinite(n) and n >= 0 for n in numbers):
            raise NodeError(f"{self.name}: memory, battery and power are numbers not below 0")
        if not (np.isfinite(self.speed) and self.speed > 0):
            raise NodeError(f"{self.name}: a speed is a number above 0")

    def internal_free(self, classes: tuple[int, int]) -> int:
        """Internal RAM for an arena beside the radios of these classes of hops."""
        if self.internal_bytes is not None:
            return self.internal_bytes
        return memory.internal_free(radio for radio, one in _CLASS.items() if one in classes)


KNOWN_NODES = {
    "esp32s3": NodeProfile("esp32s3"),
    "esp32s3-psram": NodeProfile("esp32s3-psram", psram_bytes=PSRAM_BYTES),
    # A PC: no limit that matters, some fifty times faster, and nobody counts its energy.
    "host": NodeProfile("host", 1 << 34, 0, 1 << 34, speed=50.0, power=energy.MAINS),
}


def node(text: str) -> NodeProfile:
    """A known node by name. Raises NodeError, which names the nearest."""
    try:
        return KNOWN_NODES[text]
    except KeyError:
        known = ", ".join(KNOWN_NODES)
        near = difflib.get_close_matches(text, KNOWN_NODES, n=1, cutoff=0)[0]
        raise NodeError(f"no node {text!r}, did you mean {near!r}? Known: {known}") from None


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
    link: Link
    raw_bytes: int
    payload_bytes: int
    encode_us: float
    crossing: Crossing
    decode_us: float
    result: Crossing

    @property
    def us(self) -> float:
        """All of it, one after the other."""
        return self.encode_us + self.crossing.us + self.decode_us + self.result.us


@dataclass(frozen=True)
class NodeCost:
    """What a plan asks of a node: energy above rest in mJ, and time it is at work."""

    node: str
    inference_mj: float
    busy_us: float
    resting_mw: float
    battery_mwh: float


class SplitModel:
    """What any plan of a network over these nodes costs; all figures modelled.

    Args:
        links: one for each node but the last: what leads away from it to the nodes behind, or a
            sequence of links to choose from.
        coded: sizes of coded boundaries; None: only links without a codec are known.
        every_node: each node has a stage; otherwise nodes may be left out, and hops then lead past
            them.
        may_begin, may_end: as in `Problem`.

    Raises:
        NodeError: not as many links as hops, or a codec whose sizes are not known.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[NodeProfile],
        links: Sequence[Link | Sequence[Link]],
        coded: CodedSizes | None = None,
        *,
        every_node: bool = True,
        may_begin: Sequence[bool] | None = None,
        may_end: Sequence[bool] | None = None,
    ) -> None:
        if len(links) != len(nodes) - 1:
            raise NodeError(f"{len(nodes)} nodes have {len(nodes) - 1} links, not {len(links)}")
        self.graph, self.nodes = graph, tuple(nodes)
        self.links = tuple((one,) if isinstance(one, Link) else tuple(one) for one in links)
        self.coded = coded or CodedSizes()
        self._rules = every_node, may_begin, may_end
        for link in {link for options in self.links for link in options}:
            if not self.coded.known(link.codec):
                raise NodeError(f"sizes under codec {link.codec} were not measured")
        self.shapes = shapes(graph)
        self.positions = (0, *(cut.position for cut in graph.cuts), len(graph.operators))
        self._payload = {cut.position: (cut.payload_bytes, len(cut.tensors)) for cut in graph.cuts}
        self._result = sum(graph.tensors[t].bytes for t in graph.outputs), len(graph.outputs)
        self._arena = self._arenas()
        self._flash = self._flashes()
        self._cycles_seen: dict[tuple[int, Kernels, compute.Memory], Costs] = {}
        self.crossing = lru_cache(maxsize=None)(Link.crossing)  # Links repeat along a chain.

    def _arenas(self) -> dict[bool, Costs]:
        stages = StageMemory(self.graph)
        found = {}
        for esp_nn in {n.kernels == "esp-nn" for n in self.nodes}:
            table = np.zeros((len(self.positions),) * 2)
            for i, start in enumerate(self.positions):
                for j in range(i + 1, len(self.positions)):
                    table[i, j] = stages.arena(start, self.positions[j], esp_nn=esp_nn).total
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

    @cached_property
    def _classes(self) -> tuple[tuple[int, ...], ...]:
        """The class of every option, by node it leads away from; the last node has one, unused."""
        count = max((len(options) for options in self.links), default=1)
        rows = [tuple(_CLASS[link.radio] for link in options) for options in self.links]
        return tuple((*row, *(1,) * (count - len(row))) for row in (*rows, ()))

    @cached_property
    def _by_class(self) -> bool:
        """Whether a node's memory depends on the options: where there are both radios."""
        return any(_CLASS["ble"] in row for row in self._classes) and any(
            profile.internal_bytes is None for profile in self.nodes
        )

    def _free(self, profile: NodeProfile) -> Costs:
        """(1, 1) or (C, C): internal RAM for an arena by the classes of hops."""
        if not self._by_class:
            return np.array([[float(profile.internal_free((0, 1)))]])
        count = 1 + max(max(row) for row in self._classes)
        return np.array(
            [[float(profile.internal_free((a, b))) for b in range(count)] for a in range(count)]
        )

    def _cycles(self, profile: NodeProfile, where: compute.Memory) -> Costs:
        """(P, P): cycles of stages."""
        key = id(profile.model), profile.kernels, where
        if key not in self._cycles_seen:
            bands = [profile.model.cycles(s, where, profile.kernels).middle for s in self.shapes]
            prefix = np.cumsum([0.0, *bands])[list(self.positions)]
            self._cycles_seen[key] = np.maximum(prefix[None, :] - prefix[:, None], 0.0)
        found: Costs = self._cycles_seen[key] / profile.speed
        return found

    def _stage_us(self, profile: NodeProfile) -> Costs:
        """(P, P) or (C, C, P, P): computing."""
        arena = self._arena[profile.kernels == "esp-nn"]
        free = self._free(profile)[:, :, None, None]
        inside, outside = (self._cycles(profile, where) for where in ("internal", "psram"))
        us: Costs = np.where(arena <= free, inside, outside) / compute.CLOCK_HZ * 1e6
        return us if self._by_class else us[0, 0]

    def problem(self, *, max_payload: int | None = None) -> Problem:
        """The problem with memory, flash and payload (as it travels) as limits."""
        nodes = self.nodes
        ram = np.stack([np.maximum(self._free(n), n.psram_bytes) for n in nodes])
        limits = [
            Limit(
                "RAM", "B", ram if self._by_class else ram[:, 0, 0],
                stages=[self._arena[n.kernels == "esp-nn"] for n in nodes],
            ),
            Limit(
                "flash", "B", [n.slot_bytes for n in nodes], stages=[self._flash] * len(nodes)
            ),
        ]  # fmt: skip
        if max_payload is not None:
            hops = self._by_hop(lambda link, at: float(self.sent_bytes(link, at)))
            limits.append(Limit("payload", "B", [max_payload] * len(nodes), hops=hops))
        every_node, may_begin, may_end = self._rules
        return Problem(
            len(self.positions), len(nodes), tuple(limits), every_node=every_node,
            may_begin=may_begin, may_end=may_end,
            choices=[*(len(options) for options in self.links), 1],
            classes=self._classes if self._by_class else None,
        )  # fmt: skip

    def sent_bytes(self, link: Link, position: int) -> int:
        """A boundary's payload as it travels over a link."""
        return self.coded.bytes(position, self._payload[position][0], link.codec)

    def hop(self, sender: int, receiver: int, link: Link, position: int) -> HopCost:
        """One hop in full; coding takes as long as its nodes are slow."""
        raw, tensors = self._payload[position]
        sent = self.sent_bytes(link, position)
        return HopCost(
            position=position,
            link=link,
            raw_bytes=raw,
            payload_bytes=sent,
            encode_us=encode_us(sent, link.codec) / self.nodes[sender].speed,
            crossing=self.crossing(link, sent, tensors),
            decode_us=decode_us(sent, link.codec) / self.nodes[receiver].speed,
            result=self.crossing(link, *self._result),
        )

    def _by_hop(self, value: Callable[[Link, int], float]) -> Costs:
        """(N, N, P, K) of what depends on the link and the position alone."""
        nodes, count = len(self.nodes), len(self._classes[0])
        found = np.zeros((nodes, 1, len(self.positions), count))
        columns: dict[Link, list[float]] = {}
        for sender, options in enumerate(self.links):
            for option, link in enumerate(options):
                if link not in columns:
                    columns[link] = [value(link, at) for at in self.positions[1:-1]]
                found[sender, 0, 1:-1, option] = columns[link]
        return np.broadcast_to(found, (nodes, nodes, *found.shape[2:]))

    def latency(self) -> Criterion:
        """From the input in the head to the result back in it, in us."""
        hops = self._by_hop(
            lambda link, at: self._boundary(link, at).us + self.crossing(link, *self._result).us
        )
        sends, receives = self._coding([1.0] * len(self.nodes))
        stages = [self._stage_us(profile) for profile in self.nodes]
        return Criterion("latency", "us", "sum", stages, hops, sends, receives)

    def period(self) -> Criterion:
        """Time between results when every node and link works on another inference, in us."""
        hops = self._by_hop(lambda link, at: self._boundary(link, at).us)
        sends, receives = self._coding([1.0] * len(self.nodes))
        stages = [self._stage_us(profile) for profile in self.nodes]
        return Criterion("period", "us", "max", stages, hops, sends, receives)

    def _coding(self, weights: Sequence[float]) -> tuple[Costs | None, Costs | None]:
        """What coding takes of the sender's time, and of the receiver's, weighted by node."""
        if not any(link.codec for options in self.links for link in options):
            return None, None
        encoding = self._by_hop(lambda link, at: encode_us(self.sent_bytes(link, at), link.codec))
        decoding = self._by_hop(lambda link, at: decode_us(self.sent_bytes(link, at), link.codec))
        share = np.array([w / n.speed for w, n in zip(weights, self.nodes, strict=True)])
        return encoding * share[:, None, None, None], decoding * share[None, :, None, None]

    def energy(self) -> Criterion:
        """Energy above rest of all nodes together, in mJ."""
        return self._energy("energy", "mJ", "sum", [1.0] * len(self.nodes), 0.0)

    def drain(self, per_day: float | None = None) -> Criterion:
        """The largest share of a battery that is taken, in millionths: by an inference, or a day.

        Args:
            per_day: inferences a day; then the nodes' rest is counted, too.
        """
        weights = [
            1e6 * (per_day or 1.0) / (3600 * n.battery_mwh) if n.battery_mwh else 0.0
            for n in self.nodes
        ]
        return self._energy("drain", "ppm", "max", weights, 0.0 if per_day is None else 24.0)

    def _energy(
        self, name: str, unit: str, combine: str, weights: Sequence[float], rest_hours: float
    ) -> Criterion:
        """What nodes take for stages and hops, weighted, and for so much rest."""
        stages = []
        for profile, weight in zip(self.nodes, weights, strict=True):
            rest = 0.0
            if profile.battery_mwh:
                rest = 1e6 * profile.power.idle_mw * rest_hours / profile.battery_mwh
            stages.append(self._stage_us(profile) * profile.power.compute_mw / 1e6 * weight + rest)
        powers = [profile.power for profile in self.nodes]
        coding = self._coding(
            [p.compute_mw / 1e6 * w for p, w in zip(powers, weights, strict=True)]
        )
        mw = [
            np.array([getattr(p, part) * w / 1e6 for p, w in zip(powers, weights, strict=True)])
            for part in ("transmit_mw", "receive_mw")
        ]
        ends: list[Costs] = []
        for sending, shape in ((True, (-1, 1, 1, 1)), (False, (1, -1, 1, 1))):
            transmitting, listening = self._radio_us(sending=sending)
            total: Costs = transmitting * mw[0].reshape(shape) + listening * mw[1].reshape(shape)
            more = coding[0 if sending else 1]
            ends.append(total if more is None else total + more)
        zero = np.broadcast_to(np.zeros(()), ends[0].shape)
        return Criterion(name, unit, "max" if combine == "max" else "sum", stages, zero, *ends)

    def _radio_us(self, *, sending: bool) -> tuple[Costs, Costs]:
        """How long one end of each hop transmits, and how long it listens."""

        def messages(link: Link, at: int) -> tuple[Crossing, Crossing]:
            """What this end sends and what it receives."""
            boundary, result = self._boundary(link, at), self.crossing(link, *self._result)
            return (boundary, result) if sending else (result, boundary)

        def transmitting(link: Link, at: int) -> float:
            sent, received = messages(link, at)
            return sent.sender_us + received.receiver_us

        def listening(link: Link, at: int) -> float:
            sent, received = messages(link, at)
            own = max(sent.us - sent.sender_us, 0.0)
            return own + max(received.us - received.receiver_us, 0.0)

        return self._by_hop(transmitting), self._by_hop(listening)

    def _boundary(self, link: Link, position: int) -> Crossing:
        """A boundary's way over a link."""
        sent = self.sent_bytes(link, position)
        return self.crossing(link, sent, self._payload[position][1])

    def stages(self, plan: Plan) -> list[StageCost]:
        """Every stage of a plan in full."""
        found, problem = [], self.problem()
        for number, (index, start, end) in enumerate(plan.stages):
            profile = self.nodes[index]
            arena = int(self._arena[profile.kernels == "esp-nn"][start, end])
            free = self._free(profile)
            classes = problem.stage_classes(plan, number) if self._by_class else (0, 0)
            where: compute.Memory = "internal" if arena <= free[classes] else "psram"
            first, last = self.positions[start], self.positions[end]
            bands = [
                profile.model.cycles(s, where, profile.kernels) for s in self.shapes[first:last]
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
                    memory=where,
                    flash_bytes=int(self._flash[start, end]),
                    compute_mj=profile.power.compute_mj(band.middle * scale),
                )
            )
        return found

    def hops(self, plan: Plan) -> list[HopCost]:
        """Every hop of a plan in full."""
        return [
            self.hop(sender, receiver, self.links[sender][option], self.positions[index])
            for sender, receiver, index, option in plan.hops
        ]

    def node_costs(self, plan: Plan) -> list[NodeCost]:
        """What a plan asks of each of its nodes."""
        stages, hops = self.stages(plan), self.hops(plan)
        found = []
        for number, (index, stage) in enumerate(zip(plan.nodes, stages, strict=True)):
            profile = self.nodes[index]
            power, mj, us = profile.power, stage.compute_mj, stage.us
            if number > 0:
                hop = hops[number - 1]
                mj += power.receive_mj(hop.crossing) + power.send_mj(hop.result)
                mj += power.compute_mj(hop.decode_us)
                us += hop.crossing.us + hop.decode_us + hop.result.us
            if number < len(hops):
                hop = hops[number]
                mj += power.send_mj(hop.crossing) + power.receive_mj(hop.result)
                mj += power.compute_mj(hop.encode_us)
                us += hop.crossing.us + hop.encode_us + hop.result.us
            found.append(NodeCost(profile.name, mj, us, power.idle_mw, profile.battery_mwh))
        return found


def named(profiles: Sequence[NodeProfile]) -> list[NodeProfile]:
    """The same with names that tell equal ones apart."""
    names = [profile.name for profile in profiles]
    return [
        replace(p, name=f"{p.name} {i}") if names.count(p.name) > 1 else p
        for i, p in enumerate(profiles)
    ]
