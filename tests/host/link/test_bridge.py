"""A host on ESP-NOW through a bridge: processes, pseudo-terminals, and what befalls them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import os
import pty
import random
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from host.background import Background
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.bridge import open_bridge
from host.boards.serial import SerialBoard
from host.boards.virtual.espnow import EspNowAir
from host.boards.virtual.process import VirtualBoard, VirtualBridge
from host.cli import main
from host.link.bridge import BridgeServer, _unusable
from host.link.driver import LinkServer, Reply, Request
from host.link.espnow.ether import Ether, Station
from host.link.espnow.medium import Medium
from host.link.espnow.radio import EspNow, profile
from host.link.impairment import Impairment
from host.link.session import Node
from host.link.transport import NotAllowedError, TransportError, UnreachableError
from host.testbed import Options, Testbed
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.chain import Stage

Invoke = Callable[..., Result]
HEAD, BRIDGE = Address("espnow", "02:00:00:00:00:01"), Address("espnow", "02:00:00:00:00:02")


@pytest.mark.parametrize(
    ("radio", "impairment"),
    [
        ({}, Impairment()),
        ({"espnow_version": 2, "espnow_rate": "11M"}, Impairment()),
        ({"pmk": bytes(range(16)), "lmk": bytes(range(1, 17))}, Impairment(loss=0.1, seed=1)),
    ],
    ids=["version 1", "version 2", "encrypted, lossy"],
)
def test_a_tail_on_the_host_is_exact(
    pair: Bundle, pair_folder: Path, radio: dict[str, Any], impairment: Impairment
) -> None:
    options = Options(transport="espnow", tail="host", radio=radio, impairment=impairment)
    uncut = kernels.exact().load(pair.full)
    rng = np.random.default_rng(7)
    with Testbed(pair, pair_folder, options) as testbed:
        for _ in range(5):
            value = rng.integers(-128, 128, (1, 24, 24, 3), np.int8)
            found = testbed.infer([value])
            assert found.outputs[0].tobytes() == uncut.run([value])[0].tobytes()


class BadCable:
    """A pseudo-terminal in front of another port, which loses, flips and adds bytes."""

    def __init__(self, port: str, share: float) -> None:
        self._share = share
        self._random = random.Random(3)
        self._far = os.open(port, os.O_RDWR | os.O_NOCTTY)
        self._own, self._other = pty.openpty()
        for fd in (self._far, self._other):
            tty.setraw(fd)
        self.port = os.ttyname(self._other)
        self.damaged = 0
        self._ending = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _spoil(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self._random.random() >= self._share:
                out.append(byte)
                continue
            self.damaged += 1
            how = self._random.randrange(4)
            if how == 1:
                out.append(byte ^ 1 << self._random.randrange(8))
            elif how == 2:
                out += self._random.randbytes(5)
            elif how == 3:
                out += b"\0" + bytes([byte])
        return bytes(out)

    def _run(self) -> None:
        while not self._ending:
            ready, _, _ = select.select([self._own, self._far], [], [], 0.05)
            for fd in ready:
                data = self._spoil(os.read(fd, 4096))
                with contextlib.suppress(OSError):
                    os.write(self._far if fd == self._own else self._own, data)

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        for fd in (self._own, self._other, self._far):
            os.close(fd)


class Chain:
    """A head on an ether and a tail here, behind the bridge on a port."""

    def __init__(
        self, pair: Bundle, pair_folder: Path, air: str, port: str, where: Background
    ) -> None:
        self._pair = pair
        manifest = pair.manifest
        engine = Stage(manifest, 1, pair.stages[1], kernels.exact())

        def handle(request: Request) -> Reply:
            lengths = [len(t) for t in request.tensors]
            done = engine.run(engine.decode(b"".join(request.tensors), lengths))
            return Reply([t.tobytes() for t in done.tensors])

        self.transport = BridgeServer(port, profile(1))
        node = Node.tail(bytes.fromhex(manifest.id), 2)
        self.server = where.enter(LinkServer(self.transport, node, handle))
        self.head = VirtualBoard("head", pair_folder, 0, HEAD, BRIDGE, settings={"air": air})
        self.head.wait_ready(60)

    def infer(self, timeout_ms: int = 30_000) -> None:
        """One inference, exact."""
        command = self.begin(timeout_ms)
        answer = self.head.finish(command, timeout_ms / 1000 + 5)
        wanted = self._pair.selftest()["output_0"][0].tobytes()
        assert base64.b64decode(answer["tensors"][0]) == wanted

    def begin(self, timeout_ms: int = 30_000) -> int:
        return self.head.begin("run", input="selftest", timeout_ms=timeout_ms)


@pytest.fixture
def where() -> Iterator[Background]:
    with Background(precise=True) as background:
        yield background


@pytest.fixture
def air(where: Background) -> str:
    return where.enter(Ether(Medium(seed=1))).place


def test_a_wire_that_damages_bytes_costs_time_but_no_byte(
    pair: Bundle, pair_folder: Path, air: str, where: Background
) -> None:
    with VirtualBridge(BRIDGE, settings={"air": air}) as bridge:
        cable = BadCable(bridge.port, 0.001)
        try:
            chain = Chain(pair, pair_folder, air, cable.port, where)
            with chain.head:
                for _ in range(20):
                    chain.infer()
            assert cable.damaged > 5
        finally:
            where.run(chain.server.close())
            cable.close()


def test_a_bridge_that_is_reset_in_the_middle_comes_back_and_the_session_goes_on(
    pair: Bundle, pair_folder: Path, air: str, where: Background, tmp_path: Path
) -> None:
    port = tmp_path / "port"
    bridge = VirtualBridge(BRIDGE, settings={"air": air})
    port.symlink_to(bridge.port)
    chain = Chain(pair, pair_folder, air, str(port), where)
    with chain.head:
        chain.infer()
        bridge.kill()
        port.unlink()
        command = chain.begin()
        time.sleep(0.5)
        bridge = VirtualBridge(BRIDGE, settings={"air": air})
        port.symlink_to(bridge.port)
        assert chain.head.finish(command, 35)["code"] == "ok"
        chain.infer()
        stats = chain.head.ask("stats")
        assert stats["next_up"]
        assert stats["next_error"] == "ok", "no session was lost"
        where.run(chain.server.close())
    bridge.close()


def test_a_bridge_that_vanishes_for_good_ends_the_run_by_name(
    pair: Bundle, pair_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(transport="espnow", tail="host", timeout_ms=1500)
    with Testbed(pair, pair_folder, options) as testbed:
        value = np.zeros((1, 24, 24, 3), np.int8)
        testbed.infer([value])
        assert isinstance(testbed._air, EspNowAir)
        assert testbed._air._bridge is not None
        testbed._air._bridge.kill()
        started = time.monotonic()
        with pytest.raises(BoardError, match="inference failed at stage 0"):
            testbed.infer([value])
        assert time.monotonic() - started < 6
    assert "is gone: unplugged or reset" in caplog.text


class Listener:
    """A user of a transport that keeps what it brings."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.errors: list[TransportError] = []

    def frames_received(self, batch: list[tuple[bytes, Any]]) -> None:
        self.frames += [frame for frame, _ in batch]

    def peer_lost(self, peer: Any, error: TransportError) -> None:
        raise AssertionError("a bridge has no connections")

    def link_error(self, error: TransportError) -> None:
        self.errors.append(error)

    def writable(self) -> None:
        pass


def test_no_more_goes_to_a_bridge_than_it_has_room_for(air: str, where: Background) -> None:
    far = EspNow(b"\x02\0\0\0\0\x09")
    heard: list[bytes] = []

    async def story(port: str) -> int:
        station = Station(
            lambda frame: heard.append((far.receive(frame) or (b"", b""))[1]),
            lambda *_: None,
            lambda error: None,
        )
        await station.join(air, far.mac, 1)
        server = BridgeServer(port, profile(1))
        await server.open(Listener())
        sent = [bytes([n]) * 250 for n in range(100)]
        blocked = 0
        for frame in sent:
            while server.blocked:
                blocked += 1
                await asyncio.sleep(0.002)
            assert server.send(frame, far.mac)
        until = time.monotonic() + 10
        while len(heard) < 100 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert heard == sent
        await server.close()
        station.close()
        return blocked

    with VirtualBridge(BRIDGE, settings={"air": air}) as bridge:
        assert where.run(story(bridge.port), 30) > 20
        board = SerialBoard(bridge.port)
        assert board.greet()["role"] == "bridge"
        assert board.ask("stats")["dropped"] == 0
        board.close()


def test_a_port_that_is_none_or_not_ours_is_one_line(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_bytes(b"")
    for port, text in ((tmp_path / "none", "no such port"), (plain, "no serial port")):
        with pytest.raises(BoardError, match=text):
            open_bridge(str(port))

        async def opened(port: Path = port) -> None:
            await BridgeServer(str(port), profile(1)).open(Listener())

        with pytest.raises(UnreachableError, match=text):
            asyncio.run(opened())
    denied = _unusable("/dev/ttyACM0", PermissionError(errno.EACCES, "Permission denied"))
    assert isinstance(denied, NotAllowedError)
    assert "dialout" in str(denied)


@contextlib.contextmanager
def babbler(text: bytes) -> Iterator[str]:
    """A port on which something else talks."""
    own, other = pty.openpty()
    tty.setraw(other)
    ending = threading.Event()

    def talk() -> None:
        while not ending.wait(0.05):
            if select.select([own], [], [], 0)[0]:
                os.read(own, 4096)
            if select.select([], [own], [], 0)[1]:
                os.write(own, text)

    thread = threading.Thread(target=talk)
    thread.start()
    yield os.ttyname(other)
    ending.set()
    thread.join()
    os.close(own)
    os.close(other)


@pytest.mark.parametrize("text", [b"", b"GPS $GPGGA,123519\r\n", bytes(range(256))])
def test_a_port_without_a_bridge_on_it_says_so_and_nothing_hangs(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.link.bridge.ANSWER_TIMEOUT_S", 1.0)

    async def opened(port: str) -> None:
        await BridgeServer(port, profile(1)).open(Listener())

    with babbler(text) as port:
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="no bridge answers on"):
            asyncio.run(opened(port))
        assert time.monotonic() - started < 5


def test_a_board_that_is_no_bridge_is_named(
    pair_folder: Path, air: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    from partitioner import child

    command = [
        *child.command("host.cli", "main"),
        "board",
        str(pair_folder),
        "--stage",
        "1",
        "--pty",
    ]
    board = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert board.stderr is not None
    try:
        port = board.stderr.readline().strip()
        with pytest.raises(BoardError, match="is a tail, not a bridge"):
            open_bridge(port)
    finally:
        board.terminate()
        board.wait()
        board.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--role", "bridge"], 2, "a bridge needs a radio"),
        (["--role", "bridge", "--listen", "espnow://02:00:00:00:00:02"], 2, "a bridge needs"),
        (["--role", "bridge", "--stage", "1"], 2, "no stage"),
        (["--stage", "1"], 2, "needs a BUNDLE"),
    ],
)
def test_a_bridge_that_cannot_be_is_one_line(
    invoke: Invoke, arguments: list[str], code: int, text: str
) -> None:
    found = invoke(main, "board", *arguments)
    assert (found.exit_code, text in found.output) == (code, True), found.output


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--transport", "udp", "--tail", "host", "--bridge", "serial:/dev/x"], 2, "is for --tail"),
        (["--transport", "espnow", "--bridge", "serial:/dev/x"], 2, "is for --tail host"),
        (["--transport", "espnow", "--bridge", "board"], 2, "a bridge is on a serial port"),
        (["--bridge", "serial:/dev/x"], 2, "need --transport"),
    ],
)
def test_a_bridge_where_none_is_needed_is_one_line(
    pair_folder: Path, invoke: Invoke, options: list[str], code: int, text: str
) -> None:
    found = invoke(main, "run", pair_folder, *options)
    assert (found.exit_code, text in found.output) == (code, True), found.output
