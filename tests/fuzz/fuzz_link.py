"""A fuzz target for the receiving side of host/link: any bytes, in and out of a session.

    python tests/fuzz/fuzz_link.py [seconds] [seed]     random inputs, no other package needed
    python tests/fuzz/fuzz_link.py --atheris [options]  coverage-guided, with `atheris` installed
                                                        (pip install atheris: 3.0 has wheels for
                                                        CPython 3.11 on x86-64 Linux)

The input is a script: pairs of a pause and a frame. The first byte of a frame chooses how much
help it gets: sealed for the session (so that it is not simply dropped), opened like a HELLO, or
as it is. Nothing may raise, answer without bound or hold more than its slots. Ten minutes under
atheris 3.0.0 (-max_total_time=600 -max_len=4096, 278,917 scripts) had no finding.
"""

from __future__ import annotations

import random
import sys
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from host.link.endpoint import Acceptor, Endpoint, Initiator
from host.link.frames import Seal, session_id
from host.link.messages import encode_message
from host.link.session import Node
from host.link.streams import CobsDecoder, On, WireDecoder, wire_encode

NONCES = (0x11223344, 0xA1B2C3D4)
SEAL = Seal(session_id(*NONCES))
BUNDLE = bytes(range(32))


def opened() -> tuple[Initiator, Acceptor]:
    """Two ends with a session that is up."""
    head = Initiator(Node.head(BUNDLE), peer="tail", nonce=lambda: NONCES[0], reconnect=False)
    tail = Acceptor(Node.tail(BUNDLE), accept={3, 4, 200}, nonce=lambda: NONCES[1])
    head.connect(0)
    head.send_tensor(1, [bytes(3000)], 0)
    for _ in range(3):
        for _, frame in head.poll(0).frames:
            tail.receive(frame, "head", 0)
        for _, frame in tail.poll(0).frames[:1]:
            head.receive(frame, "tail", 0)
    return head, tail


def helped(data: bytes) -> bytes:
    """The frame that the input asks for."""
    how, body = data[0], data[1:]
    if how < 64:
        return body
    if how < 72:
        head = bytes((0x10, 0x53)) + body[:120]
        return head + zlib.crc32(head).to_bytes(4, "little")
    if how < 112 and len(body) >= 4:
        message = encode_message(SEAL.sid, body[0], body[1], body[3:], body[2])
        return SEAL.close(bytes((0x31, SEAL.tag, body[1], 0, 0, 0)) + message)
    return SEAL.close(body[:1] + bytes((SEAL.tag,)) + body[1:])


def one_input(data: bytes) -> None:
    """Run one script."""
    decoder = CobsDecoder(1452)
    decoder.feed(data)
    wire = WireDecoder(100)
    for piece in wire.feed(data) + wire.feed(b"\0" + wire_encode(data[:100] or b"x")):
        assert b"\0" not in piece.data if piece.kind is On.TEXT else len(piece.data) <= 100
    assert piece == (On.FRAME, data[:100] or b"x")
    head, tail = opened()
    ends: tuple[tuple[Endpoint, str], ...] = ((head, "tail"), (tail, "head"))
    now, at = 0, 0
    while len(data) - at >= 4:
        now += data[at] * data[at] * 100
        size = data[at + 1]
        piece = data[at + 2 : at + 3 + size]
        at += 3 + size
        frame = helped(piece)
        for end, peer in ends:
            end.receive(frame, peer, now)
            output = end.poll(now)
            assert len(output.frames) < 300
    session = tail._session("head")
    assert session is None or session.receiver.busy_slots <= tail.profile.slots


def at_random(seconds: float, seed: int) -> int:
    """Random scripts until the time is over; how many."""
    rng = random.Random(seed)
    end, count = time.monotonic() + seconds, 0
    kinds = bytes((0x30, 0x31, 0x33, 0x40, 0x41, 0x50, 0x60, 0x70, 0x80, 0x90, 0xA0, 0x10))
    while time.monotonic() < end:
        script = bytearray()
        for _ in range(rng.randrange(30)):
            body = bytearray(rng.randbytes(rng.choice((6, 8, 12, 16, 32, 120))))
            body[0] = rng.choice(kinds)
            for index in range(1, min(len(body), 12)):
                body[index] = rng.choice((0, 0, 0, 1, 2, 3, 0xFE, 0xFF, body[index]))
            piece = bytes((rng.randrange(256),)) + body
            script += bytes((rng.randrange(256), len(piece) - 1)) + piece
        one_input(bytes(script))
        count += 1
    return count


def main() -> None:
    if "--atheris" in sys.argv:
        import atheris

        sys.argv.remove("--atheris")
        atheris.instrument_all()
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.stdout.write(f"{at_random(seconds, seed)} scripts, seed {seed}: no finding\n")


if __name__ == "__main__":
    main()
