"""Damage: no single bit, of any frame kind, gets through unnoticed."""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_spec import SID, examples
from simulation import BUNDLE

from host.link import frames, messages
from host.link.endpoint import Acceptor, Initiator
from host.link.errors import LinkError
from host.link.frames import Kind, Seal
from host.link.session import Node
from host.link.streams import CobsDecoder, LengthPrefixDecoder, cobs_decode, cobs_encode

EXAMPLES = examples()
SEAL = Seal(SID)
SESSION = [
    "data_single",
    "ack_complete",
    "ack_gap",
    "poll",
    "reject",
    "ping",
    "pong",
    "reset",
    "bye",
]
LONG = frames.Data(1, 0, random.Random(1).randbytes(1444)).encode(SEAL)


def flipped(frame: bytes) -> list[bytes]:
    out = []
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        out.append(bytes(damaged))
    return out


@pytest.mark.parametrize("name", [*SESSION, "long"])
def test_every_single_bit_of_a_session_frame(name: str) -> None:
    frame = LONG if name == "long" else EXAMPLES[name]
    assert frames.decode(frame, SEAL) is not None
    for damaged in flipped(frame):
        assert frames.decode(damaged, SEAL) is None
        assert frames.claimed_session(damaged) is None
        assert frames.decode_hello(damaged, Kind.HELLO) is None


@pytest.mark.parametrize("name", ["hello", "hello_ack", "hello_ack_refused"])
def test_every_single_bit_of_the_opening(name: str) -> None:
    for damaged in flipped(EXAMPLES[name]):
        assert frames.decode_hello(damaged, Kind.HELLO) is None
        assert frames.decode_hello(damaged, Kind.HELLO_ACK) is None
        assert frames.decode(damaged, SEAL) is None


def test_every_single_bit_of_forward() -> None:
    for damaged in flipped(EXAMPLES["forward"]):
        assert frames.decode_forward(damaged) is None


def test_every_single_bit_of_a_message() -> None:
    for damaged in flipped(EXAMPLES["tensor_message"]):
        envelope = messages.decode_envelope(damaged)
        assert messages.message_crc(SID, damaged) != envelope.crc


@pytest.mark.parametrize("name", SESSION)
def test_every_truncation(name: str) -> None:
    for size in range(len(EXAMPLES[name])):
        assert frames.decode(EXAMPLES[name][:size], SEAL) is None


@given(st.binary(max_size=200))
def test_decoders_take_any_bytes(data: bytes) -> None:
    frames.decode(data, SEAL)
    frames.decode_hello(data, Kind.HELLO)
    frames.decode_forward(data)
    frames.claimed_session(data)
    for decode in (
        messages.decode_tensors,
        messages.decode_results,
        messages.decode_blob,
        messages.decode_failure,
        messages.decode_control,
    ):
        with contextlib.suppress(LinkError):
            decode(data)


@given(st.binary(min_size=1, max_size=900), st.integers(1, 50))
def test_cobs_there_and_back(frame: bytes, step: int) -> None:
    coded = cobs_encode(frame)
    assert coded.index(0) == len(coded) - 1
    assert cobs_decode(coded[:-1]) == frame
    decoder = CobsDecoder(1000)
    parts = [coded[at : at + step] for at in range(0, len(coded), step)]
    assert [f for part in parts for f in decoder.feed(part)] == [frame]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_stream_decoders_take_any_bytes_and_hold_little(parts: list[bytes]) -> None:
    cobs, prefix = CobsDecoder(128), LengthPrefixDecoder(128)
    for part in parts:
        assert all(0 < len(frame) <= 128 for frame in cobs.feed(part))
        assert len(cobs._held) <= 131
        try:
            assert all(0 < len(frame) <= 128 for frame in prefix.feed(part))
        except LinkError:
            prefix = LengthPrefixDecoder(128)
        assert len(prefix._held) <= 130


FRAMES = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(0, 255), st.binary(max_size=180)).map(
        lambda t: SEAL.close(bytes((t[0], SEAL.tag)) + t[1])
    ),
    st.builds(
        lambda *f: frames.Data(*f).encode(SEAL),
        st.integers(0, 12),
        st.integers(0, 0xFFFF),
        st.one_of(
            st.binary(min_size=1, max_size=120),
            st.builds(
                lambda kind, number, body: messages.encode_message(SID, kind, number, body),
                st.integers(0, 255),
                st.integers(0, 12),
                st.binary(max_size=104),
            ),
        ),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.builds(
        lambda *f: frames.Ack(*f).encode(SEAL),
        *[st.integers(0, 12)] * 2,
        st.one_of(st.integers(0, 12), st.sampled_from([0xFFFE, 0xFFFF])),
        st.integers(0, 3),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.integers(0, (1 << 256) - 1),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda *f: frames.Poll(*f).encode(SEAL),
        *[st.one_of(st.integers(0, 12), st.integers(0, 0xFFFF))] * 2,
        st.integers(0, 3),
    ),
    st.builds(
        lambda *f: frames.Reject(*f).encode(SEAL),
        st.integers(0, 12),
        st.integers(1, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF_FFFF),
    ),
    st.builds(
        lambda seq, t1: frames.Ping(seq, SID, t1).encode(SEAL),
        st.integers(0, 3),
        st.integers(0, 1 << 63),
    ),
    st.builds(
        lambda *f: frames.Pong(f[0], SID, *f[1:]).encode(SEAL),
        st.integers(0, 3),
        *[st.integers(0, (1 << 64) - 1)] * 3,
    ),
    st.sampled_from(list(EXAMPLES.values())),
)


def nonce_of(value: int) -> int:
    return value


@settings(max_examples=300)
@given(st.lists(st.tuples(FRAMES, st.integers(0, 3_000_000)), max_size=40))
def test_a_receiver_in_a_session_survives_anything_well_sealed(
    script: list[tuple[bytes, int]],
) -> None:
    head = Initiator(
        Node.head(BUNDLE), peer="tail", nonce=lambda: nonce_of(0x11223344), reconnect=False
    )
    tail = Acceptor(Node.tail(BUNDLE), accept={3, 4, 200}, nonce=lambda: nonce_of(0xA1B2C3D4))
    now = 0
    head.connect(now)
    head.send_tensor(1, [bytes(3000)], now)
    for _ in range(3):
        for _, frame in head.poll(now).frames:
            tail.receive(frame, "head", now)
        for _, frame in tail.poll(now).frames[:1]:
            head.receive(frame, "tail", now)
    assert tail.peers == ["head"]
    for frame, pause in script:
        now += pause
        for end, peer in ((head, "tail"), (tail, "head")):
            end.receive(frame, peer, now)
            output = end.poll(now)
            assert len(output.frames) < 200
            assert output.deadline_us is None or output.deadline_us > now - 1
    session = tail._session("head")
    if session is not None:
        assert session.receiver.busy_slots <= tail.profile.slots
