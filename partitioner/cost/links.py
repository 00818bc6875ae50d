"""How long a boundary takes from one node to the next, and how long radios are on the air for it.

Theory of operation. A message is the payload, 16 bytes of envelope and 8 + 4 per tensor (SPEC.md
sections 3 and 6.1), cut into frames of at most the link's size, 8 bytes of each being the header.
Acknowledgements are frames of 14 bytes, one for every sixteen frames and one at the end. What a
frame costs depends on the link:

* ESP-NOW: DIFS, the mean first backoff, the frame, SIFS, the MAC's acknowledgement, after
  `partitioner.cost.wifi`. A frame that is lost, or whose acknowledgement is, is sent again with a
  doubled contention window, as host.link.espnow.medium does it; one that the MAC gave up, and that
  never arrived, once more by the link (waiting for its timeout is left out). The time ends
  when the last frame is there.
* BLE: an exchange of two PDUs T_IFS apart per 251 bytes, as many exchanges as fit into a connection
  event; half an interval passes until the first event. A packet or an answer that is
  lost costs the exchange again (that events then close early, another 10 % at most at 10 % loss
  and 15 ms, is left out).
* UDP and TCP: Espressif's published goodput over the air, and a delay for each message, which is
  what the paper's one-way time leaves beside it. Loss costs a frame again, and for as many rounds
  as the last frame needs to arrive, the time after which its sender tries again: the link's
  shortest timeout (SPEC.md section 10) with UDP, a round trip with TCP (fast retransmission; a loss
  that only TCP's own timeout finds is left out).

host.sim runs the link library itself over the same times; a test holds the two together.

All of it is modelled. The best guess of a link that was only published (UDP, TCP) has an error of a
factor of two at least: the air of another room is another link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from models.errors import TinysplitError
from partitioner.codec import NAMES as CODECS
from partitioner.codec import RAW
from partitioner.cost import wifi
from partitioner.cost.memory import Radio

Transport = Literal["espnow", "ble", "udp", "tcp"]
TRANSPORTS: tuple[Transport, ...] = ("espnow", "ble", "udp", "tcp")

_ENVELOPE_BYTES, _BODY_BYTES, _TENSOR_BYTES, _FRAME_HEADER_BYTES = 16, 8, 4, 8
_ACK_BYTES, _FRAMES_PER_ACK = 14, 16
_ESPNOW_ACTION_BYTES = 24 + 8 + 4  # MAC header, category to random value, FCS.
_ESPNOW_ELEMENT_BYTES, _ESPNOW_ELEMENT_DATA = 7, 250
_ESPNOW_TRIES = wifi.SHORT_RETRY_LIMIT
# ESP-IDF Wi-Fi guide: over the air in a lab, UDP 30 and TCP 20 Mbit/s (reference/links.csv).
GOODPUT_BPS = {"udp": 30e6, "tcp": 20e6}
# arXiv:2507.16594v1: 3.2 ms one way for 5.66 kB over UDP, of which 1.51 ms are at 30 Mbit/s.
IP_LATENCY_US = 1690.0
T_IFS_US = 150.0  # Core Specification 5.4 Vol 6 Part B 4.1.1.
_BLE_OVERHEAD_BYTES = {1: 10, 2: 11}  # 2.1 there: preamble, access address, header, CRC.
_UDP_AGAIN_US = 5000.0  # ts_link.rto_min_us, above the round trip of this air.
_SEGMENT_BYTES = 1460  # TCP over Ethernet's MTU.
_ATT_BYTES = 3 + 4  # Value notification or write command, and L2CAP's header.


class LinkError(TinysplitError):
    """A link that does not exist, or with impossible properties."""


@dataclass(frozen=True)
class Crossing:
    """One message over a link: microseconds, frames of the link protocol, bytes in them.

    `airtime_us` is what the shared medium is taken for; `sender_us` and `receiver_us` how long
    each end's radio transmits.
    """

    us: float
    airtime_us: float
    sender_us: float
    receiver_us: float
    frames: int
    bytes: int


@dataclass(frozen=True)
class Link:
    """A link between two nodes.

    Args:
        loss: share of frames lost in the air, each way, 0 to below 1.
        version, rate: ESP-NOW's frame format and PHY rate.
        phy, interval_ms, data_bytes: BLE's PHY in Mbit/s, connection interval, longest PDU.
        codec: what boundaries are coded by (SPEC.md section 14).

    Raises:
        LinkError: none of the transports, or numbers that cannot be.
    """

    transport: Transport = "espnow"
    loss: float = 0.0
    version: int = 1
    rate: str = wifi.DEFAULT_RATE
    phy: int = 2
    interval_ms: float = 7.5
    data_bytes: int = 251
    mtu: int = field(default=0)
    codec: int = RAW

    def __post_init__(self) -> None:
        if self.transport not in TRANSPORTS:
            known = ", ".join(TRANSPORTS)
            raise LinkError(f"no transport {self.transport!r}: one of {known}")
        if not (math.isfinite(self.loss) and 0 <= self.loss < 1):
            raise LinkError(f"a loss of {self.loss} is impossible: 0 to below 1")
        if self.version not in (1, 2) or self.phy not in (1, 2):
            raise LinkError("ESP-NOW has versions 1 and 2, BLE here a PHY of 1 or 2 Mbit/s")
        if not 7.5 <= self.interval_ms <= 4000 or not 27 <= self.data_bytes <= 251:
            raise LinkError("BLE's interval is 7.5 to 4000 ms, its longest PDU 27 to 251 bytes")
        if self.codec not in CODECS:
            raise LinkError(f"no codec {self.codec}: one of {', '.join(map(str, CODECS))}")
        wifi.rate(self.rate)

    @property
    def radio(self) -> Radio:
        """Which of a board's radios it takes."""
        return "ble" if self.transport == "ble" else "wifi"

    def __str__(self) -> str:
        details = {
            "espnow": f" v{self.version} {self.rate}",
            "ble": f" {self.phy}M {self.interval_ms:g} ms",
        }.get(self.transport, "")
        coded = f", codec {self.codec}" if self.codec else ""
        lost = f", {self.loss:.0%} lost" if self.loss else ""
        return self.transport + details + coded + lost

    @property
    def frame_bytes(self) -> int:
        """The longest frame of the link protocol."""
        espnow = 250 if self.version == 1 else 1470
        return self.mtu or {"espnow": espnow, "ble": 495, "udp": 1452, "tcp": 16384}[self.transport]

    def frames(self, payload_bytes: int, tensors: int = 1) -> list[int]:
        """Lengths of the frames that carry a boundary."""
        message = payload_bytes + _ENVELOPE_BYTES + _BODY_BYTES + _TENSOR_BYTES * tensors
        piece = self.frame_bytes - _FRAME_HEADER_BYTES
        whole, rest = divmod(message, piece)
        sizes = [self.frame_bytes] * whole
        return [*sizes, rest + _FRAME_HEADER_BYTES] if rest else sizes

    def crossing(self, payload_bytes: int, tensors: int = 1) -> Crossing:
        """A boundary's way over this link, on average; `payload_bytes` are coded already."""
        sizes = self.frames(payload_bytes, tensors)
        acks = len(sizes) // _FRAMES_PER_ACK + 1
        parts = {"espnow": self._espnow, "ble": self._ble}.get(self.transport, self._ip)
        sent = [parts(size) for size in sizes]
        back = [parts(_ACK_BYTES)] * acks
        us = sum(total for total, _, _ in sent) + sum(total for total, _, _ in back[:-1])
        if self.transport == "espnow":
            us += self._arrival_us(sizes[-1]) - sent[-1][0]
        elif self.transport == "ble":
            us = self._events_us(us) + self.interval_ms * 500
        else:
            us += IP_LATENCY_US
            again_us = _UDP_AGAIN_US if self.transport == "udp" else 2 * IP_LATENCY_US
            us += self._rounds(sum(map(self.packets, sizes))) * again_us
        return Crossing(
            us=us,
            airtime_us=sum(air for _, air, _ in (*sent, *back)),
            sender_us=sum(own for _, _, own in sent),
            receiver_us=sum(own for _, _, own in back),
            frames=len(sizes),
            bytes=sum(sizes),
        )

    def packets(self, size: int) -> int:
        """Packets below that carry a frame of `size` bytes: BLE's PDUs, TCP's segments."""
        if self.transport == "ble":
            return -(-(size + _ATT_BYTES) // self.data_bytes)
        return -(-size // _SEGMENT_BYTES) if self.transport == "tcp" else 1

    def medium_us(self, size: int) -> float:
        """How long a frame of `size` bytes takes the medium with its answers, without loss."""
        if self.transport == "espnow":
            return wifi.exchange_us(_on_air_bytes(size), wifi.rate(self.rate), acknowledged=True)
        parts = self._ble if self.transport == "ble" else self._ip
        return parts(size)[0] / (self._tries() ** 2 if self.transport == "ble" else self._tries())

    def _tries(self) -> float:
        """Mean transmissions until one arrives."""
        return 1 / (1 - self.loss)

    def _rounds(self, packets: int) -> float:
        """Mean number of repetitions until the last of several packets has arrived."""
        total, missing = 0.0, self.loss
        while missing > 1e-9:
            total += 1 - (1 - missing) ** packets
            missing *= self.loss
        return total

    def _espnow(self, size: int) -> tuple[float, float, float]:
        rate = wifi.rate(self.rate)
        frame = rate.airtime_us(_on_air_bytes(size))
        exchange = self.medium_us(size)
        # The frame or its acknowledgement is lost.
        total, tries = self._contended(exchange, 1 - (1 - self.loss) ** 2)
        rounds = 1 / (1 - self.loss**_ESPNOW_TRIES)
        tries *= rounds
        return total * rounds, exchange * tries, frame * tries

    def _contended(self, exchange_us: float, again: float) -> tuple[float, float]:
        """Time of all the MAC's tries, and their number, if one is followed by another so often."""
        rate = wifi.rate(self.rate)
        total, tries, reached, window = 0.0, 0.0, 1.0, rate.cw_min
        for _ in range(_ESPNOW_TRIES):
            total += reached * (wifi.DIFS_US + window / 2 * wifi.SLOT_US + exchange_us)
            tries += reached
            reached *= again
            window = min(2 * window + 1, wifi.CW_MAX)
        return total, tries

    def _arrival_us(self, size: int) -> float:
        """Until a frame is there; that its sender hears of it takes longer."""
        total, _ = self._contended(self.medium_us(size), self.loss)
        unheard = wifi.SIFS_US + wifi.rate(self.rate).ack_us()
        return (total - unheard) / (1 - self.loss**_ESPNOW_TRIES)

    def _ble(self, size: int) -> tuple[float, float, float]:
        packets = self.packets(size)
        per_byte = 8 / self.phy
        overhead = _BLE_OVERHEAD_BYTES[self.phy]
        own = (size + _ATT_BYTES + packets * overhead) * per_byte
        air = own + packets * overhead * per_byte
        tries = self._tries() ** 2  # The packet, or the one that acknowledges it, is lost.
        exchange = (air + 2 * packets * T_IFS_US) * tries
        return exchange, air * tries, own * tries

    def _events_us(self, work_us: float) -> float:
        """Time that so much work takes in connection events, of which the last is not filled."""
        longest = self.interval_ms * 1000 - T_IFS_US
        full, rest = divmod(work_us, longest)
        return full * self.interval_ms * 1000 + rest

    def _ip(self, size: int) -> tuple[float, float, float]:
        own = 8 * size / GOODPUT_BPS[self.transport] * 1e6 * self._tries()
        return own, own, own


def _on_air_bytes(size: int) -> int:
    """An ESP-NOW frame that carries `size` bytes, from MAC header to FCS."""
    elements = -(-size // _ESPNOW_ELEMENT_DATA)
    return _ESPNOW_ACTION_BYTES + elements * _ESPNOW_ELEMENT_BYTES + size
