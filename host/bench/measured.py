"""A cell on nodes that are there: one chain of boards for all of its inferences."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from host import link_run
from host.bench import metering, rows
from host.bench.bundles import Key, key
from host.bench.rows import Row
from host.bench.spec import Cell, Experiment, Inputs, cut_name
from host.boards.board import BoardError
from host.boards.kinds import Emulated, Host, OnMqtt, OnSerial
from host.closing import Assembly
from host.link.messages import Phase
from host.link_run import Example
from host.meters.meter import Meter, MeterError, Phases, phase_name
from host.testbed import Options, Round, Testbed
from partitioner import evaluate
from partitioner.bundle import Bundle

# Errors after which the chain is not there any more; others are one inference's.
ENDS_CHAIN = ("gone", "restarted", "no_answer", "malformed")
_U32_MAX = 0xFFFF_FFFF
_STATS = ("frames_out", "bytes_out")
# What a board says of itself that identifies it, for the environment file.
_IDENTITY = (
    "kind", "name", "firmware", "role", "stage", "bundle", "kernels", "selftest", "chip", "idf",
)  # fmt: skip


class Examples:
    """What is inferred on, with the uncut model's results; made once for each bundle."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._known: dict[Key, tuple[Example, ...]] = {}

    def of(self, name: Key, bundle: Bundle) -> tuple[Example, ...]:
        """Raises EvaluateError, ImageError, KernelError."""
        if name not in self._known:
            self._known[name] = tuple(self._made(bundle))
        return self._known[name]

    def _made(self, bundle: Bundle) -> list[Example]:
        chosen = self._inputs
        if chosen.images == "selftest":
            return link_run.golden_examples(bundle)[: chosen.count]
        image_set = evaluate.held_out(
            chosen.images, bundle.manifest, resize=chosen.resize, count=chosen.count, seed=0
        )
        return list(link_run.examples(bundle, image_set))


def options(
    cell: Cell, stages: int, timeout_ms: int, on_text: Callable[[str, str], None] | None = None
) -> Options:
    """The chain that a cell asks for."""
    boards = cell.boards
    nodes = [boards.head, *(boards.relays or [None] * (stages - 2)), boards.tail]
    return Options(
        transport=cell.transport.transport,
        tail="host" if isinstance(boards.tail, Host) else "board",
        family=cell.transport.family,
        impairment=cell.impairment,
        timeout_ms=timeout_ms,
        mtu=cell.transport.mtu,
        radio=cell.transport.radio,
        boards={
            stage: kind
            for stage, kind in enumerate(nodes)
            if isinstance(kind, OnSerial | OnMqtt | Emulated)
        },
        bridge=boards.bridge,
        codec=cell.codec,
        on_text=on_text,
    )


def base_row(experiment: Experiment, cell: Cell, bundle: Bundle) -> Row:
    """What is known of every row of a cell before anything has run."""
    manifest, link = bundle.manifest, cell.impairment
    layers = [boundary.layer for boundary in manifest.boundaries]
    shape = manifest.inputs[0].shape
    return {
        **rows.blank(),
        "experiment": experiment.name,
        "cell": cell.name,
        "model": cell.model.name,
        "cut": cut_name(cell.cut or layers),
        "transport": cell.transport.transport,
        "transport_name": cell.transport.name,
        "link": cell.link.name,
        "codec": cell.codec,
        "boards": cell.boards.name,
        "meter": cell.meter.name,
        "heads": cell.heads,
        "repetition": cell.repetition,
        "bundle": manifest.id,
        "weights": manifest.model["weights"],
        "input_size": shape[1] if len(shape) == 4 else None,
        "payload_bytes": manifest.boundaries[0].payload_bytes,
        "loss": float(link.loss),
        "delay_ms": float(link.delay_ms),
        "jitter_ms": float(link.jitter_ms),
        "reorder": float(link.reorder),
        "corrupt": float(link.corrupt),
        "duplicate": float(link.duplicate),
        "rate_bps": link.rate_bps,
    }


class OnNodes(Assembly):
    """A running chain for a cell; a context manager.

    Raises (entering):
        TinysplitError: the chain does not start, or a meter is not to be had; says why.
    """

    def __init__(
        self,
        experiment: Experiment,
        cell: Cell,
        bundle: Bundle,
        folder: Any,
        examples: Examples,
        on_text: Callable[[str, str], None] | None = None,
    ) -> None:
        super().__init__()
        self._experiment, self._cell, self._bundle = experiment, cell, bundle
        timeout_ms = experiment.method.timeout_ms
        chosen = options(cell, len(bundle.stages), timeout_ms, on_text)
        self.testbed = Testbed(bundle, folder, chosen)
        self._examples = examples
        self._meter = metering.open_meter(experiment, cell, bundle)
        self._sent = 0
        self.base = base_row(experiment, cell, bundle)

    def _assemble(self) -> None:
        self._chosen = self._examples.of(key(self._cell), self._bundle)
        if self._meter is not None:
            self._stack.enter_context(self._meter)
        self._stack.enter_context(self.testbed)
        self._describe()
        if self._meter is not None:
            self.base |= metering.source_columns(self._meter.source())
            self._meter.attach(self.testbed.boards)

    def _describe(self) -> None:
        """What the chain says of itself, into the base row."""
        testbed = self.testbed
        self._infos = [board.ask("info") for board in testbed.boards]
        self._counted = testbed.stats()
        self._aired = testbed.on_air()
        testbed.require_codec(self._counted)
        head = self._counted[0]
        compute = sorted({node.provenance for node in testbed.nodes})
        link = {testbed.air_provenance} if testbed.air_provenance else set(compute)
        self.base |= {
            "nodes": [node.kind for node in testbed.nodes],
            "kernels": str(self._infos[0].get("kernels", "")),
            "frame_bytes": head.get("frame_size") or None,
            "negotiated": json.dumps(_negotiated(self._cell, head.get("radio")), sort_keys=True),
            "compute_provenance": " and ".join(compute),
            "link_provenance": " and ".join(sorted(link)),
            "provenance": " and ".join(sorted({*compute, *link})),
        }

    @property
    def boards(self) -> list[dict[str, Any]]:
        """Who the boards are, for the environment file."""
        return [
            {name: info[name] for name in _IDENTITY if info.get(name) is not None}
            for info in self._infos
        ]

    def infer(self) -> Row:
        """One inference as a row; one that failed has `error` and `error_code`.

        Raises:
            MeterError: the meter is not there any more.
            BoardError: the chain is not there any more (`ENDS_CHAIN`); `row` of the exception's
                `__notes__` is not set: the caller records it.
        """
        example = self._chosen[self._sent % len(self._chosen)]
        self._sent += 1
        row = {
            **self.base,
            "started_utc": now_utc(),
            "input": example.name,
            "truth": example.truth,
        }
        meter = self._meter
        if meter is not None:
            meter.begin()
        try:
            done = link_run.infer(self.testbed, self._bundle, example)
        except BoardError as error:
            if error.code in ENDS_CHAIN:
                raise
            if meter is not None:
                meter.give_up()
            row |= {"error": " ".join(str(error).split()), "error_code": error.code}
            return {**row, **self._on_link()}
        found = done.round
        phases = {**found.phases, (0, int(Phase.PREPROCESS)): done.preprocess_us}
        try:
            energy = {} if meter is None else self._energy(meter, phases)
        except MeterError as error:
            if not error.passes:
                raise
            row |= {"error": str(error), "error_code": error.code}
            return {**row, **self._on_link()}
        row |= {
            "predicted": done.predicted,
            "output_crc32": crc32(found),
            "exact": done.exact,
            "data_frames": found.fragments_sent,
            "retransmissions": found.fragments_resent,
            **durations(phases, found.round_trip_us, len(self._bundle.stages)),
            **energy,
        }
        before = self._counted
        row |= self._on_link()
        if len(self._counted) > 1 and before[0].get("handed") != self._counted[0].get("handed"):
            row |= by_clocks(row, self._counted[0], self._counted[1])
        return row

    def _energy(self, meter: Meter, phases: Phases) -> Row:
        return metering.columns(meter.end(phases), len(self._bundle.stages))

    def _on_link(self) -> Row:
        """What the boards and the air have counted since the last inference."""
        counted, aired = self.testbed.stats(), self.testbed.on_air()
        before, self._counted = self._counted, counted
        frames, size = (
            sum(now[name] for now in counted) - sum(old[name] for old in before) for name in _STATS
        )
        row: Row = {
            "wire_frames": frames,
            "wire_bytes": size,
            "clock_offset_us": counted[0].get("clock_offset_us"),
            "clock_uncertainty_us": counted[0].get("clock_uncertainty_us"),
            "boundary_bytes": self._travelled(before[0], counted[0]),
        }
        if aired is not None and self._aired is not None:
            last, self._aired = self._aired, aired
            row |= {"air_packets": aired.packets - last.packets, "air_lost": aired.lost - last.lost}
            if aired.bytes is not None and last.bytes is not None:
                row["air_bytes"] = aired.bytes - last.bytes
            if aired.busy_us is not None and last.busy_us is not None:
                row["airtime_us"] = aired.busy_us - last.busy_us
        return row

    def _travelled(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> int | None:
        """Bytes of the first boundary on its way: coded by the head's own account, else all."""
        if self._cell.codec == "raw":
            return int(self.base["payload_bytes"])
        if not all(isinstance(s.get("raw_bytes"), int) for s in (before, now)):
            return None
        raw, coded = (
            (now[name] - before[name]) & _U32_MAX for name in ("raw_bytes", "coded_bytes")
        )
        return int(coded if raw else self.base["payload_bytes"])


def now_utc() -> str:
    """This moment in ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def crc32(found: Round) -> int:
    """Over the output tensors in order."""
    return zlib.crc32(b"".join(output.tobytes() for output in found.outputs))


def durations(phases: Mapping[tuple[int, int], int], round_trip_us: int, stages: int) -> Row:
    """The columns of time, from what every stage reported by its own clock (SPEC.md 6.2).

    The one-way time is bounded by two clocks that need no comparison: the boundary cannot have
    taken longer than until its acknowledgement was back, nor less than from its first fragment's
    arrival to its last's.
    """

    def get(stage: int, phase: Phase) -> int:
        return phases.get((stage, phase), 0)

    last = stages - 1
    on_way = (Phase.DECODE, Phase.QUEUE, Phase.INVOKE, Phase.ENCODE, Phase.SEND)
    between = sum(get(stage, phase) for stage in range(1, last) for phase in on_way)
    row: Row = {
        "preprocess_us": get(0, Phase.PREPROCESS),
        "head_queue_us": get(0, Phase.QUEUE),
        "head_invoke_us": get(0, Phase.INVOKE),
        "head_encode_us": get(0, Phase.ENCODE),
        "link_us": get(0, Phase.SEND),
        "between_us": between,
        "tail_decode_us": get(last, Phase.DECODE),
        "tail_queue_us": get(last, Phase.QUEUE),
        "tail_invoke_us": get(last, Phase.INVOKE),
        "tail_encode_us": get(last, Phase.ENCODE),
    }
    known = sum(row.values()) - row["preprocess_us"]
    row["return_us"] = max(round_trip_us - known, 0)
    row["round_trip_us"] = round_trip_us
    row["phases"] = [
        {"stage": stage, "phase": phase_name(phase), "duration_us": us}
        for (stage, phase), us in sorted(phases.items())
    ]
    least, most = phases.get((1, Phase.RECEIVE)), phases.get((0, Phase.SEND))
    if least is not None and most is not None and least <= most:
        row["one_way_us"] = (least + most) // 2
        row["one_way_uncertainty_us"] = (most - least + 1) // 2
        row["one_way_method"] = "bounds"
    return row


# Of two crystals against each other: ESP32-S3 boards take ones of 10 ppm each (ESP32-S3 Hardware
# Design Guidelines, clock source), and as much again for their temperatures.
_DRIFT = 40e-6


def by_clocks(row: Row, head: Mapping[str, Any], following: Mapping[str, Any]) -> Row:
    """The one-way time by both ends' stamps and the clocks' offset, where they say more.

    `head` and `following` are their `stats` after the inference: `handed` and `complete` are by
    each one's own clock, and the offset is off by half of the shortest PING's round trip at most,
    and by what the clocks have drifted since. What `row` has is the range that needs no clocks (see
    `durations`); the time is in both. Stamps that contradict that range say nothing.
    """
    sent, came, offset_us = head.get("handed"), following.get("complete"), head["clock_offset_us"]
    if sent is None or came is None or offset_us is None or sent["inference"] != came["inference"]:
        return {}
    took_us = came["at_us"] - offset_us - sent["at_us"]
    doubt_us = head["clock_uncertainty_us"] + math.ceil(head["clock_age_us"] * _DRIFT) + 1
    low_us, high_us = max(took_us - doubt_us, 0), took_us + doubt_us
    if row["one_way_us"] is not None:
        least_us = row["one_way_us"] - row["one_way_uncertainty_us"]
        most_us = row["one_way_us"] + row["one_way_uncertainty_us"]
        if low_us <= least_us and most_us <= high_us:
            return {}
        low_us, high_us = max(low_us, least_us), min(high_us, most_us)
    if low_us > high_us:
        return {}
    return {
        "one_way_us": (low_us + high_us) // 2,
        "one_way_uncertainty_us": (high_us - low_us + 1) // 2,
        "one_way_method": "clocks",
    }


def _negotiated(cell: Cell, radio: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the radio said was granted; no counters, no secrets."""
    if radio is None:
        return {}
    if cell.transport.transport == "espnow":
        names: Sequence[str] = ("version", "rate", "channel", "encrypted")
        return {name: radio[name] for name in names if name in radio}
    counters = ("peer", "frames_in", "frames_out", "values_dropped")
    for peer in radio.get("peers", []):
        if isinstance(peer, dict) and peer.get("gap_role") == "central":
            return {name: value for name, value in peer.items() if name not in counters}
    return {}
