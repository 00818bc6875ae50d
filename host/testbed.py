"""A chain of nodes for a bundle: virtual boards in processes, bad links between them.

    head -- relay -- (stage 1) ... -- relay -- tail

Each node listens on a free port of this machine; a relay that impairs the link stands before
it if any impairment is asked for. Nodes with radios share an air instead, which this process
hosts and which does the impairing. The tail may be this process, with the Python end of the
protocol. Any stage may be a board that is there already, on a serial port or at a broker, or an
emulated one.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from host.background import Background
from host.boards import address
from host.boards.address import CENTRAL, RADIOS, Address
from host.boards.attached import AttachedBoard
from host.boards.board import Board, BoardError, ForeignBoard
from host.boards.bridge import open_bridge
from host.boards.emulated import process as emulated
from host.boards.kinds import Attached, Emulated, OnMqtt, OnSerial
from host.boards.serial import SerialBoard
from host.boards.virtual.process import BOOT_TIMEOUT_S, VirtualBoard
from host.boards.virtual.radio import Air, AirCounts
from host.boards.virtual.radios import create_air
from host.closing import Assembly
from host.link.driver import LinkServer, Reply, Request
from host.link.impairment import Impairment, TcpRelay, UdpRelay
from host.link.messages import EVERY_CODEC, RAW_ONLY, Phase, PhaseRecord
from host.link.session import Node
from host.link.tcp import TcpServer
from host.link.transport import ServerTransport, not_installed
from host.link.udp import UdpServer
from host.mqtt import access
from host.mqtt.access import Access
from models.errors import TinysplitError
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.chain import Stage
from partitioner.kernels import Array

SESSIONS_TIMEOUT_S = 8.0
SESSIONS_LOOK_S = 0.05
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True)
class Options:
    """What the chain is made of.

    `tail` is `board` or `host`; `boards` has the stages whose boards are not virtual ones. `family`
    is 4 or 6. `radio` has the options that belong to a radio's transport, as its air takes them.
    `bridge` lends the host's tail its ESP-NOW radio where the boards are real. `codec` is `raw`,
    `auto` (codec 1 on each link whose ends both speak it) or `1` (on every link).
    `broker` is where boards on MQTT are; None: the environment says it.
    `on_text` gets the name of a board and a line it printed beside its answers.

    Raises:
        TestbedError: these do not go together.
    """

    transport: str = "udp"
    tail: str = "board"
    family: int = 4
    impairment: Impairment = field(default_factory=Impairment)
    timeout_ms: int = 10_000
    mtu: int = 0
    radio: Mapping[str, Any] = field(default_factory=dict)
    boards: Mapping[int, Attached | Emulated] = field(default_factory=dict)
    on_text: Callable[[str, str], None] | None = None
    bridge: OnSerial | None = None
    codec: str = "raw"
    broker: Access | None = None

    @property
    def codec_setting(self) -> str:
        """What boards are set to."""
        return "raw" if self.codec == "raw" else "auto"

    def check(self, stages: int) -> None:
        """Raises TestbedError for what cannot be a chain of so many stages."""
        kinds = self.boards.values()
        if any(stage >= stages for stage in self.boards):
            raise TestbedError(f"the bundle has {stages} stages, and boards are named for more")
        if self.tail == "host" and stages - 1 in self.boards:
            raise TestbedError("the last stage runs either on the host or on a board")
        if any(isinstance(kind, Emulated) for kind in kinds) and (
            self.transport in RADIOS or self.family == 6
        ):
            raise TestbedError("emulated boards have udp and tcp over IPv4 only")
        attached = sum(isinstance(kind, OnSerial | OnMqtt) for kind in kinds)
        real_host = attached > 0 and self.tail == "host" and self.transport == "espnow"
        if real_host != (self.bridge is not None):
            raise TestbedError(
                "a tail on the host over ESP-NOW from real boards needs --bridge serial:PORT"
                if real_host
                else "--bridge is for --tail host over ESP-NOW from real boards"
            )
        on_boards = stages - (self.tail == "host")  # The host has a bridge, or Bluetooth.
        if self.transport in RADIOS and 0 < attached < on_boards:
            raise TestbedError(
                f"over {self.transport} either every stage is a real board or none: radios made "
                "of software and real ones do not hear each other"
            )


class TestbedError(TinysplitError):
    """Options of a chain that do not go together."""

    __test__ = False


def ble_server(board: str) -> ServerTransport:
    """The last stage here, by this machine's Bluetooth; `board` is the name of the one before."""
    try:
        from host.link.ble.transport import BleServer
    except ModuleNotFoundError as error:
        raise not_installed("this machine's Bluetooth", "ble", error) from error
    return BleServer(board)


@dataclass(frozen=True)
class StageNode:
    """What runs a stage, for people and in a word, and how times by its clock come about.

    `kind`: virtual, host, emulated, or what a board that was there calls itself.
    """

    what: str
    provenance: str
    kind: str


@dataclass(frozen=True)
class Round:
    """One inference through the chain, by the head's clock unless a phase is another stage's.

    `phases[stage, phase]` in microseconds; SPEC.md section 6.2 says from when to when.
    """

    outputs: tuple[Array, ...]
    phases: dict[tuple[int, int], int]
    round_trip_us: int
    fragments_sent: int
    fragments_resent: int


class Testbed(Assembly):
    """A running chain; a context manager that leaves no process behind.

    Raises (entering):
        BoardError: a board does not start; says why.
        TransportError, ImpairmentError: a relay or the host's tail does not.
    """

    __test__ = False  # Not a test, whatever its name begins with.

    def __init__(self, bundle: Bundle, folder: Path, options: Options) -> None:
        super().__init__()
        self._bundle = bundle
        self._folder = folder
        self._options = options
        self._relays: list[UdpRelay | TcpRelay] = []
        self._air: Air | None = None
        self._attached: dict[int, AttachedBoard] = {}
        self.boards: list[Board] = []
        self.nodes: list[StageNode] = []

    def _assemble(self) -> None:
        options = self._options
        radio = options.transport in RADIOS
        self._background = self._stack.enter_context(Background(precise=radio))
        last = len(self._bundle.stages) - 1
        options.check(last + 1)
        for stage, board in options.boards.items():
            if isinstance(board, OnSerial | OnMqtt):
                self._attached[stage] = self._attach(stage, board)
        if radio and not self._attached:
            chosen = {**options.radio, "stages": last + 1}
            air = create_air(options.transport, options.impairment, chosen)
            self._air = self._background.enter(air)
        following: Address | None = None
        for stage in reversed(range(last + 1)):
            kind = options.boards.get(stage)
            if stage == last and options.tail == "host":
                place = self._start_tail(stage)
                node = StageNode("this host", "measured", "host")
            elif isinstance(kind, OnSerial | OnMqtt):
                place, node = self._configure(stage, following)
            elif isinstance(kind, Emulated):
                place = self._start_emulated(stage, kind, following)
                node = StageNode(f"an emulated board ({kind.build})", "emulated", "emulated")
            else:
                place = self._start_board(stage, following)
                node = StageNode("a virtual board", "measured", "virtual")
            self.nodes.insert(0, node)
            following = self._impaired(place, stage) if stage else None
        if self._air is not None or options.codec != "raw":
            self._wait_for_sessions()  # What is sent before travels raw.

    def _wait_for_sessions(self) -> None:
        """Until every board has the next stage, so that no inference counts the time for it.

        Radios take their time to connect. A stage that is never found is the first inference's to
        report.
        """
        deadline = time.monotonic() + SESSIONS_TIMEOUT_S
        for board in self.boards[: len(self.nodes) - 1]:
            while not board.ask("stats")["next_up"] and time.monotonic() < deadline:
                time.sleep(SESSIONS_LOOK_S)

    def _place(self, stage: int) -> Address:
        """Where a node of this process or machine is to be: any port that the stage before it
        reaches, or its radio's address."""
        if self._air is not None:
            return self._air.address(stage)
        return Address(self._options.transport, self._host(stage), 0)

    def _host(self, stage: int) -> str:
        """The address of this machine as the board before the stage sees it."""
        before = self._attached.get(stage - 1)
        return LOOPBACK[self._options.family] if before is None else before.host()

    def _printer(self, stage: int) -> Callable[[str], None] | None:
        tell = self._options.on_text
        return None if tell is None else lambda line: tell(f"stage {stage}", line)

    def _reach(self, stage: int, kind: Attached) -> ForeignBoard:
        printer = self._printer(stage)
        if isinstance(kind, OnSerial):
            name = f"stage {stage} on {kind.port}"
            return SerialBoard(kind.port, name=name, baud=kind.baud, on_text=printer)
        from host.mqtt.board import MqttBoard  # paho: not for those who need none.

        broker = self._options.broker or access.need()
        return MqttBoard(broker, kind.node, name=f"stage {stage} on {kind.node}", on_text=printer)

    def _attach(self, stage: int, kind: Attached) -> AttachedBoard:
        board = self._reach(stage, kind)
        self._stack.enter_context(board)
        attached = AttachedBoard(board, stage, self._bundle.manifest.id)
        attached.join(self._options.transport, self._options.family)
        return attached

    def _configure(self, stage: int, following: Address | None) -> tuple[Address, StageNode]:
        options, attached = self._options, self._attached[stage]
        place = attached.configure(
            options.transport,
            following,
            family=options.family,
            mtu=options.mtu,
            timeout_ms=options.timeout_ms,
            codec=options.codec_setting,
            needs_address=stage > 0,
        )
        self.boards.insert(0, attached.board)
        return place, StageNode(attached.what, attached.provenance, attached.info["kind"])

    def _start_emulated(self, stage: int, kind: Emulated, following: Address | None) -> Address:
        listen = Address(self._options.transport, emulated.LOOPBACK, emulated.free_port())
        board = emulated.EmulatedBoard(
            f"stage{stage}",
            self._folder,
            stage,
            kind.build,
            qemu=kind.qemu,
            listen=listen,
            following=following,
            mtu=self._options.mtu,
            timeout_ms=self._options.timeout_ms,
            codec=self._options.codec_setting,
            on_text=self._printer(stage),
        )
        self._stack.enter_context(board)
        self.boards.insert(0, board)
        board.wait_ready(emulated.BOOT_TIMEOUT_S)
        return listen

    def _start_board(self, stage: int, following: Address | None) -> Address:
        air = self._air
        board = VirtualBoard(
            f"stage{stage}",
            self._folder,
            stage,
            self._place(stage),
            following,
            mtu=self._options.mtu,
            timeout_ms=self._options.timeout_ms,
            settings={
                "codec": self._options.codec_setting,
                **({} if air is None else {"air": air.place, **air.settings()}),
            },
            environment={} if air is None else air.environment(),
            on_text=self._printer(stage),
        )
        self._stack.enter_context(board)
        self.boards.insert(0, board)
        return address.parse(board.wait_ready(BOOT_TIMEOUT_S)["listen"])

    def _start_tail(self, stage: int) -> Address:
        options, manifest = self._options, self._bundle.manifest
        engine = Stage(manifest, stage, self._bundle.stages[stage], kernels.exact())

        def handle(request: Request) -> Reply:
            joined = b"".join(request.tensors)
            done = engine.run(engine.decode(joined, [len(t) for t in request.tensors]))
            tensors = [tensor.tobytes() for tensor in done.tensors]
            return Reply(tensors, (PhaseRecord(stage, Phase.INVOKE, done.invoke_us),))

        spoken = RAW_ONLY if options.codec == "raw" else EVERY_CODEC
        node = Node.tail(bytes.fromhex(manifest.id), len(manifest.stages), codecs=spoken)
        if self._air is not None:
            self._background.enter(LinkServer(self._air.host_tail(stage), node, handle))
            return self._place(stage)
        if options.bridge is not None:
            place, bridge = open_bridge(options.bridge.port, options.bridge.baud)
            self._background.enter(LinkServer(bridge, node, handle))
            return place
        if options.transport == "ble":
            before = self._attached[stage - 1].info["name"]
            self._background.enter(LinkServer(ble_server(before), node, handle))
            return Address("ble", CENTRAL)
        listen = self._place(stage)
        kind = UdpServer if options.transport == "udp" else TcpServer
        server = LinkServer(kind(listen.host, listen.port), node, handle)
        self._background.enter(server)
        return Address(options.transport, *server.address[:2])

    def _impaired(self, target: Address, stage: int) -> Address:
        """Where the stage before reaches `target`: a relay, if links are to be spoilt."""
        options = self._options
        unspoilt = Impairment(seed=options.impairment.seed)
        if options.transport in RADIOS or options.impairment == unspoilt:
            return target
        kind = UdpRelay if options.transport == "udp" else TcpRelay
        relay: UdpRelay | TcpRelay = kind(
            (target.host, target.port), options.impairment, host=self._host(stage)
        )
        self._background.enter(relay)
        self._relays.append(relay)
        return Address(options.transport, *relay.address[:2])

    @property
    def head(self) -> Board:
        return self.boards[0]

    def infer(self, inputs: Sequence[Array]) -> Round:
        """One inference on the head, and its result.

        Raises:
            BoardError: by the name of what went wrong at whichever stage; `gone` or `restarted`
                at once, if that is what a board did.
        """
        encoded = [base64.b64encode(value.tobytes()).decode() for value in inputs]
        command = self.head.begin("run", input="tensors", tensors=encoded)
        try:
            answer = self.head.finish(command, self._options.timeout_ms / 1000 + 5, self._watch)
        except BoardError:
            self._watch()  # A stage that ended says more than what the head saw of it.
            raise
        try:
            return self._round(answer)
        except (KeyError, TypeError, ValueError) as error:
            text = f"{self.head.name} answers `run` with something else: {error!r}"
            raise BoardError("malformed", text) from error

    def _round(self, answer: Mapping[str, Any]) -> Round:
        """What the head answered; raises BoardError, KeyError, TypeError or ValueError."""
        specs = self._bundle.manifest.outputs
        data = [base64.b64decode(t) for t in answer["tensors"]]
        if [len(d) for d in data] != [spec.bytes for spec in specs]:
            raise BoardError("malformed", "the result does not have the bundle's output sizes")
        outputs = tuple(
            np.frombuffer(d, spec.dtype).reshape(spec.shape)
            for d, spec in zip(data, specs, strict=True)
        )
        return Round(
            outputs,
            {(p["stage"], p["phase"]): p["duration_us"] for p in answer["phases"]},
            answer["total_us"],
            answer["fragments_sent"],
            answer["fragments_resent"],
        )

    def _watch(self) -> None:
        for board in self.boards[1:]:
            board.check()

    def stats(self) -> list[dict[str, Any]]:
        """Every board's link counters, head first."""
        return [board.ask("stats") for board in self.boards]

    def require_codec(self, stats: Sequence[dict[str, Any]]) -> None:
        """Check that every link speaks codec 1 if `1` was asked for; `stats` as of `stats()`.

        Raises:
            TestbedError: one does not.
        """
        for link, found in enumerate(stats[: len(self.nodes) - 1]):
            if self._options.codec == "1" and found.get("codec") != 1:
                raise TestbedError(
                    f"the link from stage {link} to stage {link + 1} does not speak codec 1: "
                    "update the firmware of its boards, or give --codec auto"
                )

    def on_air(self) -> AirCounts | None:
        """What the modelled air, or the relays, have done so far; None: there are none."""
        if self._air is not None:
            return self._air.counts()
        if not self._relays:
            return None
        tallies = [tally for relay in self._relays for tally in relay.tallies()]
        return AirCounts(
            sum(t.packets for t in tallies),
            sum(t.lost + t.overflowed for t in tallies),
            sum(t.bytes for t in tallies),
        )

    @property
    def air_provenance(self) -> str:
        """How times over the air come about, in a word; empty without a modelled air."""
        return "" if self._air is None else self._air.provenance().partition(" ")[0]

    def air_report(self, stats: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
        """How times over the air come about, and what it did; empty without an air.

        `stats` is what `stats()` returned.
        """
        if self._air is None:
            return "", []
        return self._air.provenance(), self._air.report([s["radio"] for s in stats])

    def tallies(self) -> list[dict[str, dict[str, int]]]:
        """What each relay did, towards the tail and back, nearest to the tail first."""
        found = []
        for relay in self._relays:
            forward, back = relay.tallies()
            found.append({"forward": asdict(forward), "back": asdict(back)})
        return found
