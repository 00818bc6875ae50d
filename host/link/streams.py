"""Frames on links that carry bytes, not datagrams (SPEC section 9).

Theory of operation. TCP and small-MTU BLE put a 16-bit length before each frame; a length the
receiver cannot take means that the two ends no longer agree where frames begin, and there is
no way back: the decoder raises `MalformedError` and the caller closes the stream. Values of a BLE
link with a small MTU use COBS (Cheshire and Baker, 1999): no byte of an encoded frame is zero, one
zero ends it, so a reader that joins late or sees damage is in step again at the next zero. A
serial wire (9.1) has frames, in COBS with a checksum between zeros, and text at once. Decoders are
fed whatever arrived and give back the whole frames in it; they hold at most one frame of state.
"""

from __future__ import annotations

import binascii
import enum
from typing import Final, NamedTuple

from host.link.errors import InvalidError, MalformedError
from host.link.frames import MAX_MTU


def length_prefixed(frame: bytes) -> bytes:
    """The frame with its length, u16, before it."""
    if not 0 < len(frame) <= MAX_MTU:
        raise InvalidError(f"a frame has 1 to {MAX_MTU} bytes, not {len(frame)}")
    return len(frame).to_bytes(2, "little") + frame


class LengthPrefixDecoder:
    """Cuts a byte stream into frames of at most `mtu` bytes."""

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises MalformedError: close the stream."""
        held = self._held + data if self._held else data
        frames = []
        at, end = 0, len(held)
        while end - at >= 2:
            size = held[at] | held[at + 1] << 8
            if size > self._mtu:
                raise MalformedError(
                    f"the stream is out of step: a frame of {size} bytes, at most {self._mtu} fit"
                )
            if end - at - 2 < size:
                break
            if size:
                frames.append(held[at + 2 : at + 2 + size])
            at += 2 + size
        self._held = held[at:]
        return frames


def cobs_encode(frame: bytes) -> bytes:
    """The frame without zeros, and one zero behind it."""
    out = bytearray()
    for piece in bytes(frame).split(b"\0"):
        at = 0
        while len(piece) - at >= 254:
            out.append(255)
            out += piece[at : at + 254]
            at += 254
        out.append(len(piece) - at + 1)
        out += piece[at:]
    out.append(0)
    return bytes(out)


def cobs_decode(coded: bytes) -> bytes | None:
    """The frame inside, without its ending zero; None if these bytes are not COBS."""
    out = bytearray()
    at, end = 0, len(coded)
    while at < end:
        code = coded[at]
        run = coded[at + 1 : at + code]
        if code == 0 or len(run) != code - 1 or 0 in run:
            return None
        out += run
        at += code
        if code != 255 and at < end:
            out.append(0)
    return bytes(out)


class CobsDecoder:
    """Cuts a serial byte stream into frames of at most `mtu` bytes, dropping what does not decode.

    `dropped` counts the pieces between zeros that were not a frame; empty ones do not count.
    """

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self._longest = mtu + mtu // 254 + 2
        self._held = bytearray()
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes."""
        frames = []
        pieces = data.split(b"\0")
        for index, piece in enumerate(pieces):
            if not self._skipping:
                self._held += piece
                if len(self._held) > self._longest:
                    self._skipping = True
                    self._held.clear()
            if index == len(pieces) - 1:
                break
            if self._skipping:
                self.dropped += 1
            elif self._held:
                frame = cobs_decode(bytes(self._held))
                if frame and len(frame) <= self._mtu:
                    frames.append(frame)
                else:
                    self.dropped += 1
            self._held.clear()
            self._skipping = False
        return frames


WIRE_SYNC: Final = b"\0\1\1\1\0"  # The frame of no bytes.
_RESIDUE: Final = 0x1D0F  # CRC16 over a frame and the complement of its CRC16.


class On(enum.Enum):
    """What a serial wire brings."""

    TEXT = enum.auto()
    FRAME = enum.auto()


class Piece(NamedTuple):
    """A frame, or a run of text bytes that need not be whole lines."""

    kind: On
    data: bytes


def wire_encode(frame: bytes) -> bytes:
    """The frame as it travels on a serial wire."""
    check = binascii.crc_hqx(frame, 0xFFFF) ^ 0xFFFF
    return b"\0" + cobs_encode(frame + check.to_bytes(2, "big"))


class WireDecoder:
    """Takes a serial wire apart into frames of at most `mtu` bytes and text (SPEC 9.1).

    `dropped` counts the pieces between zeros that were no frames; they are given as text.
    """

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self._longest = mtu + 2 + (mtu + 2) // 254 + 1
        self._held: bytearray | None = None  # What came since a zero; None: in text.
        self.dropped = 0

    def feed(self, data: bytes) -> list[Piece]:
        """What `data` completes, in order. Text comes at once, a frame when it is whole."""
        found: list[Piece] = []
        at = 0
        while at < len(data):
            end = data.find(0, at)
            if self._held is None:
                stop = len(data) if end < 0 else end
                self._text(found, data[at:stop])
                if end >= 0:
                    self._held = bytearray()
                at = stop + 1
                continue
            room = self._longest + 1 - len(self._held)
            stop = min(len(data) if end < 0 else end, at + room)
            self._held += data[at:stop]
            at = stop
            if len(self._held) > self._longest:
                self._give_up(found)
                self._held = None
            elif at == end:
                self._end(found)
                at += 1
        return found

    def flush(self) -> list[Piece]:
        """What is collected is text after all: too long nothing came for it to become a frame."""
        found: list[Piece] = []
        if self._held:
            self._give_up(found)
            self._held = None
        return found

    def _end(self, found: list[Piece]) -> None:
        """A zero came: what was collected is a frame, or it was text and this zero opens anew."""
        assert self._held is not None
        whole = cobs_decode(bytes(self._held))
        if (
            whole is None
            or not 2 <= len(whole) <= self._mtu + 2
            or binascii.crc_hqx(whole, 0xFFFF) != _RESIDUE
        ):
            self._give_up(found)
            return
        self._held = None
        if len(whole) > 2:
            found.append(Piece(On.FRAME, whole[:-2]))

    def _give_up(self, found: list[Piece]) -> None:
        assert self._held is not None
        if self._held:
            self.dropped += 1
            self._text(found, bytes(self._held))
            self._held.clear()

    @staticmethod
    def _text(found: list[Piece], text: bytes) -> None:
        if text:
            found.append(Piece(On.TEXT, text))
