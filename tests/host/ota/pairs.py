"""Two virtual boards that start from images and infer without a pause while they are updated."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from host import reach
from host.background import Background
from host.boards.address import RADIOS, Address
from host.boards.board import BoardError
from host.boards.virtual.process import BOOT_TIMEOUT_S, VirtualBoard, VirtualBridge
from host.boards.virtual.radio import Air
from host.boards.virtual.radios import create_air
from host.closing import Assembly
from host.link.impairment import Impairment
from host.ota import fleet
from host.ota.courier import Courier, Node
from host.ota.fleet import Outcome
from host.ota.shipment import Shipment
from host.reach import Reach
from partitioner.bundle import Bundle
from tests.ports import free_port

BRIDGE = Address("espnow", "02:00:00:00:00:99")


LABELS = ("head", "tail")


class Pair(Assembly):
    """Head and tail over `transport`, from the images in `folder`; a context manager.

    `names` are those of the head and the tail for `tinysplit ota`, `options` what it needs besides.
    """

    def __init__(
        self, transport: str, folder: Path, flashes: Path, public_key: Path, loss: float = 0.0
    ) -> None:
        super().__init__()
        self._transport = transport
        self._folder = folder
        self._flashes = flashes
        self._key = public_key
        self._impairment = Impairment(loss=loss, seed=3)
        self._air: Air | None = None
        self.boards: list[VirtualBoard | None] = [None, None]
        self.options: list[str] = []

    def _assemble(self) -> None:
        if self._transport in RADIOS:
            background = self._stack.enter_context(Background(precise=True))
            options = {"stages": 2, "espnow_version": 2}
            self._air = background.enter(create_air(self._transport, self._impairment, options))
            self.addresses = [self._air.address(stage) for stage in (0, 1)]
            if self._transport == "espnow":
                settings = {"air": self._air.place, **self._air.settings()}
                bridge = VirtualBridge(
                    BRIDGE, settings=settings, environment=self._air.environment()
                )
                self._stack.callback(bridge.close)
                self.options = ["--bridge", f"serial:{bridge.port}"]
            else:
                self.options = ["--air", self._air.place]
        else:
            self.addresses = [Address(self._transport, "127.0.0.1", free_port()) for _ in LABELS]
        boards = [self._begin(stage) for stage in (0, 1)]
        for board in boards:
            board.wait_ready(BOOT_TIMEOUT_S)
        end = time.monotonic() + BOOT_TIMEOUT_S
        while not boards[0].ask("stats")["next_up"] and time.monotonic() < end:
            time.sleep(0.01)

    @property
    def names(self) -> list[str]:
        return [str(address) for address in self.addresses]

    @property
    def arguments(self) -> list[str]:
        head, tail = self.names
        return ["--node", f"head={head}", "--node", f"tail={tail}", *self.options]

    def start(self, stage: int) -> dict[str, Any]:
        """Start a board, or start it again; what it says of itself."""
        return self._begin(stage).wait_ready(BOOT_TIMEOUT_S)

    def _begin(self, stage: int) -> VirtualBoard:
        air = self._air
        settings: dict[str, str | int] = {"public-key": str(self._key)}
        board = VirtualBoard(
            f"stage{stage}",
            self._folder / f"stage{stage}.tsim",
            stage,
            self.addresses[stage],
            self.addresses[1] if stage == 0 else None,
            flash=self._flashes / f"flash{stage}",
            settings={**settings, **({} if air is None else {"air": air.place, **air.settings()})},
            environment={} if air is None else air.environment(),
        )
        self.boards[stage] = board
        return board

    def kill(self, stage: int) -> None:
        """kill -9."""
        board = self.boards[stage]
        assert board is not None
        board.kill()
        board.close()
        self.boards[stage] = None

    def info(self, stage: int) -> dict[str, Any]:
        board = self.boards[stage]
        assert board is not None
        return board.ask("info")

    def close(self) -> None:
        for board in self.boards:
            if board is not None:
                board.close()
        super().close()


def updated(
    pair: Pair,
    shipments: Mapping[int, Shipment],
    *,
    patience_s: float,
    watch: Callable[[Courier], None] = lambda _: None,
    phase: Callable[[str], None] = lambda _: None,
    via: str | None = None,
) -> tuple[Outcome, list[Courier]]:
    """`tinysplit ota` of a pair to the shipments of its stages, with something to do on the way."""
    stop = threading.Event()
    with Reach(timeout_s=1.0) as way:
        couriers = [
            Courier(
                Node(0, LABELS[stage], stage, name, reach.parse(name)),
                way,
                patience_s=patience_s,
                stop=stop,
                watch=watch,
                via=via,
            )
            for stage, name in enumerate(pair.names)
        ]
        try:
            outcome = fleet.update(
                couriers, lambda _: lambda courier: shipments[courier.node.stage], stop, phase
            )
        finally:
            for courier in couriers:
                courier.close()
    return outcome, couriers


class Inferring:
    """Inferences on the head, one after another, in a thread: `right`, `wrong`, and `errors` by
    name. Every result is compared with the uncut model's, byte for byte."""

    def __init__(self, pair: Pair, bundle: Bundle) -> None:
        head = pair.boards[0]
        assert head is not None
        self._head = head
        arrays = bundle.selftest()
        names = [f"input_{i}" for i in range(len(bundle.manifest.inputs))]
        self._inputs = [
            [base64.b64encode(arrays[name][row].tobytes()).decode() for name in names]
            for row in range(len(arrays[names[0]]))
        ]
        self._outputs = [
            [arrays[f"output_{i}"][row].tobytes() for i in range(len(bundle.manifest.outputs))]
            for row in range(len(self._inputs))
        ]
        self.right = self.wrong = 0
        self.errors: Counter[str] = Counter()
        self.longest_gap_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        row = 0
        last = time.monotonic()
        while not self._over.is_set():
            row = (row + 1) % len(self._inputs)
            try:
                answer = self._head.ask(
                    "run", 15, input="tensors", tensors=self._inputs[row], timeout_ms=5000
                )
            except BoardError as error:
                self.errors[error.code] += 1
                time.sleep(0.005)
                continue
            if [base64.b64decode(t) for t in answer["tensors"]] == self._outputs[row]:
                self.right += 1
            else:
                self.wrong += 1
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now

    def __enter__(self) -> Inferring:
        self._thread.start()
        return self

    def wait(self, more: int, timeout_s: float = 30) -> None:
        """Until so many more were right."""
        wanted, end = self.right + more, time.monotonic() + timeout_s
        while self.right < wanted and not self.wrong:
            assert time.monotonic() < end, (self.right, self.errors)
            time.sleep(0.01)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
