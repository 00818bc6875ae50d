"""What a link carries in one piece: the coding of every frame kind (SPEC sections 1 to 4, 7, 8).

Theory of operation. A frame is either HELLO or HELLO_ACK, sealed with a CRC-32 of its own, or
it belongs to a session and ends with a CRC-16 that starts from the session id. A `Seal` holds
what is derived from one session id, so that sealing and checking a frame is one table-driven
CRC call. Coding is pure: values in, bytes out, and back. Decoders never raise: bytes that are
not a well-formed frame of the kind give None, and the caller drops them. Whether a well-formed
frame makes sense now is not decided here.
"""

from __future__ import annotations

import enum
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

MIN_MTU: Final = 128
MAX_MTU: Final = 16384
MAX_WINDOW: Final = 256
MAX_LIVE: Final = 8
MAX_FRAGMENT: Final = 65531
VERSION: Final = 1
DATA_OVERHEAD: Final = 8  # Bytes of a DATA frame that are not payload.
MAGIC: Final = 0x53
HELLO_BYTES: Final = 68
MAX_HELLO_BYTES: Final = 128

ECHO_POLL: Final = 0xFFFE  # An ACK that answers a POLL.
ECHO_NONE: Final = 0xFFFF  # An ACK that answers nothing: a slot came free.
ACK_DELAY_UNIT_US: Final = 16

LAST: Final = 1
ACKREQ: Final = 2
COMPLETE: Final = 1
DUP: Final = 2


class Kind(enum.IntEnum):
    """The high nibble of byte 0."""

    HELLO = 1
    HELLO_ACK = 2
    DATA = 3
    ACK = 4
    POLL = 5
    REJECT = 6
    PING = 7
    PONG = 8
    RESET = 9
    BYE = 10
    FORWARD = 11


_HELLO = Struct("<BBBBIIHHIBBBBHHHH32s")
_DATA = Struct("<BBHH")
_ACK = Struct("<BBHHHHH")
_POLL = Struct("<BBHH")
_REJECT = Struct("<BBHHHI")
_PING = Struct("<BBHIQ")
_PONG = Struct("<BBHIQQQ")
_RESET = Struct("<BBHI")
_U16 = Struct("<H")
_U32 = Struct("<I")
_U64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


def session_id(initiator_nonce: int, acceptor_nonce: int) -> int:
    """CRC32 of the two nonces (SPEC 1.3)."""
    return crc32(_U32.pack(initiator_nonce) + _U32.pack(acceptor_nonce))


class Seal:
    """What a session id contributes to each of its frames."""

    __slots__ = ("seed", "sid", "tag")

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.tag = sid & 0xFF
        self.seed = crc_hqx(_U32.pack(sid), 0xFFFF)

    def close(self, content: bytes) -> bytes:
        """`content` with its CRC16 behind it: a whole frame."""
        return content + _U16.pack(crc_hqx(content, self.seed))

    def holds(self, frame: bytes) -> bool:
        """Whether the frame's last two bytes are its CRC16 in this session. Needs >= 2 bytes."""
        return crc_hqx(memoryview(frame)[:-2], self.seed) == frame[-2] | frame[-1] << 8


NO_SESSION: Final = Seal(0)  # FORWARD is sealed with session id 0.


@dataclass(frozen=True, kw_only=True)
class Hello:
    """HELLO and HELLO_ACK (SPEC section 2), fields in the order and the units of the wire."""

    version_max: int = VERSION
    version_min: int = VERSION
    initiator_nonce: int = 0
    acceptor_nonce: int = 0
    mtu: int = 1452
    window: int = 64
    max_message: int = 1 << 20
    slots: int = 2
    role: int = 0
    stage: int = 255
    stage_count: int = 0
    codecs: int = 1
    ack_delay: int = 10  # 100 us
    idle_timeout: int = 150  # 100 ms
    status: int = 0
    bundle: bytes = bytes(32)
    extensions: bytes = b""

    def encode(self, kind: Kind) -> bytes:
        content = _HELLO.pack(kind << 4, MAGIC, *_hello_values(self)) + self.extensions
        return content + _U32.pack(crc32(content))

    @property
    def frame_limit(self) -> int:
        """The mtu as it counts: more than MAX_MTU is read as MAX_MTU."""
        return min(self.mtu, MAX_MTU)


_HELLO_FIELDS = tuple(field.name for field in fields(Hello) if field.name != "extensions")
_hello_values = attrgetter(*_HELLO_FIELDS)


def decode_hello(frame: bytes, kind: Kind) -> Hello | None:
    """A HELLO or HELLO_ACK whose length, kind byte, magic and CRC32 are right, else None."""
    if not HELLO_BYTES <= len(frame) <= MAX_HELLO_BYTES:
        return None
    if frame[0] != kind << 4 or frame[1] != MAGIC:
        return None
    if crc32(frame[:-4]) != _U32.unpack_from(frame, len(frame) - 4)[0]:
        return None
    values = dict(zip(_HELLO_FIELDS, _HELLO.unpack_from(frame)[2:], strict=True))
    return Hello(**values, extensions=bytes(frame[_HELLO.size : -4]))


def refusal(own: Hello, to: Hello, status: int) -> bytes:
    """The HELLO_ACK that refuses `to`: the acceptor's own fields, no nonce, no codec."""
    return replace(
        own, initiator_nonce=to.initiator_nonce, acceptor_nonce=0, codecs=0, status=status
    ).encode(Kind.HELLO_ACK)


class Data(NamedTuple):
    """One fragment of a message (SPEC section 3). `message` is the low 16 bits of its id."""

    message: int
    fragment: int
    payload: bytes
    last: bool = False
    ack_requested: bool = False
    attempt: int = 0

    def encode(self, seal: Seal) -> bytes:
        flags = (
            (LAST if self.last else 0)
            | (ACKREQ if self.ack_requested else 0)
            | (self.attempt & 3) << 2
        )
        return encode_data(seal, flags, self.message, self.fragment, self.payload)


def encode_data(
    seal: Seal, flags: int, message: int, fragment: int, payload: bytes | memoryview
) -> bytes:
    """A DATA frame. `flags` is the low nibble: LAST, ACKREQ and attempt << 2."""
    head = _DATA.pack(0x30 | flags, seal.tag, message & 0xFFFF, fragment)
    return b"".join((head, payload, _U16.pack(crc_hqx(payload, crc_hqx(head, seal.seed)))))


def unpack_data(frame: bytes) -> tuple[int, int, int, int]:
    """Byte 0, tag, message and fragment of a frame of at least 9 bytes."""
    return _DATA.unpack_from(frame)


class Ack(NamedTuple):
    """What the receiver has of one message (SPEC section 4).

    `have` is the bitmap as a number: bit k says that fragment base + 1 + k is here.
    `delay` is in units of 16 us.
    """

    message: int
    base: int
    echo: int
    attempt: int
    delay: int
    limit: int
    have: int = 0
    complete: bool = False
    dup: bool = False

    def encode(self, seal: Seal) -> bytes:
        flags = (
            (COMPLETE if self.complete else 0) | (DUP if self.dup else 0) | (self.attempt & 3) << 2
        )
        head = _ACK.pack(
            0x40 | flags,
            seal.tag,
            self.message & 0xFFFF,
            self.base,
            self.echo,
            min(self.delay, 0xFFFF),
            self.limit & 0xFFFF,
        )
        if self.have:
            head += self.have.to_bytes((self.have.bit_length() + 7) // 8, "little")
        return seal.close(head)


class Poll(NamedTuple):
    """The question what the receiver has of a message, and what may be sent."""

    message: int
    oldest: int
    seq: int

    def encode(self, seal: Seal) -> bytes:
        return seal.close(
            _POLL.pack(0x50 | self.seq & 3, seal.tag, self.message & 0xFFFF, self.oldest & 0xFFFF)
        )


class Reject(NamedTuple):
    """The receiver will not take a message. `detail` is its max_message for `too_large`."""

    message: int
    code: int
    limit: int
    detail: int = 0

    def encode(self, seal: Seal) -> bytes:
        return seal.close(
            _REJECT.pack(
                0x60, seal.tag, self.message & 0xFFFF, self.code, self.limit & 0xFFFF, self.detail
            )
        )


class Ping(NamedTuple):
    """`t1_us`: the sender's clock at sending."""

    seq: int
    sid: int
    t1_us: int

    def encode(self, seal: Seal) -> bytes:
        return seal.close(
            _PING.pack(0x70, seal.tag, self.seq & 0xFFFF, self.sid, self.t1_us & _U64_MASK)
        )


class Pong(NamedTuple):
    """`t2_us` and `t3_us`: the answering end's clock at the PING's arrival and this departure."""

    seq: int
    sid: int
    t1_us: int
    t2_us: int
    t3_us: int

    def encode(self, seal: Seal) -> bytes:
        return seal.close(
            _PONG.pack(
                0x80,
                seal.tag,
                self.seq,
                self.sid,
                self.t1_us & _U64_MASK,
                self.t2_us & _U64_MASK,
                self.t3_us & _U64_MASK,
            )
        )


class Reset(NamedTuple):
    """The session a PING asked about is not known here."""

    seq: int
    sid: int

    def encode(self, seal: Seal) -> bytes:
        return seal.close(_RESET.pack(0x90, seal.tag, self.seq, self.sid))


class Bye(NamedTuple):
    """The end of a session, with a reason."""

    code: int
    sid: int

    def encode(self, seal: Seal) -> bytes:
        return seal.close(_RESET.pack(0xA0, seal.tag, self.code, self.sid))


SessionFrame = Data | Ack | Poll | Reject | Ping | Pong | Reset | Bye


def _decode_data(frame: bytes) -> Data:
    first, _, message, fragment = _DATA.unpack_from(frame)
    return Data(
        message,
        fragment,
        bytes(frame[6:-2]),
        bool(first & LAST),
        bool(first & ACKREQ),
        first >> 2 & 3,
    )


def _decode_ack(frame: bytes) -> Ack:
    first, _, message, base, echo, delay, limit = _ACK.unpack_from(frame)
    have = int.from_bytes(frame[12:-2], "little")
    return Ack(
        message,
        base,
        echo,
        first >> 2 & 3,
        delay,
        limit,
        have,
        bool(first & COMPLETE),
        bool(first & DUP),
    )


def _decode_poll(frame: bytes) -> Poll:
    first, _, message, oldest = _POLL.unpack_from(frame)
    return Poll(message, oldest, first & 3)


def _decode_reject(frame: bytes) -> Reject:
    _, _, message, code, limit, detail = _REJECT.unpack_from(frame)
    return Reject(message, code, limit, detail)


def _decode_ping(frame: bytes) -> Ping:
    _, _, seq, sid, t1 = _PING.unpack_from(frame)
    return Ping(seq, sid, t1)


def _decode_pong(frame: bytes) -> Pong:
    _, _, seq, sid, t1, t2, t3 = _PONG.unpack_from(frame)
    return Pong(seq, sid, t1, t2, t3)


def _decode_reset(frame: bytes) -> Reset:
    _, _, seq, sid = _RESET.unpack_from(frame)
    return Reset(seq, sid)


def _decode_bye(frame: bytes) -> Bye:
    _, _, code, sid = _RESET.unpack_from(frame)
    return Bye(code, sid)


_Shape = tuple[int, int, int, Callable[[bytes], SessionFrame]]

# kind: shortest frame, longest frame, flag bits that may be set, decoder.
_SHAPES: Final[dict[int, _Shape]] = {
    Kind.DATA: (9, MAX_MTU, 0xF, _decode_data),
    Kind.ACK: (14, 46, 0xF, _decode_ack),
    Kind.POLL: (8, 8, 0x3, _decode_poll),
    Kind.REJECT: (14, 14, 0, _decode_reject),
    Kind.PING: (18, 18, 0, _decode_ping),
    Kind.PONG: (34, 34, 0, _decode_pong),
    Kind.RESET: (10, 10, 0, _decode_reset),
    Kind.BYE: (10, 10, 0, _decode_bye),
}


def _consistent(frame: bytes, seal: Seal) -> bool:
    """Whether the fields of a well-sealed frame are ones that somebody may send."""
    kind = frame[0] >> 4
    if kind == Kind.DATA:
        return (frame[4] | frame[5] << 8) <= MAX_FRAGMENT
    if kind == Kind.REJECT:
        return bool(frame[4] | frame[5])
    if kind >= Kind.PING:
        return bool(_U32.unpack_from(frame, 4)[0] == seal.sid)
    return True


def decode(frame: bytes, seal: Seal) -> SessionFrame | None:
    """The frame, if it is well formed and sealed in this session; else None."""
    if not frame or frame[0] >> 4 not in _SHAPES:
        return None
    shortest, longest, flags, decoder = _SHAPES[frame[0] >> 4]
    if not shortest <= len(frame) <= longest or frame[0] & 0xF & ~flags:
        return None
    if frame[1] != seal.tag or not seal.holds(frame):
        return None
    return decoder(frame) if _consistent(frame, seal) else None


def claimed_session(frame: bytes) -> int | None:
    """The session id a PING names, if the PING is well formed and sealed in it; else None."""
    if len(frame) != 18 or frame[0] != 0x70:
        return None
    sid: int = _U32.unpack_from(frame, 4)[0]
    seal = Seal(sid)
    return sid if frame[1] == seal.tag and seal.holds(frame) else None


def encode_forward(address: bytes, inner: bytes) -> bytes:
    """A frame for or from a radio address, as it travels between a host and a bridge."""
    if not 1 <= len(address) <= 15 or not inner:
        raise ValueError("a FORWARD needs an address of 1 to 15 bytes and a frame")
    return NO_SESSION.close(bytes((0xB0 | len(address),)) + address + inner)


def encode_credit(window: int, count: int) -> bytes:
    """A CREDIT (SPEC 8.1); window 0 is a host's question."""
    body = bytes((Kind.FORWARD << 4, window)) + (count & 0xFFFF).to_bytes(2, "little")
    return NO_SESSION.close(body)


def decode_credit(frame: bytes) -> tuple[int, int] | None:
    """Window and count of a CREDIT; None if it is none."""
    if len(frame) != 6 or frame[0] != Kind.FORWARD << 4 or not NO_SESSION.holds(frame):
        return None
    return frame[1], frame[2] | frame[3] << 8


def decode_forward(frame: bytes) -> tuple[bytes, bytes] | None:
    """Radio address and inner frame of a FORWARD; None if malformed or if it wraps a FORWARD."""
    size = frame[0] & 0xF if frame else 0
    if len(frame) < 4 + size or not size or frame[0] >> 4 != Kind.FORWARD:
        return None
    if not NO_SESSION.holds(frame) or frame[1 + size] >> 4 == Kind.FORWARD:
        return None
    return bytes(frame[1 : 1 + size]), bytes(frame[1 + size : -2])


def extend(low: int, near: int) -> int:
    """The number with these low 16 bits that is nearest to `near` (serial arithmetic).

    Exactly half way counts as below. Can be negative when `near` is small.
    """
    return near + ((low - near + 0x8000 & 0xFFFF) - 0x8000)
