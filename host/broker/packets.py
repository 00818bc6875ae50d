"""MQTT 3.1.1, bytes to packets and back. Every length is checked before it is used."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)

# CONNACK's return codes, table 3.1, and SUBACK's, section 3.9.3.
ACCEPTED, WRONG_VERSION, WRONG_ID, UNAVAILABLE, WRONG_LOGIN, NOT_AUTHORIZED = range(6)
SUBSCRIPTION_REFUSED = 0x80

LONGEST_TOPIC_BYTES = 512  # The standard has 65,535; ours are far shorter.
MOST_FILTERS = 100  # In one SUBSCRIBE or UNSUBSCRIBE.
_LEVEL = 4  # Of the protocol: 3.1.1.
_HEADER_BYTES = 5  # The longest fixed header.

# The lower four bits of the first byte, table 2.2; PUBLISH has flags there.
_FLAGS = {PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}
_FROM_CLIENTS = {
    *(CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP),
    *(SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT),
}


class ProtocolError(Exception):
    """Bytes that no client may send; the connection is over. `code` is for CONNACK, if any."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True)
class Message:
    """What is published: on `topic`, at most with `qos`, to be kept if `retain`."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True)
class Connect:
    client_id: str
    clean: bool
    keepalive_s: int
    will: Message | None
    user: str | None
    password: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Publish:
    message: Message
    packet_id: int  # 0 with QoS 0.


@dataclass(frozen=True)
class Acknowledge:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, by `kind`."""

    kind: int
    packet_id: int


@dataclass(frozen=True)
class Subscribe:
    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True)
class Ping:
    pass


@dataclass(frozen=True)
class Disconnect:
    pass


Packet = Connect | Publish | Acknowledge | Subscribe | Unsubscribe | Ping | Disconnect


class Parser:
    """Bytes as they come to packets, of at most `limit` bytes each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Further bytes."""
        if self._at:
            del self._bytes[: self._at]
            self._at = 0
        self._bytes += data

    @property
    def held_bytes(self) -> int:
        """What has come of packets that were not taken yet."""
        return len(self._bytes) - self._at

    def next(self) -> Packet | None:
        """The next packet, if it is there whole.

        Raises:
            ProtocolError: there will never be one.
        """
        held = self._bytes
        if self.held_bytes < 2:
            return None
        length, shift, at = 0, 0, self._at + 1
        while True:  # Section 2.2.3.
            if at == self._at + _HEADER_BYTES:
                raise ProtocolError("a packet's length has more than four bytes")
            if at == len(held):
                return None
            byte = held[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        first = held[self._at]
        kind, flags = first >> 4, first & 15
        if kind not in _FROM_CLIENTS:
            raise ProtocolError(f"a packet of type {kind}, which no client sends")
        if kind != PUBLISH and flags != _FLAGS.get(kind, 0):
            raise ProtocolError(f"a packet of type {kind} with the flags {flags}")
        if length > self.limit:
            raise ProtocolError(f"a packet of {length:,} bytes; at most {self.limit:,} are taken")
        if len(held) - at < length:
            return None
        body = bytes(memoryview(held)[at : at + length])
        self._at = at + length
        return _decode(kind, flags, _Fields(body))


class _Fields:
    """A packet's fields, in order."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise ProtocolError("a packet that is shorter than what it holds")
        taken = self._body[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        number = self.word()
        if number == 0:
            raise ProtocolError("a packet with the identifier 0")
        return number

    def text(self) -> str:
        try:
            text = self.take(self.word()).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a text that is not UTF-8") from None
        if "\0" in text:
            raise ProtocolError("a text with a null character")
        return text

    def topic(self) -> str:
        text = self.text()
        if not text or len(text.encode()) > LONGEST_TOPIC_BYTES:
            raise ProtocolError(f"a topic that is empty or over {LONGEST_TOPIC_BYTES} bytes")
        return text

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    @property
    def over(self) -> bool:
        return self._at == len(self._body)

    def end(self) -> None:
        if not self.over:
            raise ProtocolError("a packet that is longer than what it holds")


def _decode(kind: int, flags: int, fields: _Fields) -> Packet:
    packet: Packet
    if kind == CONNECT:
        packet = _connect(fields)
    elif kind == PUBLISH:
        packet = _publish(flags, fields)
    elif kind == SUBSCRIBE:
        packet = Subscribe(fields.packet_id(), _filters(fields))
    elif kind == UNSUBSCRIBE:
        number = fields.packet_id()
        topics: list[str] = []
        while not fields.over and len(topics) <= MOST_FILTERS:
            topics.append(fields.topic())
        _count(len(topics))
        packet = Unsubscribe(number, tuple(topics))
    elif kind == PINGREQ:
        packet = Ping()
    elif kind == DISCONNECT:
        packet = Disconnect()
    else:
        packet = Acknowledge(kind, fields.packet_id())
    fields.end()
    return packet


def _connect(fields: _Fields) -> Connect:
    name, level = fields.text(), fields.byte()
    if name not in ("MQTT", "MQIsdp"):
        raise ProtocolError("a CONNECT of another protocol")
    if (name, level) != ("MQTT", _LEVEL):
        raise ProtocolError(
            f"MQTT at level {level}; this broker speaks 3.1.1, level {_LEVEL}", WRONG_VERSION
        )
    flags, keepalive_s = fields.byte(), fields.word()
    has_user, has_password, retain = flags & 0x80, flags & 0x40, bool(flags & 0x20)
    qos, has_will, clean = flags >> 3 & 3, flags & 4, bool(flags & 2)
    if flags & 1 or qos == 3 or (not has_will and (qos or retain)):
        raise ProtocolError("a CONNECT with flags that make no sense")
    if has_password and not has_user:
        raise ProtocolError("a CONNECT with a password and no user")
    client_id = fields.text()
    will = None
    if has_will:
        topic = fields.topic()
        _no_wildcards(topic)
        will = Message(topic, fields.take(fields.word()), qos, retain)
    user = fields.text() if has_user else None
    password = fields.take(fields.word()) if has_password else None
    return Connect(client_id, clean, keepalive_s, will, user, password)


def _publish(flags: int, fields: _Fields) -> Publish:
    qos, repeated = flags >> 1 & 3, flags & 8
    if qos == 3 or (repeated and not qos):
        raise ProtocolError("a PUBLISH with flags that make no sense")
    topic = fields.topic()
    _no_wildcards(topic)
    number = fields.packet_id() if qos else 0
    return Publish(Message(topic, fields.rest(), qos, bool(flags & 1)), number)


def _no_wildcards(topic: str) -> None:
    if "+" in topic or "#" in topic:
        raise ProtocolError("a message for a topic with a wildcard")


def _filters(fields: _Fields) -> tuple[tuple[str, int], ...]:
    wanted: list[tuple[str, int]] = []
    while not fields.over and len(wanted) <= MOST_FILTERS:
        topic, qos = fields.topic(), fields.byte()
        if qos > 2:
            raise ProtocolError("a SUBSCRIBE with a QoS over 2")
        wanted.append((topic, qos))
    _count(len(wanted))
    return tuple(wanted)


def _count(filters: int) -> None:
    if not 1 <= filters <= MOST_FILTERS:
        raise ProtocolError(f"a packet with no topic, or over {MOST_FILTERS}")


def connack(code: int, present: bool = False) -> bytes:
    """`present`: the broker has kept a session (section 3.2.2.2)."""
    return bytes((CONNACK << 4, 2, present and code == ACCEPTED, code))


def acknowledge(kind: int, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK."""
    return struct.pack("!BBH", kind << 4 | _FLAGS.get(kind, 0), 2, packet_id)


def suback(packet_id: int, codes: list[int]) -> bytes:
    """A granted QoS or SUBSCRIPTION_REFUSED for each filter."""
    return bytes((SUBACK << 4, 2 + len(codes))) + struct.pack("!H", packet_id) + bytes(codes)


def publish(message: Message, packet_id: int = 0, *, again: bool = False) -> bytes:
    """`message` with its own QoS; `again`: it may have been delivered before (DUP)."""
    topic = message.topic.encode()
    number = struct.pack("!H", packet_id) if message.qos else b""
    length, encoded = 2 + len(topic) + len(number) + len(message.payload), bytearray()
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    first = PUBLISH << 4 | (again and bool(message.qos)) << 3 | message.qos << 1 | message.retain
    return b"".join(
        (bytes((first,)), encoded, struct.pack("!H", len(topic)), topic, number, message.payload)
    )


PINGRESP_BYTES = bytes((PINGRESP << 4, 0))
