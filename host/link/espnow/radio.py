"""What a chip's ESP-NOW offers: a peer table, packets to peers and from them, keys.

The names and limits are those of esp_now.h (ESP-IDF 5.5). Pure: `frame_for` gives the frame that
goes out, `receive` takes one that came in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from host.link.espnow import frames
from host.link.espnow.frames import BROADCAST, MAX_DATA, Packet
from host.link.espnow.medium import CHANNELS
from host.link.session import Profile
from models.errors import TinysplitError
from partitioner.cost.wifi import DEFAULT_RATE, SIFS_US, Rate, rate

MAX_PEERS: Final = 20  # ESP_NOW_MAX_TOTAL_PEER_NUM
MAX_ENCRYPTED: Final = 6  # ESP_NOW_MAX_ENCRYPT_PEER_NUM
DEFAULT_PMK: Final = bytes(16)  # Stands for the chip's own default, which is not published.


def profile(version: int) -> Profile:
    """What the protocol needs to know of ESP-NOW.

    firmware/core/DESIGN.md says why; firmware/main/espnow.c has the same.
    """
    return Profile(mtu=MAX_DATA[version], window=32, reorder=1, rto_min_us=100_000)


class EspNowError(TinysplitError):
    """A call that a chip would refuse."""


class PeerTableFullError(EspNowError):
    """ESP_ERR_ESPNOW_FULL: no room for another peer, or another encrypted one."""


class PeerNotFoundError(EspNowError):
    """ESP_ERR_ESPNOW_NOT_FOUND: not a peer."""


class PeerExistsError(EspNowError):
    """ESP_ERR_ESPNOW_EXIST: a peer already."""


class ChannelError(EspNowError):
    """ESP_ERR_ESPNOW_CHAN: not the channel this radio is on, or none at all."""


@dataclass(frozen=True)
class Peer:
    """A row of the peer table; `key` is the CCMP key, None for packets in the clear."""

    mac: bytes
    rate: Rate
    key: bytes | None = None

    def __repr__(self) -> str:  # Keys stay out of logs and tracebacks.
        state = "encrypted" if self.key is not None else "clear"
        return f"Peer({self.mac.hex(':')}, {self.rate.name}, {state})"


@dataclass
class Counters:
    """What became of packets that came in."""

    received: int = 0
    damaged: int = 0  # Not ESP-NOW, or not to be read.
    no_key: int = 0  # Encrypted, and no key here opens them.
    unencrypted: int = 0  # In the clear from a peer that has a key.
    too_long: int = 0  # Version 2, longer than a version 1 radio takes.


class EspNow:
    """One radio's ESP-NOW.

    Raises:
        ChannelError, RateError, KeyLengthError: what they say.
    """

    def __init__(
        self,
        mac: bytes,
        *,
        channel: int = 1,
        version: int = 1,
        rate_name: str = DEFAULT_RATE,
        pmk: bytes = DEFAULT_PMK,
    ) -> None:
        if channel not in CHANNELS:
            raise ChannelError(f"channel {channel} does not exist: 1 to 14")
        if version not in MAX_DATA:
            raise EspNowError(f"ESP-NOW has versions 1 and 2, not {version}")
        frames.check_key("PMK", pmk)
        self.mac = mac
        self.channel = channel
        self.version = version
        self.rate = rate(rate_name)
        self.counters = Counters()
        self._pmk = pmk
        self._peers: dict[bytes, Peer] = {}
        self._sequence = secrets.randbelow(4096)
        # Static keys outlive restarts, and CCMP's packet number must not come twice with a key.
        self._packet_number = secrets.randbits(47)

    @property
    def max_data(self) -> int:
        """Longest packet, bytes."""
        return MAX_DATA[self.version]

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The table; those sent to longest ago first."""
        return tuple(self._peers.values())

    def _row(
        self, mac: bytes, lmk: bytes | None, channel: int, rate_name: str | None, others: int
    ) -> Peer:
        if len(mac) != 6:
            raise EspNowError(f"a MAC address has 6 bytes, not {len(mac)}")
        if channel not in (0, self.channel):
            raise ChannelError(f"the peer is on channel {channel}, this radio on {self.channel}")
        if lmk is not None and mac == BROADCAST:
            raise EspNowError("broadcast packets cannot be encrypted")
        if lmk is not None and others >= MAX_ENCRYPTED:
            raise PeerTableFullError(f"at most {MAX_ENCRYPTED} peers can be encrypted")
        key = None if lmk is None else frames.temporal_key(self._pmk, lmk)
        return Peer(mac, self.rate if rate_name is None else rate(rate_name), key)

    def _encrypted(self, except_for: bytes) -> int:
        return sum(p.key is not None and p.mac != except_for for p in self._peers.values())

    def add_peer(
        self,
        mac: bytes,
        *,
        lmk: bytes | None = None,
        channel: int = 0,
        rate_name: str | None = None,
    ) -> None:
        """Make a station a peer. `channel` 0 is the current one.

        Raises:
            PeerExistsError, PeerTableFullError, ChannelError, KeyLengthError, RateError.
        """
        if mac in self._peers:
            raise PeerExistsError(f"{mac.hex(':')} is a peer already")
        if len(self._peers) >= MAX_PEERS:
            raise PeerTableFullError(f"the peer table holds {MAX_PEERS}")
        self._peers[mac] = self._row(mac, lmk, channel, rate_name, self._encrypted(mac))

    def modify_peer(
        self,
        mac: bytes,
        *,
        lmk: bytes | None = None,
        channel: int = 0,
        rate_name: str | None = None,
    ) -> None:
        """Replace a peer's row. Raises what `add_peer` raises, and PeerNotFoundError."""
        self._find(mac)
        self._peers[mac] = self._row(mac, lmk, channel, rate_name, self._encrypted(mac))

    def delete_peer(self, mac: bytes) -> None:
        """Raises PeerNotFoundError."""
        self._find(mac)
        del self._peers[mac]

    def _find(self, mac: bytes) -> Peer:
        try:
            return self._peers[mac]
        except KeyError:
            raise PeerNotFoundError(f"{mac.hex(':')} is not a peer") from None

    def frame_for(self, mac: bytes, data: bytes) -> tuple[bytes, Rate]:
        """The frame that carries `data` to a peer (or all, to BROADCAST), and its rate.

        Raises:
            PeerNotFoundError: not in the table.
            DataLengthError: more than `max_data` bytes, or none.
        """
        peer = self._find(mac)
        self._peers[mac] = self._peers.pop(mac)
        self._sequence = (self._sequence + 1) % 4096
        self._packet_number = (self._packet_number + 1) % (1 << 48)
        packet = Packet(
            mac,
            self.mac,
            data,
            version=self.version,
            sequence=self._sequence,
            random=secrets.token_bytes(4),
            duration_us=0 if mac == BROADCAST else round(SIFS_US + peer.rate.ack_us()),
        )
        frame = frames.encode(packet, key=peer.key, packet_number=self._packet_number)
        return frame, peer.rate

    def receive(self, frame: bytes) -> tuple[bytes, bytes] | None:
        """The sender and data of a frame for this radio; None, and counted, if there are none.

        From a station that is no peer, and broadcast, packets in the clear are taken.
        """
        if not frames.fcs_holds(frame) or frames.destination(frame) not in (self.mac, BROADCAST):
            self.counters.damaged += 1
            return None
        peer = self._peers.get(frames.source(frame))
        key = peer.key if peer is not None else None
        is_open = not frames.protected(frame)
        if key is not None and is_open and frames.destination(frame) != BROADCAST:
            self.counters.unencrypted += 1
            return None
        packet = frames.decode(frame, key=key)
        if packet is None:
            if is_open:
                self.counters.damaged += 1
            else:
                self.counters.no_key += 1
            return None
        if len(packet.data) > self.max_data:
            self.counters.too_long += 1
            return None
        self.counters.received += 1
        return packet.source, packet.data
