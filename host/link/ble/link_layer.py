"""The link layer of Bluetooth LE as a model: when each data packet is on the air, and what is lost.

Theory of operation. Pure: the caller gives the time and gets what happened until then. A connection
has events at its anchor points, an interval apart. In an event the central and the peripheral send
in turns, T_IFS apart, a data PDU if one waits and else an empty one, until neither says that it
has more (the MD bit; of a damaged packet it cannot be read, and the receiver goes on), two packets
in a row were damaged, or the event would run into the next anchor point of any connection that
one of the two radios has. Acknowledgement is by sequence numbers, so a lost packet is repeated
in the next turn or event: loss becomes delay. A radio does one thing at a time: an event that
comes due while another of its connections is on the air is skipped.

From the Bluetooth Core Specification 5.4, Vol 6 Part B: 2.1 and 2.2 (packet formats, for the time
on the air), 4.1.1 (T_IFS), 4.5.1 and 4.5.6 (events, and when they close), 4.5.9 (acknowledgement).

Left out: clock drift, channel hopping (loss is independent), peripheral latency (0 is assumed), the
air time of control PDUs and of advertising, and empty PDUs while nobody has data.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final

T_IFS_US: Final = 150
UNIT_US: Final = 1250  # Of connection intervals, and of the transmit window.
MAX_DATA_BYTES: Final = 251
MIN_DATA_BYTES: Final = 27
DAMAGED_IN_A_ROW: Final = 2  # Close the event (4.5.6).
LE_1M: Final = 1
LE_2M: Final = 2
_OVERHEAD_BYTES: Final = {LE_1M: 1 + 4 + 2 + 3, LE_2M: 2 + 4 + 2 + 3}  # Preamble to CRC.
_US_PER_BYTE: Final = {LE_1M: 8, LE_2M: 4}
TO_PERIPHERAL: Final = 0
TO_CENTRAL: Final = 1


def air_time_us(data_bytes: int, phy: int) -> int:
    """How long an unencrypted data PDU with this payload is on the air; `phy` is 1 or 2 (Mbit/s).

    Vol 6 Part B 2.1: preamble (1 byte at 1M, 2 at 2M), access address 4, header 2, payload, CRC 3.
    """
    return (_OVERHEAD_BYTES[phy] + data_bytes) * _US_PER_BYTE[phy]


@dataclass(frozen=True)
class Delivered:
    """A data PDU arrived."""

    link: Connection
    direction: int
    token: object
    at_us: int


@dataclass(frozen=True)
class Acknowledged:
    """The sender of a data PDU learned that it arrived: its buffer is free."""

    link: Connection
    direction: int
    token: object
    at_us: int


Happening = Delivered | Acknowledged


@dataclass
class Tally:
    """What a connection did, by direction: to the peripheral, to the central."""

    sent: list[int] = field(default_factory=lambda: [0, 0])  # Data PDUs, repetitions included.
    lost: list[int] = field(default_factory=lambda: [0, 0])  # Of these.
    delivered: list[int] = field(default_factory=lambda: [0, 0])
    payload_bytes: list[int] = field(default_factory=lambda: [0, 0])
    events: int = 0
    skipped: int = 0  # Events that another connection of the same radio was in the way of.


@dataclass(eq=False)
class Connection:
    """One connection. `phy` and `data_bytes` (longest payload) are by direction."""

    central: Hashable
    peripheral: Hashable
    interval_us: int
    anchor_us: int
    phy: list[int] = field(default_factory=lambda: [LE_1M, LE_1M])
    data_bytes: list[int] = field(default_factory=lambda: [MIN_DATA_BYTES, MIN_DATA_BYTES])
    tally: Tally = field(default_factory=Tally)
    _queues: tuple[deque[tuple[int, object]], deque[tuple[int, object]]] = field(
        default_factory=lambda: (deque(), deque())
    )
    # What each sender has on the air until it is acknowledged; an empty PDU has no token.
    _current: list[tuple[int, object] | None] = field(default_factory=lambda: [None, None])
    _sn: list[int] = field(default_factory=lambda: [0, 0])
    _expected: list[int] = field(default_factory=lambda: [0, 0])  # By the receiver, per direction.
    _damaged: list[int] = field(default_factory=lambda: [0, 0])
    _due_us: int | None = None
    _in_event: bool = False

    @property
    def radios(self) -> frozenset[Hashable]:
        return frozenset((self.central, self.peripheral))

    def waiting(self, direction: int) -> int:
        """Data PDUs not yet acknowledged."""
        return len(self._queues[direction])

    def anchor_from(self, now_us: int) -> int:
        """The first anchor point not before `now_us`."""
        return self.anchor_us + max(-(-(now_us - self.anchor_us) // self.interval_us), 0) * (
            self.interval_us
        )

    def _has_data(self) -> bool:
        return bool(self._queues[0] or self._queues[1])

    def _forget_empty(self) -> None:
        """In the events that were not worth modelling, empty PDUs have long been acknowledged."""
        for direction in (TO_PERIPHERAL, TO_CENTRAL):
            current = self._current[direction]
            if current is not None and current[1] is None:
                self._sn[direction] = self._expected[direction]
                self._current[direction] = None

    def _take(self, direction: int) -> tuple[int, object]:
        """The PDU that this direction's sender transmits now."""
        current = self._current[direction]
        if current is None:
            queue = self._queues[direction]
            current = self._current[direction] = queue[0] if queue else (0, None)
        return current


class LinkLayer:
    """All connections within earshot of each other. `loss` is the share of packets damaged."""

    def __init__(self, loss: float = 0.0, seed: int = 0) -> None:
        self.loss = loss
        self._random = random.Random(seed)  # noqa: S311  # A model, not a secret.
        self.connections: list[Connection] = []
        self._busy_until_us: dict[Hashable, int] = {}

    def lost(self) -> bool:
        """Whether this packet is damaged."""
        return self._random.random() < self.loss

    def advertising_delay_us(self) -> int:
        """What is added to each advertising interval at random: 0 to 10 ms (4.4.2.2.1)."""
        return self._random.randrange(10_000)

    def connect(
        self, central: Hashable, peripheral: Hashable, interval_us: int, now_us: int
    ) -> Connection:
        """A new connection, at 1M and 27 bytes, its anchor as far from others' as it can be."""
        others = self._sharing({central, peripheral})
        first_us = now_us + UNIT_US  # transmitWindowDelay, 4.5.3
        offsets = [self._random.randrange(interval_us) for _ in range(16 if others else 1)]

        def gap_us(offset_us: int) -> int:
            return min(
                (
                    min(
                        c.anchor_from(first_us + offset_us) - first_us - offset_us,
                        (first_us + offset_us - c.anchor_us) % c.interval_us,
                    )
                    for c in others
                ),
                default=0,
            )

        anchor_us = first_us + max(offsets, key=gap_us)
        link = Connection(central, peripheral, interval_us, anchor_us)
        self.connections.append(link)
        return link

    def update(self, link: Connection, interval_us: int, now_us: int) -> None:
        """Another interval from the next anchor point on (4.5.1: the instant is that anchor)."""
        link.anchor_us = link.anchor_from(now_us)
        link.interval_us = interval_us
        if not link._in_event and link._due_us is not None:
            link._due_us = link.anchor_us

    def disconnect(self, link: Connection) -> None:
        """The connection is over, with what waits in it."""
        if link in self.connections:
            self.connections.remove(link)

    def send(
        self, link: Connection, direction: int, data_bytes: int, token: object, now_us: int
    ) -> None:
        """Queue a data PDU; `token` (not None) comes back when it is delivered and acknowledged."""
        link._queues[direction].append((data_bytes, token))
        if link._due_us is None:
            link._forget_empty()
            link._due_us = link.anchor_from(now_us)

    def next_us(self) -> int | None:
        """When the next packet is due; None if nobody has data."""
        return min((c._due_us for c in self.connections if c._due_us is not None), default=None)

    def advance(self, now_us: int) -> list[Happening]:
        """All that happens in turns which begin until `now_us`, in order."""
        happenings: list[Happening] = []
        while True:
            due = [c for c in self.connections if c._due_us is not None and c._due_us <= now_us]
            if not due:
                return happenings
            link = min(due, key=lambda c: c._due_us or 0)
            assert link._due_us is not None
            happenings += self._turn(link, link._due_us)

    def _sharing(self, radios: Iterable[Hashable]) -> list[Connection]:
        wanted = frozenset(radios)
        return [c for c in self.connections if c.radios & wanted]

    def _turn(self, link: Connection, start_us: int) -> list[Happening]:
        """One packet of the central and one of the peripheral."""
        others = [c for c in self._sharing(link.radios) if c is not link]
        if not link._in_event:
            if any(self._busy_until_us.get(radio, 0) > start_us for radio in link.radios):
                link.tally.skipped += 1
                link._due_us = link.anchor_from(start_us + 1)
                return []
            link._in_event = True
            link._damaged = [0, 0]
            link.tally.events += 1
        found: list[Happening] = []
        at_us, central_more = self._packet(link, TO_PERIPHERAL, start_us, found)
        at_us, peripheral_more = self._packet(link, TO_CENTRAL, at_us + T_IFS_US, found)
        next_us = at_us + T_IFS_US
        self._busy_until_us.update(dict.fromkeys(link.radios, next_us))
        limit_us = min(c.anchor_from(start_us + 1) for c in (link, *others)) - T_IFS_US
        listens = central_more or peripheral_more or link._damaged[TO_PERIPHERAL] > 0
        speaks = bool(link._queues[0]) or peripheral_more or link._damaged[TO_CENTRAL] > 0
        goes_on = listens and speaks and max(link._damaged) < DAMAGED_IN_A_ROW
        if goes_on and next_us + self._turn_us(link) <= limit_us:
            link._due_us = next_us
            return found
        link._in_event = False
        link._due_us = link.anchor_from(next_us) if link._has_data() else None
        return found

    @staticmethod
    def _turn_us(link: Connection) -> int:
        lengths = [
            (link._current[d] or next(iter(link._queues[d]), (0, None)))[0]
            for d in (TO_PERIPHERAL, TO_CENTRAL)
        ]
        times = [air_time_us(n, phy) for n, phy in zip(lengths, link.phy, strict=True)]
        return sum(times) + T_IFS_US

    def _packet(
        self, link: Connection, direction: int, start_us: int, found: list[Happening]
    ) -> tuple[int, bool]:
        """Transmit; returns when the packet ends and its MD bit (more data wait behind it).

        Its sender's NESN acknowledges what the other sent before.
        """
        length, token = link._take(direction)
        more = len(link._queues[direction]) > (token is not None)
        end_us = start_us + air_time_us(length, link.phy[direction])
        tally = link.tally
        tally.sent[direction] += token is not None
        if self.lost():
            tally.lost[direction] += token is not None
            link._damaged[direction] += 1
            return end_us, more
        link._damaged[direction] = 0
        if link._sn[direction] == link._expected[direction]:
            link._expected[direction] ^= 1
            if token is not None:
                tally.delivered[direction] += 1
                tally.payload_bytes[direction] += length
                found.append(Delivered(link, direction, token, end_us))
        back = 1 - direction
        waiting = link._current[back]
        if waiting is not None and link._expected[back] != link._sn[back]:
            link._sn[back] ^= 1
            link._current[back] = None
            if waiting[1] is not None:
                link._queues[back].popleft()
                found.append(Acknowledged(link, back, waiting[1], end_us))
        return end_us, more
