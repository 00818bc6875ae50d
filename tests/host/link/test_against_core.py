"""The two implementations of SPEC.md against each other: firmware/core at one end, host/link at
the other. Simulated time and any faults by hypothesis; then real sockets."""

import asyncio
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from core_end import DOWN, MESSAGE, RESULT, SENT, UP, CoreEnd, CoreEvent
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulation import BUNDLE, MS, S, Simulation, network

from host.link.driver import LinkClient, LinkServer, Request
from host.link.errors import ErrorCode
from host.link.events import (
    FailureReceived,
    MessageFailed,
    MessageSent,
    PrivateReceived,
    ResultReceived,
    SessionEnded,
    TensorReceived,
)
from host.link.messages import EVERY_CODEC, RAW_ONLY, decode_boundary
from host.link.session import Node, Profile
from host.link.tcp import TcpClient, TcpServer
from host.link.udp import UdpClient, UdpServer

NAMED = {int(code) for code in ErrorCode}
TIMEOUT_US = 4 * S
PRIVATE = 200


@dataclass(frozen=True)
class Faults:
    """What a session has to bear."""

    seed: int
    loss: float
    duplicate: float
    corrupt: float
    delay_us: int
    jitter_us: int
    mtu: int
    core_mtu: int
    slots: int
    sizes: tuple[int, ...]
    pauses_ms: tuple[int, ...]
    restarts: tuple[tuple[int, str], ...]  # Before which tensor, and who.
    coding: frozenset[str] = frozenset()  # Who speaks codec 1.


faults = st.builds(
    Faults,
    seed=st.integers(1, 1 << 31),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.35]),
    duplicate=st.sampled_from([0.0, 0.1, 0.3]),
    corrupt=st.sampled_from([0.0, 0.02, 0.1]),
    delay_us=st.sampled_from([50, 1 * MS, 20 * MS]),
    jitter_us=st.sampled_from([0, 2 * MS, 30 * MS]),
    mtu=st.sampled_from([128, 250, 512, 1452]),
    core_mtu=st.sampled_from([128, 250, 512, 1452]),
    slots=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 7000), min_size=1, max_size=6).map(tuple),
    pauses_ms=st.lists(st.integers(0, 700), min_size=6, max_size=6).map(tuple),
    restarts=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["head", "tail"])), max_size=2
    ).map(tuple),
    coding=st.sampled_from([frozenset[str](), frozenset({"head"}), frozenset({"head", "tail"})]),
)
clean = Faults(1, 0, 0, 0, MS, 0, 1452, 250, 4, (1, 5488, 7000), (0,) * 6, ())
dreadful = Faults(
    7, 0.35, 0.3, 0.1, 20 * MS, 30 * MS, 250, 250, 8, (5488,) * 6, (200,) * 6, ((3, "tail"),)
)


def bytes_of(number: int, size: int) -> bytes:
    """Of every second number such as codec 1 makes half as long."""
    mask = 15 if number % 2 else 255
    return bytes((number * 89 + i * 7 + (i >> 8)) & mask for i in range(size))


def plus_one(data: bytes) -> bytes:
    return bytes((byte + 1) & 255 for byte in data)


class Run:
    """One session between `head` and `tail` with its restarts; `core` names the C end."""

    def __init__(self, faults: Faults, core: str) -> None:
        self.faults = faults
        self.core = core
        self.calm = False
        self.born = 0
        bad = network(
            loss=faults.loss,
            delay_us=faults.delay_us,
            jitter_us=faults.jitter_us,
            duplicate=faults.duplicate,
            corrupt=faults.corrupt,
        )
        good = network(delay_us=faults.delay_us)
        self.sim = Simulation(
            faults.seed, lambda rng, frame: (good if self.calm else bad)(rng, frame)
        )
        self.start("tail")
        self.start("head")

    def start(self, name: str) -> None:
        """A fresh end, as after a power cut."""
        sim, skew = self.sim, 3 * S if name == "head" else 0
        self.born += 1
        if name == self.core:
            peer = "tail" if name == "head" else "head"
            end = CoreEnd(
                head=name == "head",
                peer=peer,
                mtu=self.faults.core_mtu,
                seed=self.faults.seed + self.born,
                now=sim.now + skew,
                coding=name in self.faults.coding,
            )
            sim.add(name, end, skew)  # type: ignore[arg-type]
            return
        profile = Profile(mtu=self.faults.mtu, slots=self.faults.slots)
        spoken = EVERY_CODEC if name in self.faults.coding else RAW_ONLY
        if name == "head":
            node = Node.head(BUNDLE, codecs=spoken)
            head = sim.head(node=node, profile=profile, skew_us=skew, accept=[PRIVATE])
            head.connect(sim.now + skew)
            sim.give_back("head")
        else:
            node = Node.tail(BUNDLE, codecs=spoken)
            sim.tail(node=node, profile=profile, skew_us=skew, accept=[PRIVATE])
            sim.serve()

    @property
    def head(self) -> Any:
        return self.sim.ends["head"]

    def restart_before(self, index: int) -> set[str]:
        who = {name for at, name in self.faults.restarts if at == index}
        for name in who:
            self.start(name)
        return who

    def pause(self, index: int) -> None:
        self.sim.run(self.faults.pauses_ms[index] * MS)

    def core_events(self, kind: int) -> list[CoreEvent]:
        return [event for event in self.sim.of(self.core, CoreEvent) if event.type == kind]


@settings(max_examples=150, deadline=None)
@example(clean)
@example(dreadful)
@example(replace(dreadful, coding=frozenset({"head", "tail"})))
@given(faults)
def test_core_head_to_python_tail(faults: Faults) -> None:
    run = Run(faults, core="head")
    sim = run.sim
    bodies: dict[int, bytes] = {}
    alive: set[int] = set()  # Begun, and not forgotten by a restart of the head.

    def ask(number: int, size: int) -> None:
        body = bytes_of(number, size)
        if run.head.infer(number, body, TIMEOUT_US // MS, sim.clock("head")) == 0:
            bodies[number] = body
            alive.add(number)

    for index, size in enumerate(faults.sizes):
        if "head" in run.restart_before(index):
            ended = {event.token for event in run.core_events(RESULT)}
            alive &= ended
        ask(index + 1, size)
        run.pause(index)
    sim.run(TIMEOUT_US + S)
    run.calm = True
    sim.run(8 * S)
    ask(1000, 3000)
    sim.run(TIMEOUT_US + S)

    results = run.core_events(RESULT)
    assert sorted(event.token for event in results) == sorted(alive)
    for event in results:
        assert event.code in NAMED
        if event.code == 0:
            assert event.body == plus_one(bodies[event.token])[::-1]
    assert [event.code for event in results if event.token == 1000] == [0]
    for tensor in sim.of("tail", TensorReceived):
        (whole,) = decode_boundary(tensor.tensors, tensor.codec, 7000)
        assert bytes(whole) == plus_one(bodies[tensor.inference_id])
    if len(faults.coding) < 2:
        assert all(tensor.codec == 0 for tensor in sim.of("tail", TensorReceived))
    if faults == clean:
        assert all(event.code == 0 for event in results)


@settings(max_examples=150, deadline=None)
@example(clean)
@example(dreadful)
@example(replace(dreadful, coding=frozenset({"head", "tail"})))
@given(faults)
def test_python_head_to_core_tail(faults: Faults) -> None:
    run = Run(faults, core="tail")
    sim = run.sim
    bodies: dict[int, bytes] = {}
    tokens: set[int] = set()
    settled: list[int] = []

    def ask(number: int, size: int) -> None:
        bodies[number] = bytes_of(number, size)
        now = sim.clock("head")
        tokens.add(
            run.head.send_tensor(number, [bodies[number]], now, deadline_us=now + TIMEOUT_US)
        )

    def count() -> list[int]:
        return [event.token for event in sim.of("head", (MessageSent, MessageFailed))]  # type: ignore[arg-type]

    for index, size in enumerate(faults.sizes):
        if "head" in run.restart_before(index):
            settled += count()
            sim.events["head"] = [e for e in sim.events["head"] if isinstance(e, ResultReceived)]
            tokens = set()
        ask(index + 1, size)
        run.pause(index)
    sim.run(TIMEOUT_US + S)
    run.calm = True
    sim.run(8 * S)
    ask(1000, 3000)
    sim.run(TIMEOUT_US + S)

    assert sorted(count()) == sorted(tokens)
    for failed in sim.of("head", MessageFailed):
        assert failed.error.code in NAMED
    for failure in sim.of("head", FailureReceived):
        assert failure.error.code in NAMED
    results = sim.of("head", ResultReceived)
    for result in results:
        assert bytes(result.tensors[0]) == bodies[result.inference_id][::-1]
    assert [result.inference_id for result in results].count(1000) == 1
    if faults == clean:
        assert len(results) == len(bodies)


@settings(max_examples=100, deadline=None)
@given(faults, st.sampled_from(["head", "tail"]))
def test_messages_both_ways_at_once(faults: Faults, core: str) -> None:
    """Private messages, which the link does not look into: each arrives at most once, exact."""
    run = Run(faults, core)
    sim = run.sim
    python = "tail" if core == "head" else "head"
    core_end, python_end = sim.ends[core], sim.ends[python]
    sim.run(2 * S)
    sent: dict[str, list[bytes]] = {core: [], python: []}
    for index, size in enumerate(faults.sizes):
        body = bytes_of(index, size)
        if core_end.send(PRIVATE, body, TIMEOUT_US // MS, index, sim.clock(core)) == 0:  # type: ignore[attr-defined]
            sent[core].append(body)
        if python == "head":
            now = sim.clock(python)
            python_end.send_private(PRIVATE, body, now, deadline_us=now + TIMEOUT_US)  # type: ignore[attr-defined]
            sent[python].append(body)
        run.pause(index)
    sim.run(TIMEOUT_US + S)
    assert len(run.core_events(SENT)) == len(sent[core])
    assert {event.code for event in run.core_events(SENT)} <= NAMED
    got = [bytes(event.body) for event in sim.of(python, PrivateReceived)]
    assert all(got.count(body) <= sent[core].count(body) for body in got)
    got = [event.body for event in run.core_events(MESSAGE)]
    assert all(got.count(body) <= sent[python].count(body) for body in got)
    harmless = not (faults.loss or faults.corrupt)
    if harmless and not run.core_events(DOWN) and not sim.of(python, SessionEnded):
        assert all(event.code == 0 for event in run.core_events(SENT))
    assert len(run.core_events(UP)) >= 1


@pytest.mark.parametrize("core", ["head", "tail"])
def test_give_up_and_patience(core: str) -> None:
    """An outage longer than the receiver's patience: the message still arrives, once."""
    calm = Faults(3, 0, 0, 0, MS, 0, 250, 250, 2, (7000,), (0,) * 6, ())
    run = Run(calm, core)
    sim = run.sim
    sim.run(S)
    body = bytes_of(1, 7000)
    now = sim.clock("head")
    if core == "head":
        assert run.head.infer(1, body, 40_000, now) == 0
    else:
        run.head.send_tensor(1, [body], now, deadline_us=now + 40 * S)
    sim.run(1500)
    inner, sim.fate = sim.fate, lambda rng, frame: []
    sim.run(11 * S)
    sim.fate = inner
    sim.run(10 * S)
    if core == "head":
        assert [event.code for event in run.core_events(RESULT)] == [0]
        assert len(sim.of("tail", TensorReceived)) == 1
    else:
        assert len(sim.of("head", ResultReceived)) == 1
    assert not run.core_events(DOWN)


class Port:
    """Serves a CoreEnd with a real socket, in a thread of its own."""

    def __init__(self, kind: str, peer: tuple[str, int] | None) -> None:
        self.kind = kind
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._peer: Any = peer
        self._stream: socket.socket | None = None
        self._rest = b""
        self.events: list[CoreEvent] = []
        mtu = 1452 if kind == "udp" else 16384
        self.end = CoreEnd(
            head=peer is not None,
            peer="peer",
            mtu=mtu,
            seed=time.monotonic_ns(),
            now=self.now(),
            stream=kind == "tcp",
        )
        family = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET, family)
        if kind == "tcp" and peer is not None:
            self.socket.connect(peer)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stream = self.socket
        else:
            self.socket.bind(("127.0.0.1", 0))
            if kind == "tcp":
                self.socket.listen()
        self.address = self.socket.getsockname()
        self._thread = threading.Thread(target=self._serve)

    @staticmethod
    def now() -> int:
        return time.monotonic_ns() // 1000

    def infer(self, inference: int, data: bytes) -> int:
        with self._lock:
            return self.end.infer(inference, data, 8000, self.now())

    def _serve(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                output = self.end.poll(self.now())
            for _, frame in output.frames:
                self._send(frame)
            self.events += output.events  # type: ignore[arg-type]
            due = output.deadline_us
            wait = 0.005 if due is None else min(max(due - self.now(), 0) / 1e6, 0.005)
            for frame in self._frames(wait):
                with self._lock:
                    self.events += self.end.receive(frame, "peer", self.now())

    def _send(self, frame: bytes) -> None:
        if self.kind == "udp" and self._peer is not None:
            self.socket.sendto(frame, self._peer)
        elif self._stream is not None:
            with suppress(OSError):
                self._stream.sendall(struct.pack("<H", len(frame)) + frame)

    def _frames(self, wait: float) -> Iterator[bytes]:
        source = self._stream or self.socket
        if not select.select([source], [], [], wait)[0]:
            return
        if self.kind == "udp":
            frame, self._peer = self.socket.recvfrom(1 << 16)
            yield frame
        elif self._stream is None:
            self._stream, _ = self.socket.accept()
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._rest += self._stream.recv(1 << 16)
            while len(self._rest) >= 2:
                size = 2 + struct.unpack_from("<H", self._rest)[0]
                if len(self._rest) < size:
                    break
                frame, self._rest = self._rest[2:size], self._rest[size:]
                yield frame

    @contextmanager
    def running(self) -> Iterator["Port"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()
            self.socket.close()
            if self._stream is not None:
                self._stream.close()


TENSORS = [bytes_of(number, size) for number, size in enumerate((1, 33, 1000, 5488, 7000))]


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_python_client_and_core_server(kind: str) -> None:
    client_of: Any = {"udp": UdpClient, "tcp": TcpClient}[kind]

    async def work(port: Port) -> None:
        async with LinkClient(client_of(*port.address), Node.head(BUNDLE)) as client:
            for number in range(50):
                tensor = TENSORS[number % 5]
                result = await client.infer(number, [tensor], 8.0)
                assert [bytes(part) for part in result.tensors] == [tensor[::-1]]

    with Port(kind, None).running() as port:
        asyncio.run(asyncio.wait_for(work(port), 20))


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_core_client_and_python_server(kind: str) -> None:
    server_of: Any = {"udp": UdpServer, "tcp": TcpServer}[kind]

    def reverse(request: Request) -> list[bytes]:
        return [bytes(tensor)[::-1] for tensor in request.tensors]

    async def work() -> None:
        async with LinkServer(server_of("127.0.0.1", 0), Node.tail(BUNDLE), reverse) as server:
            with Port(kind, server.address[:2]).running() as port:
                done: list[CoreEvent] = []
                for number in range(50):
                    tensor = TENSORS[number % 5]
                    assert port.infer(number, tensor) == 0
                    while len(done) <= number:
                        await asyncio.sleep(0.001)
                        done = [event for event in port.events if event.type == RESULT]
                    assert done[-1].code == 0
                    assert done[-1].body == plus_one(tensor)[::-1]

    asyncio.run(asyncio.wait_for(work(), 20))
