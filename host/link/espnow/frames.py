"""The bytes of ESP-NOW on the air.

An ESP-NOW packet is an IEEE 802.11 action frame with vendor-specific content (ESP-IDF's ESP-NOW
guide, "Frame Format"): MAC header, category 127, OUI 18:fe:34, 4 random bytes, then one vendor
element (version 1, up to 250 bytes of data) or several (version 2, up to 1470), then the FCS. An
encrypted one is protected by CCMP (IEEE 802.11-2016, 12.5.3). Pure: bytes in, values out.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from models.errors import TinysplitError

MAX_DATA: Final = {1: 250, 2: 1470}  # ESP_NOW_MAX_DATA_LEN, ESP_NOW_MAX_DATA_LEN_V2.
KEY_BYTES: Final = 16  # ESP_NOW_KEY_LEN; the PMK has as many.
BROADCAST: Final = b"\xff" * 6
OUI: Final = bytes.fromhex("18fe34")

_MANAGEMENT_ACTION: Final = 0xD0  # 802.11-2016, 9.2.4.1.3: type 0, subtype 13, version 0.
_RETRY: Final = 0x08  # Second byte of Frame Control, 9.2.4.1.
_PROTECTED: Final = 0x40
_HEADER: Final = struct.Struct("<BBH6s6s6sH")
HEADER_BYTES: Final = _HEADER.size  # 24
FCS_BYTES: Final = 4
_CATEGORY: Final = 127  # Vendor-specific, 9.4.1.11.
_ELEMENT: Final = 221  # Vendor-specific, 9.4.2.26.
_TYPE: Final = 4
_ELEMENT_DATA: Final = 250  # ESP_NOW_MAX_IE_DATA_LEN.
_ELEMENT_HEAD: Final = 7
_MORE_DATA: Final = 0x10
_CCMP_HEAD: Final = 8  # 12.5.3.2
_MIC: Final = 8
CCMP_BYTES: Final = _CCMP_HEAD + _MIC
LONGEST_FRAME: Final = HEADER_BYTES + CCMP_BYTES + 8 + 6 * _ELEMENT_HEAD + 1470 + FCS_BYTES


class KeyLengthError(TinysplitError):
    """A PMK or LMK that has not 16 bytes."""


class DataLengthError(TinysplitError):
    """More data than a packet of this version holds, or none."""


@dataclass(frozen=True)
class Packet:
    """An ESP-NOW packet. `duration_us` is what the MAC header reserves for the acknowledgement."""

    destination: bytes
    source: bytes
    data: bytes
    version: int = 1
    sequence: int = 0  # 0..4095
    random: bytes = bytes(4)
    duration_us: int = 0
    retry: bool = False


def frame_bytes(data_bytes: int, *, encrypted: bool = False) -> int:
    """Length of the frame with FCS that carries so much data."""
    elements = max(-(-data_bytes // _ELEMENT_DATA), 1)
    plain = HEADER_BYTES + 8 + elements * _ELEMENT_HEAD + data_bytes + FCS_BYTES
    return plain + (CCMP_BYTES if encrypted else 0)


def temporal_key(pmk: bytes, lmk: bytes) -> bytes:
    """The CCMP key of a pair: the LMK encrypted with the PMK by AES-128 (guide, "Security").

    Raises:
        KeyLengthError: one of them has not 16 bytes.
    """
    check_key("PMK", pmk)
    check_key("LMK", lmk)
    cipher = Cipher(algorithms.AES(pmk), modes.ECB()).encryptor()  # noqa: S305  # One block.
    return cipher.update(lmk) + cipher.finalize()


def check_key(name: str, key: bytes) -> None:
    """Raises KeyLengthError unless the key has 16 bytes. The key is never in the message."""
    if len(key) != KEY_BYTES:
        raise KeyLengthError(f"the {name} has {len(key)} bytes, not {KEY_BYTES}")


def encode(packet: Packet, *, key: bytes | None = None, packet_number: int = 0) -> bytes:
    """The frame on the air, with FCS; protected by CCMP if there is a key.

    Args:
        key: of `temporal_key`.
        packet_number: CCMP's, 48 bits, never used twice with a key.

    Raises:
        DataLengthError: too much data for the version, or none.
    """
    most = MAX_DATA[packet.version]
    if not 0 < len(packet.data) <= most:
        raise DataLengthError(
            f"an ESP-NOW packet of version {packet.version} holds 1 to {most} bytes, "
            f"not {len(packet.data)}"
        )
    header = _HEADER.pack(
        _MANAGEMENT_ACTION,
        (_RETRY if packet.retry else 0) | (_PROTECTED if key is not None else 0),
        packet.duration_us,
        packet.destination,
        packet.source,
        BROADCAST,
        (packet.sequence & 0xFFF) << 4,
    )
    body = bytes([_CATEGORY]) + OUI + packet.random + _elements(packet)
    if key is not None:
        body = _protect(header, body, key, packet_number)
    return with_fcs(header + body)


def _elements(packet: Packet) -> bytes:
    out = bytearray()
    data = packet.data
    for at in range(0, len(data), _ELEMENT_DATA):
        piece = data[at : at + _ELEMENT_DATA]
        more = _MORE_DATA if packet.version > 1 and at + _ELEMENT_DATA < len(data) else 0
        out += bytes([_ELEMENT, 5 + len(piece)]) + OUI + bytes([_TYPE, more | packet.version])
        out += piece
    return bytes(out)


def with_fcs(frame: bytes) -> bytes:
    """The frame and its FCS: CRC-32, least significant byte first (9.2.4.8)."""
    return frame + zlib.crc32(frame).to_bytes(FCS_BYTES, "little")


def fcs_holds(frame: bytes) -> bool:
    """Whether the last four bytes are the FCS of those before."""
    body, fcs = frame[:-FCS_BYTES], frame[-FCS_BYTES:]
    return len(frame) > HEADER_BYTES and zlib.crc32(body).to_bytes(FCS_BYTES, "little") == fcs


def destination(frame: bytes) -> bytes:
    """Address 1 of a frame with a whole header."""
    return frame[4:10]


def source(frame: bytes) -> bytes:
    """Address 2 of a frame with a whole header."""
    return frame[10:16]


def as_retry(frame: bytes) -> bytes:
    """The frame with Retry set, as it goes out again; CCMP does not cover that bit."""
    changed = bytearray(frame[:-FCS_BYTES])
    changed[1] |= _RETRY
    return with_fcs(bytes(changed))


def decode(frame: bytes, *, key: bytes | None = None) -> Packet | None:
    """The packet in a frame; None if it is none, damaged, or cannot be decrypted with this key.

    A frame that is not protected is taken without a look at the key.
    """
    if not fcs_holds(frame):
        return None
    control, flags, duration, to, sender, bssid, sequence = _HEADER.unpack_from(frame)
    if control != _MANAGEMENT_ACTION or flags & ~(_RETRY | _PROTECTED) or bssid != BROADCAST:
        return None
    body = frame[HEADER_BYTES:-FCS_BYTES]
    if flags & _PROTECTED:
        if key is None:
            return None
        opened = _unprotect(frame[:HEADER_BYTES], body, key)
        if opened is None:
            return None
        body = opened
    if len(body) < 8 or body[0] != _CATEGORY or body[1:4] != OUI:
        return None
    packet = Packet(
        to,
        sender,
        b"",
        sequence=sequence >> 4,
        random=body[4:8],
        duration_us=duration,
        retry=bool(flags & _RETRY),
    )
    return _read_elements(packet, body[8:])


def _read_elements(packet: Packet, rest: bytes) -> Packet | None:
    data = bytearray()
    version = 0
    more = True
    while rest:
        if len(rest) < _ELEMENT_HEAD or rest[0] != _ELEMENT or len(rest) < 2 + rest[1]:
            return None
        length, kind, state = rest[1], rest[5], rest[6]
        if length < 5 or rest[2:5] != OUI or kind != _TYPE or not more:
            return None
        found = state & 0x0F
        if found not in MAX_DATA or version not in (0, found):
            return None
        version = found
        more = bool(state & _MORE_DATA)
        data += rest[_ELEMENT_HEAD : 2 + length]
        rest = rest[2 + length :]
    if more or not data or len(data) > MAX_DATA[version]:
        return None
    return replace(packet, data=bytes(data), version=version)


def protected(frame: bytes) -> bool:
    """Whether a frame with a whole header is encrypted."""
    return bool(frame[1] & _PROTECTED)


def packet_number(frame: bytes) -> int:
    """CCMP's packet number of a protected frame (12.5.3.2)."""
    head = frame[HEADER_BYTES : HEADER_BYTES + _CCMP_HEAD]
    return int.from_bytes(bytes([head[0], head[1]]) + head[4:8], "little")


def _nonce(header: bytes, number: int) -> bytes:
    """12.5.3.3.4: flags (management, priority 0), address 2, packet number big-endian."""
    return b"\x10" + header[10:16] + number.to_bytes(6, "big")


def _associated(header: bytes) -> bytes:
    """12.5.3.3.3: Frame Control without Retry, Power Management and More Data; no Duration; of
    Sequence Control only the fragment number."""
    control = bytes([header[0], header[1] & ~0x38 & 0xFF | _PROTECTED])
    return control + header[4:22] + bytes([header[22] & 0x0F, 0])


def _protect(header: bytes, body: bytes, key: bytes, number: int) -> bytes:
    pn = number.to_bytes(6, "little")
    head = bytes([pn[0], pn[1], 0, 0x20]) + pn[2:]  # Ext IV set, key id 0.
    sealed = AESCCM(key, tag_length=_MIC).encrypt(_nonce(header, number), body, _associated(header))
    return head + sealed


def _unprotect(header: bytes, body: bytes, key: bytes) -> bytes | None:
    if len(body) < CCMP_BYTES or body[3] != 0x20:
        return None
    number = int.from_bytes(bytes([body[0], body[1]]) + body[4:8], "little")
    try:
        return AESCCM(key, tag_length=_MIC).decrypt(
            _nonce(header, number), body[_CCMP_HEAD:], _associated(header)
        )
    except InvalidTag:
        return None
