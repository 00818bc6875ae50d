"""A bad network on purpose: a relay in user space that real datagrams and streams pass through.

Theory of operation. `Impairer` decides, from a seed, the direction and the place of a packet in
its flow, what happens to it; it knows no sockets. Each packet takes the same number of draws
from its flow's generator whatever comes of it, so the same seed and the same sequence of packet
sizes give the same decisions, and switching one fault on does not reshuffle the others.
`UdpRelay` and `TcpRelay` are the sockets around it.

Order of faults for a datagram: the queue before the bottleneck (`rate_bps`, bounded; what does
not fit is lost), loss, corruption, duplication, delay and jitter, reordering (held back until
one to three later packets have passed, or 20 ms).

A byte stream cannot lose, duplicate or reorder bytes: TCP below would repair it, and what a
user would see is a stall that this relay would have to invent. Those three are refused for TCP.
Delay, jitter (which keeps order), rate and corruption apply; corruption flips bits in a block of
1,452 bytes of the stream, counted from its start, with the given probability per block.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from host.link.transport import TransportError, transport_error
from models.errors import TinysplitError

QUEUE_BYTES: Final = 64 * 1024
HOLD_S: Final = 0.020
HOLD_PACKETS: Final = 3
BLOCK_BYTES: Final = 1452
MAX_FLIPS: Final = 3
READ_BYTES: Final = 64 * 1024
MAX_FLOWS: Final = 256


class ImpairmentError(TinysplitError):
    """Options of the relay that make no sense."""


@dataclass(frozen=True)
class Impairment:
    """What the relay does, alike in both directions. Shares are probabilities per packet.

    `delay_ms` is one way, `jitter_ms` the most that is added to it, evenly distributed.
    `rate_bps` of 0 means no bottleneck.
    """

    loss: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    duplicate: float = 0.0
    rate_bps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "corrupt", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ImpairmentError(f"--{name} {getattr(self, name)} is not between 0 and 1")
        for name in ("delay_ms", "jitter_ms", "rate_bps"):
            if not 0 <= getattr(self, name) < float("inf"):
                option = name.partition("_")[0]
                raise ImpairmentError(f"--{option} {getattr(self, name)} is not 0 or more")

    def check_air(self, transport: str) -> None:
        """Raise ImpairmentError for what the modelled air of a radio (espnow, ble) has not."""
        if transport == "ble" and self != Impairment(loss=self.loss, seed=self.seed):
            raise ImpairmentError(
                "over BLE only --loss and --seed: the link layer repeats what is lost, keeps the "
                "order and drops what is damaged, and its speed follows from the connection"
            )
        for name in ("delay_ms", "jitter_ms", "reorder", "duplicate", "rate_bps"):
            if transport == "espnow" and getattr(self, name):
                option = name.removesuffix("_ms").removesuffix("_bps")
                raise ImpairmentError(
                    f"--{option} is for UDP and TCP: on ESP-NOW's modelled air there are --loss, "
                    "--corrupt and --espnow-rate"
                )

    def check_stream(self) -> None:
        """Raise ImpairmentError for what a byte stream cannot suffer."""
        for name in ("loss", "reorder", "duplicate"):
            if getattr(self, name):
                raise ImpairmentError(
                    f"--{name} cannot be done to a TCP stream in user space; use --transport udp"
                )


@dataclass
class Tally:
    """What one direction of the relay did, in packets unless it says bytes."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0
    corrupted: int = 0
    duplicated: int = 0
    reordered: int = 0


class Copy(NamedTuple):
    """One copy of a packet on its way. `hold`: later packets that overtake it."""

    data: bytes
    delay_s: float
    hold: int


class Impairer:
    """The decisions for one direction (`forward` or `back`) of one flow."""

    def __init__(self, options: Impairment, direction: str, flow: int = 0) -> None:
        self._options = options
        self._rng = random.Random(f"{options.seed}/{direction}/{flow}")  # noqa: S311
        self._busy_until_s = 0.0
        self.tally = Tally()

    def packet(self, data: bytes, now_s: float) -> list[Copy]:
        """What becomes of a datagram that arrives now: no copy, one or two."""
        options, tally, rng = self._options, self.tally, self._rng
        lost, corrupt, duplicate, reorder, jitter, second = (rng.random() for _ in range(6))
        hold = rng.randint(1, HOLD_PACKETS)
        damage = rng.getrandbits(64)
        tally.packets += 1
        tally.bytes += len(data)
        waited_s = self._queue(len(data), now_s)
        if waited_s is None:
            tally.overflowed += 1
            return []
        if lost < options.loss:
            tally.lost += 1
            return []
        if corrupt < options.corrupt and data:
            tally.corrupted += 1
            data = flip_bits(data, damage)
        held = hold if reorder < options.reorder else 0
        tally.reordered += held > 0
        copies = [Copy(data, waited_s + self._delay_s(jitter), held)]
        if duplicate < options.duplicate:
            tally.duplicated += 1
            copies.append(Copy(data, waited_s + self._delay_s(second), 0))
        return copies

    def chunk_delay_s(self, size: int, now_s: float) -> float:
        """How long a piece of a stream is on its way. The caller keeps the order."""
        self.tally.packets += 1
        self.tally.bytes += size
        waited_s = self._queue(size, now_s, bounded=False) or 0.0
        return waited_s + self._delay_s(self._rng.random())

    def _delay_s(self, jitter: float) -> float:
        return (self._options.delay_ms + jitter * self._options.jitter_ms) / 1000

    def _queue(self, size: int, now_s: float, bounded: bool = True) -> float | None:
        """Seconds until the bottleneck has passed the packet on; None if its queue is full."""
        rate = self._options.rate_bps
        if not rate:
            return 0.0
        backlog_s = max(self._busy_until_s - now_s, 0.0)
        if bounded and backlog_s * rate / 8 + size > max(QUEUE_BYTES, size):
            return None
        self._busy_until_s = now_s + backlog_s + size * 8 / rate
        return self._busy_until_s - now_s


class StreamDamage:
    """Flips bits of a stream by position, so that how it is cut into reads does not matter."""

    def __init__(self, options: Impairment, direction: str, flow: int = 0) -> None:
        self._share = options.corrupt
        self._rng = random.Random(f"{options.seed}/{direction}/{flow}/damage")  # noqa: S311
        self._at = 0
        self._end = 0
        self._flip_at = -1
        self._mask = 0
        self.damaged = 0

    def apply(self, data: bytes) -> bytes:
        """The next bytes of the stream, some of them damaged."""
        if not self._share:
            return data
        out = bytearray(data)
        start = self._at
        self._at += len(data)
        while self._end < self._at or self._flip_at >= start:
            if start <= self._flip_at < self._at:
                out[self._flip_at - start] ^= self._mask
                self._flip_at = -1
            if self._end >= self._at:
                break
            self._next_block()
        return bytes(out)

    def _next_block(self) -> None:
        damaged = self._rng.random() < self._share
        place, bit = self._rng.randrange(BLOCK_BYTES), self._rng.randrange(8)
        if damaged:
            self._flip_at, self._mask = self._end + place, 1 << bit
            self.damaged += 1
        self._end += BLOCK_BYTES


def flip_bits(data: bytes, choice: int) -> bytes:
    """`data` with one to three of its bits flipped, chosen by a 64-bit number."""
    out = bytearray(data)
    count, choice = choice % MAX_FLIPS + 1, choice // MAX_FLIPS
    for _ in range(count):
        bit = choice % (len(data) * 8)
        choice //= len(data) * 8
        out[bit // 8] ^= 1 << bit % 8
    return bytes(out) if out != data else bytes((data[0] ^ 1,)) + data[1:]


class _Lane:
    """One direction of one UDP flow: carries out what the impairer decided."""

    def __init__(self, impairer: Impairer) -> None:
        self.impairer = impairer
        self._held: deque[list[Any]] = deque()  # [packets still to pass, send, data, timer]

    def carry(self, data: bytes, send: Any) -> None:
        loop = asyncio.get_running_loop()
        for copy in self.impairer.packet(data, loop.time()):
            if copy.delay_s > 0:
                loop.call_later(copy.delay_s, self._arrive, copy, send)
            else:
                self._arrive(copy, send)

    def _arrive(self, copy: Copy, send: Any) -> None:
        if copy.hold:
            entry = [copy.hold, send, copy.data, None]
            entry[3] = asyncio.get_running_loop().call_later(HOLD_S, self._let_go, entry)
            self._held.append(entry)
            return
        send(copy.data)
        for entry in list(self._held):
            entry[0] -= 1
            if entry[0] <= 0:
                self._let_go(entry)

    def _let_go(self, entry: list[Any]) -> None:
        if entry in self._held:
            self._held.remove(entry)
            entry[3].cancel()
            entry[1](entry[2])


class _UdpSide(asyncio.DatagramProtocol):
    def __init__(self, received: Any) -> None:
        self._received = received
        self.transport = cast("asyncio.DatagramTransport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """An ICMP refusal: the packet is lost, as it would be on the way."""

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(data)


class _UdpFlow:
    def __init__(self, options: Impairment, number: int) -> None:
        self.forward = _Lane(Impairer(options, "forward", number))
        self.back = _Lane(Impairer(options, "back", number))
        self.upstream: _UdpSide | None = None
        self.waiting: list[bytes] = []


class UdpRelay:
    """Relays datagrams between whoever sends to `address` and one target.

    Each client address is a flow of its own, numbered in order of appearance, with its own
    socket towards the target, so that the target sees as many peers as there are.
    """

    def __init__(
        self,
        target: tuple[str, int],
        options: Impairment,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.address = (host, port)
        self._target = target
        self._options = options
        self._flows: dict[Any, _UdpFlow] = {}
        self._listener: _UdpSide | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> UdpRelay:
        loop = asyncio.get_running_loop()
        try:
            transport, side = await loop.create_datagram_endpoint(
                lambda: _UdpSide(self._from_client), local_addr=self.address
            )
        except OSError as failed:
            host, port = self.address
            raise transport_error(failed, f"relay udp {host} port {port}") from failed
        self._listener = side
        name = transport.get_extra_info("sockname")
        self.address = (name[0], name[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._tasks):
            task.cancel()
        sides = [flow.upstream for flow in self._flows.values()]
        for side in (self._listener, *sides):
            if side is not None:
                side.transport.close()
        await asyncio.sleep(0)

    def tallies(self) -> tuple[Tally, Tally]:
        """What was done towards the target and back, over all flows."""
        flows = self._flows.values()
        return (
            _sum([flow.forward.impairer.tally for flow in flows]),
            _sum([flow.back.impairer.tally for flow in flows]),
        )

    def _from_client(self, data: bytes, client: Any) -> None:
        flow = self._flows.get(client)
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                return
            flow = self._flows[client] = _UdpFlow(self._options, len(self._flows))
            task = asyncio.get_running_loop().create_task(self._connect(flow, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if flow.upstream is None:
            flow.waiting.append(data)
        else:
            flow.forward.carry(data, flow.upstream.send)

    async def _connect(self, flow: _UdpFlow, client: Any) -> None:
        def back(data: bytes, _: Any) -> None:
            flow.back.carry(data, to_client)

        def to_client(data: bytes) -> None:
            listener = self._listener
            if listener is not None and not listener.transport.is_closing():
                listener.transport.sendto(data, client)

        try:
            _, side = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _UdpSide(back), remote_addr=self._target
            )
        except OSError:
            return
        flow.upstream = side
        for data in flow.waiting:
            flow.forward.carry(data, side.send)
        flow.waiting.clear()


class TcpRelay:
    """Relays TCP connections to one target. Raises ImpairmentError for loss and its kin."""

    def __init__(
        self,
        target: tuple[str, int],
        options: Impairment,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        options.check_stream()
        self.address = (host, port)
        self._target = target
        self._options = options
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._impairers: list[tuple[Impairer, Impairer]] = []

    async def __aenter__(self) -> TcpRelay:
        try:
            self._server = await asyncio.start_server(self._serve, *self.address)
        except OSError as failed:
            host, port = self.address
            raise transport_error(failed, f"relay tcp {host} port {port}") from failed
        name = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tallies(self) -> tuple[Tally, Tally]:
        """What was done towards the target and back, over all connections."""
        return (
            _sum([forward.tally for forward, _ in self._impairers]),
            _sum([back.tally for _, back in self._impairers]),
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except (asyncio.CancelledError, OSError, TransportError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = len(self._impairers)
        lanes = tuple(Impairer(self._options, way, flow) for way in ("forward", "back"))
        self._impairers.append((lanes[0], lanes[1]))
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.ensure_future(self._carry(reader, far_writer, lanes[0], "forward", flow)),
            asyncio.ensure_future(self._carry(far_reader, writer, lanes[1], "back", flow)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        impairer: Impairer,
        direction: str,
        flow: int,
    ) -> None:
        """Read, damage, delay, write. A bounded queue keeps the reading at the writing's pace."""
        damage = StreamDamage(self._options, direction, flow)
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(16)
        loop = asyncio.get_running_loop()

        async def write() -> None:
            while True:
                due_s, data = await queue.get()
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        async def read() -> None:
            due_s = 0.0
            while True:
                data = await reader.read(READ_BYTES)
                now_s = loop.time()
                due_s = max(due_s, now_s + impairer.chunk_delay_s(len(data), now_s))
                piece = damage.apply(data)
                impairer.tally.corrupted = damage.damaged
                await queue.put((due_s, piece))
                if not data:
                    return

        tasks = [asyncio.ensure_future(write()), asyncio.ensure_future(read())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Exception):
                await asyncio.gather(*tasks, return_exceptions=True)


def _sum(tallies: list[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        for name, value in vars(tally).items():
            setattr(total, name, getattr(total, name) + value)
    return total
