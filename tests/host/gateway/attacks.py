"""Whoever means harm to a gateway, as programs: each attack runs until its standard input ends.

    python -m tests.host.gateway.attacks KIND HOST UDP_PORT TCP_PORT EXAMPLES [RATE]

EXAMPLES is what the load generator's heads send, so that an attacker knows the bundle as any head
does. It prints `begun`, and one line of JSON in the end: what it did. RATE is a bound, per second,
on what the attack repeats. One process, no threads: it takes a bounded part of the machine, which
it shares with what it attacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.link.driver import LinkClient
from host.link.errors import LinkError
from host.link.events import Address
from host.link.frames import (
    Ack,
    Data,
    Hello,
    Kind,
    Ping,
    Poll,
    Reject,
    Seal,
    decode_hello,
    session_id,
)
from host.link.messages import encode_message, encode_tensors
from host.link.session import Node, Role
from host.link.tcp import TcpClient
from host.link.transport import TransportError
from host.link.udp import UdpClient
from models.errors import TinysplitError

TICK_S = 0.005
ANSWER_S = 0.05  # Other floods use up what a gateway has for HELLOs: no attack waits for that.
SEED = 9
SOCKETS = 3000  # Source ports; a process here may open 20,000 files.
HALF_OPEN = 500
MUTE = 20
IDLE = 100
SLOW = 200
Action = Callable[[int], None]


@dataclass(frozen=True)
class Target:
    """What is attacked, and what any head of it knows."""

    host: str
    udp: int
    tcp: int
    bundle: bytes
    stage: int
    stages: int
    tensors: list[bytes]

    @classmethod
    def read(cls, host: str, udp: int, tcp: int, examples: Path) -> Target:
        data = examples.read_bytes()
        stage, stages, _, count = struct.unpack_from("<4I", data, 32)
        sizes = struct.unpack_from(f"<{count}I", data, 48)
        at, tensors = 48 + 4 * 8 + 4, []
        for size in sizes:
            tensors.append(data[at : at + size])
            at += size
        return cls(host, udp, tcp, data[:32], stage, stages, tensors)

    def hello(self, nonce: int) -> bytes:
        return Hello(
            initiator_nonce=nonce,
            role=Role.HEAD if self.stage == 0 else Role.RELAY,
            stage=self.stage,
            stage_count=self.stages,
            bundle=self.bundle,
        ).encode(Kind.HELLO)

    @property
    def node(self) -> Node:
        return Node.head(self.bundle, self.stages)


class Clock:
    """Whether standard input is still open, and how many times something may be done by now."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._begun = False
        self.done = 0

    def running(self) -> bool:
        """Says `begun` when it is asked first: the attack is under way."""
        if not self._begun:
            self._begun = True
            self._began = time.monotonic()
            print("begun", flush=True)
        return not select.select([0], [], [], 0)[0]

    def due(self) -> int:
        """Never more than 50 ms' worth: who was kept waiting does not make up for it."""
        target = (time.monotonic() - self._began) * self._rate
        behind = target - self.done
        most = max(self._rate * 0.05, 1.0)
        if behind > most:
            self._began += (behind - most) / self._rate
            behind = most
        return int(behind)

    def repeat(self, action: Action) -> None:
        """Do it at the rate until the end."""
        while self.running():
            for _ in range(self.due()):
                action(self.done)
                self.done += 1
            time.sleep(TICK_S)


def udp_sockets(target: Target, count: int) -> list[socket.socket]:
    made = []
    for _ in range(count):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setblocking(False)
        one.connect((target.host, target.udp))
        made.append(one)
    return made


def send(one: socket.socket, data: bytes) -> None:
    """As a sender that does not care."""
    with contextlib.suppress(OSError):
        one.send(data)


def tcp_socket(target: Target, *, blocking: bool = False) -> socket.socket | None:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setblocking(blocking)
    one.settimeout(1.0) if blocking else None
    try:
        one.connect((target.host, target.tcp))
    except BlockingIOError:
        pass
    except OSError:
        one.close()
        return None
    return one


def abort(one: socket.socket) -> None:
    """RST instead of FIN."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def garbage(rng: random.Random) -> bytes:
    """Random bytes; every other one begins as a frame does."""
    data = rng.randbytes(rng.randrange(0, 1453))
    if rng.random() < 0.5 and data:
        data = bytes([rng.randrange(1, 12) << 4 | rng.randrange(4)]) + data[1:]
    return data


def real_frames(target: Target, sid: int) -> list[bytes]:
    """One of each kind, true to a session, and some that announce what cannot be."""
    seal = Seal(sid)
    body = encode_tensors(1, target.tensors, stage=target.stage)
    message = encode_message(sid, 1, 1, body, 1000)
    huge = struct.pack("<BBHIII", 1, 0, 1000, 2, 0xFFFF_FFFF, 0)
    wide = struct.pack("<IBBBB", 3, 8, 0, 0, 0) + struct.pack("<8I", *[0xFFFF_FFFF] * 8)
    return [
        target.hello(0x1234_5678),
        Data(1, 0, message[:1000]).encode(seal),
        Data(2, 0, huge + bytes(1428)).encode(seal),
        Data(2, 65531, bytes(1444), last=True, ack_requested=True).encode(seal),
        Data(3, 0, encode_message(sid, 1, 3, wide, 1000), True, True).encode(seal),
        Data(0xFFFF, 7, bytes(1444)).encode(seal),
        Ack(1, 9, 0xFFFF, 0, 0, 0xFFFF, have=(1 << 256) - 1).encode(seal),
        Poll(0x7FFF, 0x7FFF, 1).encode(seal),
        Reject(1, 10, 0xFFFF, 0).encode(seal),
        Ping(1, sid, 7).encode(seal),
    ]


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """Truncated, lengthened, or with bits flipped; sometimes as it is."""
    choice = rng.randrange(4)
    if choice == 0:
        return frame[: rng.randrange(len(frame) + 1)]
    if choice == 1:
        return frame + rng.randbytes(rng.randrange(1, 60))
    changed = bytearray(frame)
    if choice == 2:
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def udp_garbage(target: Target, clock: Clock) -> dict[str, Any]:
    """Random datagrams from 50 ports."""
    rng = random.Random(SEED)
    pieces = [garbage(rng) for _ in range(512)]
    sockets = udp_sockets(target, 50)
    clock.repeat(lambda n: send(sockets[n % 50], pieces[n * 7 % 512]))
    return {"datagrams": clock.done}


def udp_mutated(target: Target, clock: Clock) -> dict[str, Any]:
    """Real frames spoilt, and real ones of sessions that are this attacker's own, from 50 ports."""
    rng = random.Random(SEED)
    sockets = udp_sockets(target, 50)
    pieces: list[list[bytes]] = []
    for number, one in enumerate(sockets):
        sid = handshake(target, one, number + 1)
        frames = real_frames(target, rng.getrandbits(32) if sid is None else sid)
        pieces.append([mutated(rng, frame) for frame in frames for _ in range(16)])
    clock.repeat(lambda n: send(sockets[n % 50], pieces[n % 50][n // 50 * 7 % len(pieces[0])]))
    return {"datagrams": clock.done}


def handshake(target: Target, one: socket.socket, nonce: int) -> int | None:
    """A session of one's own: its id; None if there was no answer in time."""
    send(one, target.hello(nonce))
    if not select.select([one], [], [], ANSWER_S)[0]:
        return None
    try:
        ack = decode_hello(one.recv(2048), Kind.HELLO_ACK)
    except OSError:
        return None
    if ack is None or ack.status:
        return None
    sid = session_id(nonce, ack.acceptor_nonce)
    send(one, Ping(1, sid, 1).encode(Seal(sid)))
    return sid


def hello_flood(target: Target, clock: Clock) -> dict[str, Any]:
    """The same HELLO, replayed from thousands of ports."""
    sockets = udp_sockets(target, SOCKETS)
    frame = target.hello(0x0BAD_CAFE)
    clock.repeat(lambda n: send(sockets[n % SOCKETS], frame))
    return {"hellos": clock.done, "ports": SOCKETS}


def session_flood(target: Target, clock: Clock) -> dict[str, Any]:
    """Sessions opened in full from ever new ports, and left."""
    opened = 0

    def one(number: int) -> None:
        nonlocal opened
        (own,) = udp_sockets(target, 1)
        opened += handshake(target, own, number + 1) is not None
        own.close()

    clock.repeat(one)
    return {"tried": clock.done, "opened": opened}


def half_open(target: Target, clock: Clock) -> dict[str, Any]:
    """Connections that say nothing, or half of a length, and stay."""
    held = []
    for number in range(HALF_OPEN):
        one = tcp_socket(target, blocking=True)
        if one is None:
            continue
        if number % 2:
            send(one, b"\x44")
        held.append(one)
    while clock.running():
        time.sleep(TICK_S)
    closed = 0
    for one in held:
        one.setblocking(False)
        try:
            closed += one.recv(1) == b""
        except OSError as error:
            closed += not isinstance(error, BlockingIOError)
    return {"connections": len(held), "closed_by_the_gateway": closed}


def slow_loris(target: Target, clock: Clock) -> dict[str, Any]:
    """Connections that give one byte of a HELLO at a time."""
    frame = target.hello(0x51_0000)
    stream = (struct.pack("<H", len(frame)) + frame) * 50
    held = [one for one in (tcp_socket(target, blocking=True) for _ in range(SLOW)) if one]
    for one in held:
        one.setblocking(False)
    clock.repeat(lambda n: send(held[n % len(held)], stream[n // len(held) % len(stream) :][:1]))
    return {"connections": len(held), "bytes": clock.done}


def tcp_garbage(target: Target, clock: Clock) -> dict[str, Any]:
    """Streams of random bytes, and huge lengths; a new connection when one is closed."""
    rng = random.Random(SEED)
    pieces = [
        b"\xff\xff" + garbage(rng),
        b"\x00\x40" + rng.randbytes(0x4000),
        *(garbage(rng) for _ in range(30)),
    ]
    frames = real_frames(target, 1)
    pieces += [struct.pack("<H", len(f)) + mutated(rng, f) for f in frames for _ in range(3)]
    held: list[socket.socket | None] = [None] * 20
    connects = 0

    def one(number: int) -> None:
        nonlocal connects
        at = number % len(held)
        own = held[at]
        if own is None:
            connects += 1
            held[at] = tcp_socket(target)
            return
        try:
            own.send(rng.choice(pieces))
        except BlockingIOError:
            pass
        except OSError:
            own.close()
            held[at] = None

    clock.repeat(one)
    return {"pieces": clock.done, "connects": connects}


def tcp_connects(target: Target, clock: Clock) -> dict[str, Any]:
    """Connections opened and reset, RATE a second."""
    held: list[socket.socket] = []
    refused = 0

    def one(_number: int) -> None:
        nonlocal refused
        own = tcp_socket(target)
        if own is None:
            refused += 1
        else:
            held.append(own)
        if len(held) > 200:
            abort(held.pop(0))

    clock.repeat(one)
    return {"connects": clock.done, "refused": refused}


def tcp_resets(target: Target, clock: Clock) -> dict[str, Any]:
    """Heads over TCP that reset in the middle of a boundary."""
    sessions = 0

    def one(number: int) -> None:
        nonlocal sessions
        own = tcp_socket(target, blocking=True)
        if own is None:
            return
        frame = target.hello(number + 1)
        send(own, struct.pack("<H", len(frame)) + frame)
        try:
            size = struct.unpack("<H", own.recv(2, socket.MSG_WAITALL))[0]
            ack = decode_hello(own.recv(size, socket.MSG_WAITALL), Kind.HELLO_ACK)
        except (OSError, struct.error):
            ack = None
        if ack is not None and not ack.status:
            sessions += 1
            sid = session_id(number + 1, ack.acceptor_nonce)
            message = encode_message(
                sid, 1, 1, encode_tensors(1, target.tensors, stage=target.stage), 1000
            )
            whole = Data(1, 0, message, True, True).encode(Seal(sid))
            cut = len(whole) if number % 3 == 0 else number % len(whole)
            send(own, struct.pack("<H", len(whole)) + whole[:cut])
        abort(own)

    clock.repeat(one)
    return {"connects": clock.done, "sessions": sessions}


class Mute(UdpClient):
    """A head's link that never lets an acknowledgement out."""

    def send(self, frame: bytes, peer: Address) -> bool:
        return True if frame[0] >> 4 == Kind.ACK else super().send(frame, peer)


async def _clients(
    target: Target, clock: Clock, links: list[LinkClient], work: Callable[[LinkClient, int], Any]
) -> int:
    """Has each of them at work until the end; how many came up."""
    up = 0

    async def session(client: LinkClient) -> None:
        nonlocal up
        async with client as opened:
            up += 1
            for number in itertools.count(1):
                with contextlib.suppress(LinkError, TransportError):
                    await work(opened, number)
                await asyncio.sleep(0)

    async def one(client: LinkClient) -> None:
        while True:
            with contextlib.suppress(TinysplitError):
                await session(client)
            await asyncio.sleep(0.5)

    tasks = [asyncio.get_running_loop().create_task(one(link)) for link in links]
    while clock.running():
        await asyncio.sleep(TICK_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return up


def never_acknowledges(target: Target, clock: Clock) -> dict[str, Any]:
    """Heads that ask on and on, and acknowledge no result."""
    asked = 0

    async def work(client: LinkClient, number: int) -> None:
        nonlocal asked
        asked += 1
        await client.infer(number, target.tensors, 1.0)

    async def run() -> int:
        links = [LinkClient(Mute(target.host, target.udp), target.node) for _ in range(MUTE)]
        return await _clients(target, clock, links, work)

    return {"heads": asyncio.run(run()), "asked": asked}


def never_sends(target: Target, clock: Clock) -> dict[str, Any]:
    """Heads that open sessions, keep them, and ask nothing."""

    async def work(_client: LinkClient, _number: int) -> None:
        await asyncio.sleep(1)

    async def run() -> int:
        kinds = [UdpClient(target.host, target.udp) for _ in range(IDLE // 2)]
        streams = [TcpClient(target.host, target.tcp) for _ in range(IDLE // 2)]
        links = [LinkClient(one, target.node) for one in (*kinds, *streams)]
        return await _clients(target, clock, links, work)

    return {"heads": asyncio.run(run())}


# Attack, and how often a second it does what it repeats, unless told otherwise.
ATTACKS: dict[str, tuple[Callable[[Target, Clock], dict[str, Any]], float]] = {
    "udp_garbage": (udp_garbage, 10_000),
    "udp_mutated": (udp_mutated, 5_000),
    "hello_flood": (hello_flood, 3_000),
    "session_flood": (session_flood, 100),
    "tcp_garbage": (tcp_garbage, 2_000),
    "tcp_connects": (tcp_connects, 1_000),
    "tcp_resets": (tcp_resets, 100),
    "half_open": (half_open, 1),
    "slow_loris": (slow_loris, 2_000),
    "never_acknowledges": (never_acknowledges, 1),
    "never_sends": (never_sends, 1),
}


def main() -> None:
    if len(sys.argv) not in (6, 7) or sys.argv[1] not in ATTACKS:
        raise SystemExit(f"usage: attacks {'|'.join(ATTACKS)} HOST UDP TCP EXAMPLES [RATE]")
    attack, rate = ATTACKS[sys.argv[1]]
    target = Target.read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    clock = Clock(float(sys.argv[6]) if len(sys.argv) == 7 else rate)
    began = os.times()
    told = attack(target, clock)
    ended = os.times()
    told["cpu_s"] = round(ended.user + ended.system - began.user - began.system, 3)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
