"""What both ends of a BLE link agree on: SPEC.md section 13 as code. Pure.

UUIDs, the advertised service data, the status record, and how frames travel in values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from host.link.errors import MalformedError
from host.link.session import Profile, Role
from host.link.streams import CobsDecoder, cobs_encode
from host.link.transport import TransportError

_BASE: Final = "952b{:04x}-efd6-4248-b390-fbf75d0dc1c3"
SERVICE: Final = _BASE.format(1)
UP: Final = _BASE.format(2)
DOWN: Final = _BASE.format(3)
STATUS: Final = _BASE.format(4)
CONTROL: Final = _BASE.format(5)

MAX_VALUE_BYTES: Final = 512  # Vol 3 Part F 3.2.9, whatever ATT_MTU is.
FRAME_BYTES: Final = 495  # Two LL payloads of 251, less 4 of L2CAP and 3 of ATT.
ATT_HEADER_BYTES: Final = 3
WANTED_ATT_MTU: Final = 517
MIN_ATT_MTU: Final = 23  # Vol 3 Part G 5.2.1.
VALUES_IN_STACK: Final = 8
NAME_BYTES: Final = 8  # Of the name in the advertising data.

INTERVAL_MS: Final = (7.5, 15.0)
SUPERVISION_MS: Final = 2000
DATA_BYTES: Final = 251
DATA_TIME_US: Final = 2120

PROFILE: Final = Profile(mtu=FRAME_BYTES, window=32, reorder=1, rto_min_us=100_000)

_LAYOUT: Final = 1
_SERVICE_DATA: Final = struct.Struct("<BBBB4s3B")
_STATUS: Final = struct.Struct("<BBBB32sHHHHBBHH")
_LONGEST_TEXT: Final = 31


class WrongServiceError(TransportError):
    """The device is no tinysplit board, or speaks another layout."""


def uuid_text(little_endian: bytes) -> str:
    """A 128-bit UUID as it stands in advertisements, as text."""
    text = little_endian[::-1].hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@dataclass(frozen=True)
class Identity:
    """Who a board is: `role` and `stage` as in HELLO, `bundle` 32 bytes or none, its firmware."""

    role: int
    stage: int
    stage_count: int
    bundle: bytes
    version: str
    name: str

    def service_data(self) -> bytes:
        """What is advertised of it (13.2)."""
        numbers = (*version_numbers(self.version), 0, 0, 0)[:3]
        return _SERVICE_DATA.pack(
            _LAYOUT, self.role, self.stage, self.stage_count, self.bundle[:4], *numbers
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """`0.1.0-dev` as (0, 1, 0); what is no number is 0."""
    parts = version.split("-")[0].split("+")[0].split(".")
    return tuple(min(int(p), 255) if p.isascii() and p.isdigit() else 0 for p in parts)


@dataclass(frozen=True)
class Advertised:
    """The service data of a board: the first 4 bytes of its bundle's id, three numbers."""

    role: int
    stage: int
    stage_count: int
    bundle_prefix: bytes
    version: tuple[int, int, int]

    @property
    def role_name(self) -> str:
        return role_name(self.role)


def parse_service_data(data: bytes) -> Advertised | None:
    """What a board advertises; None if these bytes are of another layout."""
    if len(data) < _SERVICE_DATA.size or data[0] != _LAYOUT:
        return None
    _, role, stage, count, prefix, major, minor, patch = _SERVICE_DATA.unpack_from(data)
    return Advertised(role, stage, count, prefix, (major, minor, patch))


def role_name(role: int) -> str:
    """`head`, or the number of a role that has no name yet."""
    try:
        return Role(role).name.lower()
    except ValueError:
        return f"role {role}"


@dataclass(frozen=True)
class Granted:
    """What a connection was granted, as the board sees it; 0: it cannot tell.

    `interval` in units of 1.25 ms, `timeout` of 10 ms; PHYs 1 (LE 1M), 2 (LE 2M) or 3 (coded);
    `*_down` from the board to the central, `*_up` the other way.
    """

    att_mtu: int = 0
    interval: int = 0
    latency: int = 0
    timeout: int = 0
    phy_down: int = 0
    phy_up: int = 0
    data_bytes_down: int = 0
    data_bytes_up: int = 0

    def text(self) -> str:
        """For people: `15 ms interval, LE 2M, 251-byte packets, ATT_MTU 517`."""
        phys = {1: "LE 1M", 2: "LE 2M", 3: "LE Coded"}

        def pair(down: int, up: int, unit: str = "") -> str:
            return f"{down}{unit}" if down == up else f"{down}{unit} down, {up}{unit} up"

        parts = []
        if self.interval:
            parts.append(f"{self.interval * 1.25:g} ms interval")
            parts.append(f"latency {self.latency}")
        if self.phy_down and self.phy_up:
            down, up = phys.get(self.phy_down, "?"), phys.get(self.phy_up, "?")
            parts.append(down if down == up else f"{down} down, {up} up")
        if self.data_bytes_down and self.data_bytes_up:
            parts.append(f"LL payload {pair(self.data_bytes_down, self.data_bytes_up)} B")
        if self.att_mtu:
            how = "one frame a value" if frames_fit(self.att_mtu) else "frames as a stream"
            parts.append(f"ATT_MTU {self.att_mtu} ({how})")
        return ", ".join(parts) or "nothing known"


@dataclass(frozen=True)
class Status:
    """The status record (13.3)."""

    identity: Identity
    granted: Granted = field(default_factory=Granted)

    def encode(self) -> bytes:
        who, got = self.identity, self.granted
        head = _STATUS.pack(
            _LAYOUT, who.role, who.stage, who.stage_count, who.bundle,
            got.att_mtu, got.interval, got.latency, got.timeout, got.phy_down, got.phy_up,
            got.data_bytes_down, got.data_bytes_up,
        )  # fmt: skip
        return head + _text(who.version) + _text(who.name)


def _text(text: str) -> bytes:
    cut = shortened(text, _LONGEST_TEXT)
    return bytes([len(cut)]) + cut


def shortened(text: str, most_bytes: int) -> bytes:
    """As much of `text` as fits, in UTF-8, without cutting a character."""
    return text.encode()[:most_bytes].decode("utf-8", "ignore").encode()


def parse_status(data: bytes) -> Status:
    """The record in a value.

    Raises:
        MalformedError: it is none of this layout.
    """
    if len(data) < _STATUS.size or data[0] != _LAYOUT:
        raise MalformedError(f"the status characteristic holds no record of layout {_LAYOUT}")
    _, role, stage, count, bundle, *granted = _STATUS.unpack_from(data)
    texts, at = [], _STATUS.size
    for _ in range(2):
        if at >= len(data) or at + 1 + data[at] > len(data):
            raise MalformedError("the status record is cut short")
        texts.append(data[at + 1 : at + 1 + data[at]].decode("utf-8", "replace"))
        at += 1 + data[at]
    if 0 < granted[0] < MIN_ATT_MTU:
        raise MalformedError(f"the status record says ATT_MTU {granted[0]}; the least is 23")
    return Status(Identity(role, stage, count, bundle, *texts), Granted(*granted))


def frames_fit(att_mtu: int) -> bool:
    """Whether each value is one frame; otherwise values are pieces of a stream (13.4)."""
    return att_mtu >= FRAME_BYTES + ATT_HEADER_BYTES


class Values:
    """Frames in values of one connection, both ways.

    Theory of operation. With an ATT_MTU of 498 or more a value is a frame. Below, frames go in
    COBS, cut into values; `dropped` counts what was no frame.
    """

    def __init__(self, att_mtu: int) -> None:
        att_mtu = max(att_mtu, MIN_ATT_MTU)
        self.framed = frames_fit(att_mtu)
        self.value_bytes = min(att_mtu - ATT_HEADER_BYTES, MAX_VALUE_BYTES)
        self._decoder = CobsDecoder(FRAME_BYTES)
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped + self._decoder.dropped

    def outgoing(self, frame: bytes) -> list[bytes]:
        """The values that carry a frame of at most FRAME_BYTES."""
        if self.framed:
            return [frame]
        coded = cobs_encode(frame)
        return [coded[i : i + self.value_bytes] for i in range(0, len(coded), self.value_bytes)]

    def incoming(self, value: bytes) -> list[bytes]:
        """The frames that a value completes."""
        if not self.framed:
            return self._decoder.feed(value)
        if 0 < len(value) <= FRAME_BYTES:
            return [value]
        self._dropped += 1
        return []
