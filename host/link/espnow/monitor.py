"""ESP-NOW on a real card: frames through a monitor interface of Linux, with radiotap headers.

Theory of operation. What is written to a packet socket on a monitor interface goes on the air; what
the card hears is read from it, and so is a copy of every frame sent, whose header says whether it
was acknowledged (net/mac80211/status.c). A copy is told from others by its destination and body:
mac80211 writes sequence number and duration itself, and the body has 4 random bytes.

The card acknowledges only frames to its own address, so it needs an interface that has it:

    iw dev wlan0 set type ocb
    ip link set wlan0 up
    iw dev wlan0 ocb join 2412 20MHz               (channel 1)
    iw dev wlan0 interface add mon0 type monitor
    ip link set mon0 mtu 2304 up
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.link.espnow import frames
from host.link.transport import NotAllowedError, TransportError, UnreachableError
from partitioner.cost.wifi import Rate, RateError

SCHEME: Final = "monitor://"
STATUS_TIMEOUT_S: Final = 1.0  # A driver that never says what became of a frame counts as no.
_ETH_P_ALL: Final = 0x0003  # <linux/if_ether.h>
_ARPHRD_RADIOTAP: Final = "803"  # <linux/if_arp.h>, ARPHRD_IEEE80211_RADIOTAP
_IFF_UP: Final = 1
_ACTION: Final = 0xD0
_LONGEST_PACKET: Final = 65536
_MOST_AT_ONCE: Final = 64
_NET: Final = Path("/sys/class/net")
_TX_HEADER: Final = struct.Struct("<BBHIB")  # Version, padding, length, fields present, rate.

# Radiotap (radiotap.org, "Defined Fields"): size and alignment of fields 0 to 17.
_FIELDS: Final = (
    (8, 8), (1, 1), (1, 1), (4, 2), (2, 2), (1, 1), (1, 1), (2, 2), (2, 2),
    (2, 2), (1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 2), (1, 1), (1, 1),
)  # fmt: skip
_FLAGS, _RATE, _TX_FLAGS, _DATA_RETRIES = 1, 2, 15, 17
_FLAG_FCS, _FLAG_BAD_FCS = 0x10, 0x40
_TX_FAIL: Final = 0x0001
_MORE_WORDS: Final = 1 << 31


@dataclass(frozen=True)
class Heard:
    """A packet from a monitor interface: the frame with FCS; for a copy of a frame sent here,
    whether it was acknowledged and how often it went out."""

    frame: bytes
    is_copy: bool
    acknowledged: bool = False
    attempts: int = 0


def with_header(frame: bytes, rate: Rate) -> bytes:
    """What to write to send a frame at a rate; the card makes the FCS itself.

    Raises:
        RateError: as `check_rate`.
    """
    check_rate(rate)
    header = _TX_HEADER.pack(0, 0, _TX_HEADER.size, 1 << _RATE, rate.bps // 500_000)
    return header + frame[: -frames.FCS_BYTES]


def check_rate(rate: Rate) -> None:
    """Raises RateError for Espressif's long range, which no other card has."""
    if rate.bps < 1_000_000:
        raise RateError(f"{rate.text} is for Espressif's chips alone; choose 1M or more")


def parse(packet: bytes) -> Heard | None:
    """What was read from a monitor interface; None if it is damaged or no radiotap packet."""
    if len(packet) < 8 or packet[0] != 0:
        return None
    length = int.from_bytes(packet[2:4], "little")
    fields = _fields(packet[:length]) if 8 <= length <= len(packet) else None
    if fields is None:
        return None
    flags = fields.get(_FLAGS, 0)
    if flags & _FLAG_BAD_FCS:
        return None
    frame = packet[length:]
    if not flags & _FLAG_FCS:
        frame = frames.with_fcs(frame)
    if len(frame) < frames.HEADER_BYTES + frames.FCS_BYTES:
        return None
    if _TX_FLAGS not in fields:
        return Heard(frame, is_copy=False)
    acknowledged = not fields[_TX_FLAGS] & _TX_FAIL
    return Heard(frame, True, acknowledged, fields.get(_DATA_RETRIES, 0) + 1)


def _fields(header: bytes) -> dict[int, int] | None:
    """The known fields of a radiotap header by their numbers; None if it is cut short."""
    present = int.from_bytes(header[4:8], "little")
    at, word = 8, present
    while word & _MORE_WORDS:
        if at + 4 > len(header):
            return None
        word = int.from_bytes(header[at : at + 4], "little")
        at += 4
    found = {}
    for number, (size, alignment) in enumerate(_FIELDS):
        if not present & 1 << number:
            continue
        at += -at % alignment
        if at + size > len(header):
            return None
        found[number] = int.from_bytes(header[at : at + size], "little")
        at += size
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _check(name: str, mac: bytes) -> None:
    """Raises TransportError unless `name` is a monitor interface of a card with that address."""
    if not name or "/" in name or not (_NET / name).exists():
        raise UnreachableError(f"there is no network interface {name!r}")
    if _read(_NET / name / "type") != _ARPHRD_RADIOTAP:
        raise UnreachableError(
            f"{name} is not in monitor mode: iw dev {name} interface add mon0 type monitor"
        )
    longest = _TX_HEADER.size + frames.LONGEST_FRAME - frames.FCS_BYTES
    if int(_read(_NET / name / "mtu") or "0") < longest:
        raise UnreachableError(
            f"{name} takes too short frames for ESP-NOW: ip link set {name} mtu 2304"
        )
    card = _read(_NET / name / "phy80211/name")
    own = []
    for other in sorted(_NET.iterdir()):
        flags = int(_read(other / "flags") or "0", 0)
        if _read(other / "phy80211/name") == card and flags & _IFF_UP and other.name != name:
            own.append(_read(other / "address"))
    if mac.hex(":") not in own:
        has = f"interfaces that are up have {', '.join(own)}" if own else "no interface is up"
        raise UnreachableError(
            f"the card of {name} acknowledges nothing sent to {mac.hex(':')}: {has}"
        )


class MonitorStation:
    """A radio's monitor interface; the same calls as ether.Station.

    Args:
        received: called with every ESP-NOW frame for this station or for all.
        sent: called with token, acknowledged, attempts and microseconds of every `submit`.
        lost: called with a TransportError when the interface goes away; not after `close`.
    """

    def __init__(
        self,
        received: Callable[[bytes], None],
        sent: Callable[[int, bool, int, int], None],
        lost: Callable[[TransportError], None],
    ) -> None:
        self._received = received
        self._sent = sent
        self._lost = lost
        self._name = ""
        self._mac = bytes(6)
        self._socket: socket.socket | None = None
        self._waiting: dict[bytes, tuple[int, float, asyncio.TimerHandle]] = {}

    async def join(self, place: str, mac: bytes, channel: int) -> None:
        """Listen on the interface in `place`, `monitor://mon0`, which is on its channel already.

        Raises:
            TransportError: no such interface, not in monitor mode, down, or not permitted.
        """
        self._name, self._mac = place.removeprefix(SCHEME), mac
        if sys.platform != "linux":
            raise UnreachableError("cards in monitor mode are for Linux only")
        _check(self._name, mac)
        try:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        except PermissionError as error:
            raise NotAllowedError(
                f"{self._name} needs the right to use raw sockets (CAP_NET_RAW): run it as root"
            ) from error
        try:
            raw.setblocking(False)
            raw.bind((self._name, 0))
        except OSError as error:
            raw.close()
            raise self._error(error) from error
        self._socket = raw
        asyncio.get_running_loop().add_reader(raw.fileno(), self._readable)

    def _error(self, error: OSError) -> TransportError:
        if error.errno == errno.ENETDOWN:
            return UnreachableError(f"{self._name} is down: ip link set {self._name} up")
        return UnreachableError(f"{self._name} failed: {error.strerror}")

    def submit(self, token: int, rate: Rate, frame: bytes) -> None:
        """Send a frame. Raises TransportError if the interface is gone; RateError."""
        if self._socket is None:
            raise UnreachableError(f"{self._name} is gone")
        packet = with_header(frame, rate)
        loop = asyncio.get_running_loop()
        key = self._key(frame)
        timer = loop.call_later(STATUS_TIMEOUT_S, self._settle, key, False, 0)
        self._waiting[key] = token, loop.time(), timer
        try:
            self._socket.send(packet)
        except BlockingIOError:
            loop.call_soon(self._settle, key, False, 0)
        except OSError as error:
            timer.cancel()
            del self._waiting[key]
            raise self._error(error) from error

    @staticmethod
    def _key(frame: bytes) -> bytes:
        return frames.destination(frame) + frame[frames.HEADER_BYTES : -frames.FCS_BYTES]

    def _settle(self, key: bytes, acknowledged: bool, attempts: int) -> None:
        found = self._waiting.pop(key, None)
        if found is not None:
            token, began_s, timer = found
            timer.cancel()
            took_us = round((asyncio.get_running_loop().time() - began_s) * 1e6)
            self._sent(token, acknowledged, attempts, took_us)

    def _readable(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            if self._socket is None:
                return
            try:
                packet = self._socket.recv(_LONGEST_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                lost = self._lost
                self.close()
                lost(self._error(error))
                return
            heard = parse(packet)
            if heard is None or heard.frame[0] != _ACTION:
                continue
            if heard.is_copy:
                self._settle(self._key(heard.frame), heard.acknowledged, heard.attempts)
            elif (
                frames.destination(heard.frame) in (self._mac, frames.BROADCAST)
                and frames.source(heard.frame) != self._mac
            ):
                self._received(heard.frame)

    def close(self) -> None:
        """Let go of the interface. Safe to call twice."""
        self._lost = lambda _: None
        for _, _, timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()
        raw, self._socket = self._socket, None
        if raw is not None:
            asyncio.get_running_loop().remove_reader(raw.fileno())
            raw.close()
