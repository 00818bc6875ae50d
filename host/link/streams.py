"""Frames on links that carry bytes, not datagrams (SPEC section 9).

Theory of operation. TCP and small-MTU BLE put a 16-bit length before each frame; a length the
receiver cannot take means that the two ends no longer agree where frames begin, and there is
no way back: the decoder raises `MalformedError` and the caller closes the stream. Serial lines
use COBS (Cheshire and Baker, 1999): no byte of an encoded frame is zero, one zero ends it, so a
reader that joins late or sees damage is in step again at the next zero. Decoders are fed
whatever arrived and give back the whole frames in it; they hold at most one frame of state.
"""

from __future__ import annotations

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
