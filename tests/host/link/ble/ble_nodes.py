"""An air in this process, and nodes on it: the C core behind its Bluetooth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.background import Background
from host.boards.address import Address
from host.boards.selftest import golden
from host.boards.virtual.ble import BleRadio
from host.boards.virtual.core import Core, Result, Settings, role_of
from host.boards.virtual.radio import RadioSetup
from host.link.ble.bumble_backend import Adapter
from host.link.ble.controllers import HciPort, TimedLink
from host.link.session import Node, Role
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.chain import Stage

SPEC = (Path(__file__).parents[4] / "firmware" / "core" / "SPEC.md").read_text("utf-8")


def place(stage: int) -> Address:
    return Address("ble", f"c0:54:53:00:00:{stage:02x}")


class BoardNode:
    """A stage on the C core, in a thread of its own."""

    def __init__(
        self,
        bundle: Bundle,
        stage: int,
        air: str,
        *,
        own: Address | None = None,
        following: Address | None = None,
        name: str = "",
        att_mtu: int = 517,
    ) -> None:
        manifest = bundle.manifest
        count = len(manifest.stages)
        self.own = own or place(stage)
        node = Node(Role[role_of(stage, count).upper()], stage, count, bytes.fromhex(manifest.id))
        setup = RadioSetup(
            self.own, following, air, name or f"stage{stage}", {"att_mtu": att_mtu}, node
        )
        self.radio = BleRadio(setup)
        self.radio.start()
        engine = Stage(manifest, stage, bundle.stages[stage], kernels.exact())
        size = sum(tensor.bytes for tensor in manifest.outputs)
        self.core = Core(
            Settings(stage, self.own, following), engine, count, manifest.id, size, self.radio
        )
        self._results: dict[int, Result] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ending.is_set():
            with self._lock:
                self.core.step(2_000)
                while (result := self.core.take_result()) is not None:
                    self._results[result.inference] = result

    def begin(self, number: int, tensors: list[bytes], timeout_ms: int = 10_000) -> None:
        with self._lock:
            assert self.core.infer(number, tensors, timeout_ms) == "ok"

    def result(self, number: int, timeout_s: float = 12.0) -> Result:
        deadline = time.monotonic() + timeout_s
        while number not in self._results:
            assert time.monotonic() < deadline, "no result"
            time.sleep(0.002)
        return self._results.pop(number)

    def close(self) -> None:
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            self.core.close()
            self.radio.close()


class Air:
    """Controllers on one link, in the loop of a thread, which adapters share."""

    def __init__(self, background: Background, loss: float = 0.0, seed: int = 1) -> None:
        self.background = background

        async def make() -> HciPort:
            return HciPort(TimedLink(loss, seed))

        self.port = background.run(make())
        background.enter(self.port)
        self.place = self.port.place
        self._adapters: list[Adapter] = []
        self.nodes: list[BoardNode] = []

    def adapter(self, number: int = 1, att_mtu: int = 517) -> Adapter:
        adapter = Adapter(self.place, f"c0:54:53:00:ff:{number:02x}", att_mtu)
        self._adapters.append(adapter)
        return adapter

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        for adapter in self._adapters:
            self.background.run(adapter.close())


@pytest.fixture
def air(request: pytest.FixtureRequest) -> Iterator[Air]:
    with Background(precise=True) as background:
        made = Air(background, getattr(request, "param", 0.0))
        yield made
        made.close()


MakeNode = Callable[..., BoardNode]


@pytest.fixture
def node(air: Air, pair: Bundle) -> MakeNode:
    """`node(stage, following=..., ...)`: a board on the air."""

    def make(stage: int, **options: object) -> BoardNode:
        made = BoardNode(pair, stage, air.place, **options)  # type: ignore[arg-type]
        air.nodes.append(made)
        return made

    return make


def boundary(bundle: Bundle, vector: int) -> list[bytes]:
    """What stage 0 sends for a self-test vector."""
    count = len(bundle.manifest.boundaries[0].tensors)
    arrays = bundle.selftest()
    return [arrays[f"boundary_0_{i}"][vector].tobytes() for i in range(count)]


def output(bundle: Bundle, vector: int) -> list[bytes]:
    arrays = bundle.selftest()
    return [arrays[f"output_{i}"][vector].tobytes() for i in range(len(bundle.manifest.outputs))]


def first_input(bundle: Bundle, stage: Stage, vector: int) -> list[bytes]:
    return [tensor.tobytes() for tensor in golden(bundle, stage, vector)]
