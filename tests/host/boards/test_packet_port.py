"""Two C cores whose radios are joined by a local socket: the packet port, as real radios use it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from host.boards.address import Address
from host.boards.selftest import golden
from host.boards.virtual.core import Core, Result, Settings
from host.boards.virtual.radio import Radio, RadioSetup
from host.link.session import Profile
from host.link.transport import TransportError
from partitioner import kernels
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.chain import Stage
from partitioner.graph import Graph

PLACES = [Address("espnow", "02:00:00:00:00:01"), Address("espnow", "02:00:00:00:00:02")]


class WiredRadio(Radio):
    """A radio whose air is a UDP socket of this machine: `air` is its port and the other's."""

    transport = "espnow"

    def __init__(self, setup: RadioSetup, *, frame_s: float = 0.0) -> None:
        super().__init__(setup)
        self.profile = Profile(mtu=250, window=16, reorder=1)
        self.sent = 0
        self._frame_s = frame_s

    def peer(self, address: Address) -> bytes:
        assert address.mac is not None
        return address.mac

    def describe(self) -> dict[str, Any]:
        return {"sent": self.sent, "problem": self.problem}

    async def _open(self) -> None:
        own, other = (int(port) for port in self.setup.air.split())
        radio = self

        class Received(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                radio._received(data[:6], data[6:])

        try:
            self._wire, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Received, ("127.0.0.1", own), ("127.0.0.1", other)
            )
        except OSError as error:
            raise TransportError(f"port {own} is in use") from error

    async def _send(self, to: bytes, frame: bytes) -> None:
        assert len(frame) <= 250
        await asyncio.sleep(self._frame_s)
        assert self.address.mac is not None
        self._wire.sendto(self.address.mac + frame)
        self.sent += 1

    async def _close(self) -> None:
        if hasattr(self, "_wire"):
            self._wire.close()


def ports() -> tuple[int, int]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b,
    ):
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


class Pair:
    """A head here and a tail in a thread of its own."""

    def __init__(self, bundle: Bundle, frame_s: float) -> None:
        first, second = ports()
        self.radios = [
            WiredRadio(RadioSetup(PLACES[0], PLACES[1], f"{first} {second}"), frame_s=frame_s),
            WiredRadio(RadioSetup(PLACES[1], None, f"{second} {first}")),
        ]
        manifest = bundle.manifest
        self.cores = []
        for stage, radio in enumerate(self.radios):
            radio.start()
            settings = Settings(stage, PLACES[stage], None if stage else PLACES[1])
            engine = Stage(manifest, stage, bundle.stages[stage], kernels.exact())
            size = sum(tensor.bytes for tensor in manifest.outputs)
            self.cores.append(Core(settings, engine, 2, manifest.id, size, radio))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve_tail)
        self._thread.start()

    def _serve_tail(self) -> None:
        while not self._ending.is_set():
            self.cores[1].step(10_000)

    def infer(self, number: int, tensors: list[bytes]) -> Result:
        assert self.cores[0].infer(number, tensors, 5000) == "ok"
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            self.cores[0].step(10_000)
            if (result := self.cores[0].take_result()) is not None:
                return result
        raise AssertionError("no result")

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        for core in self.cores:
            core.close()
        for radio in self.radios:
            radio.close()


@pytest.fixture(scope="module")
def bundle(stranger: Graph, stranger_bundle: Bundle) -> Bundle:
    """In two stages, cut where two tensors cross."""
    cuts = Catalogue(stranger, None).chain(("#1",))
    model = stranger_bundle.manifest.model
    return build(stranger, cuts, model=model, calibration=None, realistic=[])


@pytest.fixture(params=[0.0, 0.002], ids=["fast", "slow"])
def pair(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(bundle, request.param)
    yield made
    made.close()


def test_inferences_cross_two_packet_ports_exactly(pair: Pair, bundle: Bundle) -> None:
    arrays = bundle.selftest()
    names = [f"output_{i}" for i in range(len(bundle.manifest.outputs))]
    for vector in range(3):
        given = golden(bundle, pair.cores[0].stage, vector)
        result = pair.infer(vector + 1, [tensor.tobytes() for tensor in given])
        assert result.code == "ok"
        assert list(result.tensors) == [arrays[name][vector].tobytes() for name in names]


def test_a_full_radio_blocks_the_core_and_loses_nothing(bundle: Bundle) -> None:
    pair = Pair(bundle, frame_s=0.005)
    try:
        result = pair.infer(1, [t.tobytes() for t in golden(bundle, pair.cores[0].stage)])
        assert result.code == "ok"
        assert pair.cores[0].status()["blocked"] > 0
        assert pair.radios[1].dropped == 0
    finally:
        pair.close()


def test_the_core_outlives_its_radio(bundle: Bundle) -> None:
    pair = Pair(bundle, frame_s=0.0)
    try:
        pair.radios[0].close()
        given = [t.tobytes() for t in golden(bundle, pair.cores[0].stage)]
        assert pair.cores[0].infer(1, given, 300) == "ok"
        started = time.monotonic()
        while (result := pair.cores[0].take_result()) is None:
            pair.cores[0].step(10_000)
            assert time.monotonic() - started < 5
        assert result.code in ("no_peer", "deadline", "send_failed")
    finally:
        pair.close()


def test_a_radio_that_cannot_open_says_why_and_leaves_nothing() -> None:
    first, second = ports()
    before = threading.active_count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", first))
        radio = WiredRadio(RadioSetup(PLACES[0], None, f"{first} {second}"))
        with pytest.raises(TransportError, match="in use"):
            radio.start()
    assert threading.active_count() == before
