"""Bytes to packets: whole, in pieces, broken, and of any kind."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.broker import packets
from host.broker.packets import Message, Packet, Parser, ProtocolError, Publish
from tests.host.broker import wire

_TOPIC = st.text(
    st.characters(blacklist_characters="+#\0", blacklist_categories=("Cs",)),
    min_size=1,
    max_size=40,
)


def parsed(data: bytes, cuts: list[int] | None = None, limit: int = 1 << 20) -> list[Packet]:
    """What comes of the bytes, cut into pieces there."""
    parser, found = Parser(limit), []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts or []), len(data)]
    for start, end in itertools.pairwise(places):
        parser.feed(data[start:end])
        while (packet := parser.next()) is not None:
            found.append(packet)
    return found


def outcome(data: bytes, cuts: list[int] | None) -> str:
    try:
        return repr(parsed(data, cuts))
    except ProtocolError as error:
        return str(error)


@given(
    topic=_TOPIC,
    payload=st.binary(max_size=300),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    number=st.integers(1, 0xFFFF),
    cuts=st.lists(st.integers(0, 400), max_size=5),
)
def test_messages_in_pieces(
    topic: str, payload: bytes, qos: int, retain: bool, number: int, cuts: list[int]
) -> None:
    message = Message(topic, payload, qos, retain)
    sent = wire.publish(topic, payload, qos=qos, number=number, retain=retain)
    assert packets.publish(message, number) == sent
    expected = Publish(message, number if qos else 0)
    assert parsed(sent + b"\xc0\x00", cuts) == [expected, packets.Ping()]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_are_packets_or_an_error(data: bytes, cuts: list[int]) -> None:
    assert outcome(data, None) == outcome(data, cuts)


@given(st.binary(max_size=64), st.sampled_from([1, 3, 4, 5, 6, 7, 8, 10, 12, 14]))
def test_any_body_of_a_packet(body: bytes, kind: int) -> None:
    flags = 2 if kind in (6, 8, 10) else 0
    with contextlib.suppress(ProtocolError):
        assert len(parsed(bytes((kind << 4 | flags, len(body))) + body)) == 1


def test_connect() -> None:
    (packet,) = parsed(wire.connect("tail", keepalive_s=7, clean=False, will=("a/b", b"gone")))
    assert packet == packets.Connect(
        "tail", False, 7, Message("a/b", b"gone", 1, True), "tail", b"password of tail"
    )
    assert "password of" not in repr(packet)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (wire.connect(level=5), "level 5"),
        (wire.connect(level=3), "level 3"),
        (b"\x10\x09" + wire.text("HTTP/") + b"\x04\x02", "another protocol"),
        (b"\x10\x0c" + wire.text("MQTT") + b"\x04\x03\0\0\0\0", "flags that make no sense"),
        (b"\x10\x0c" + wire.text("MQTT") + b"\x04\x42\0\0\0\0", "a password and no user"),
        (b"\x10\x0c" + wire.text("MQTT") + b"\x04\x02\0\0\0\1", "shorter than what it holds"),
        (b"\x10\x0d" + wire.text("MQTT") + b"\x04\x02\0\0\0\0\0", "longer than what it holds"),
        (b"\x20\x02\0\0", "type 2, which no client sends"),
        (b"\xc1\x00", "the flags 1"),
        (b"\x40\x02\0\0", "identifier 0"),
        (b"\x30\x80\x80\x80\x80\x01", "more than four bytes"),
        (b"\x30\x80\x80\x41", "1,064,960 bytes; at most 1,048,576"),
        (wire.publish("a/+", b""), "a wildcard"),
        (wire.publish("", b""), "empty"),
        (wire.publish("a" * 600, b""), "over 512 bytes"),
        (wire.publish("a\0b", b""), "null character"),
        (b"\x38\x03\0\1a", "flags that make no sense"),
        (wire.subscribe("a", 3), "QoS over 2"),
        (b"\x82\x02\0\1", "no topic"),
        (b"\x82" + wire.length(2 + 101 * 4) + b"\0\1" + b"\0\1a\0" * 101, "or over 100"),
    ],
)
def test_what_no_client_may_send(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        parsed(data)


def test_a_long_packet_is_refused_by_its_header() -> None:
    parser = Parser(100)
    parser.feed(b"\x30" + wire.length(101))
    with pytest.raises(ProtocolError, match="101 bytes; at most 100"):
        parser.next()
    parser = Parser(100)
    parser.feed(b"\x30" + wire.length(100))
    assert parser.next() is None
    assert parser.held_bytes == 2
