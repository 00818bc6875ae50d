"""A shared 802.11 medium as a discrete-event model: contention, collisions, acknowledgement, retry.

Theory of operation. Stations on one channel all hear each other and share one medium (DCF, IEEE
802.11-2016, 10.3). When it falls idle, every station with a frame waits DIFS and then as many
slots as its backoff says; the one that waited least transmits, and those that waited equally long
collide: no receiver gets any of their frames. A unicast frame reserves the medium up to the end of
its acknowledgement, whether or not that comes (NAV, or EIFS where the frame was not understood).
A sender without acknowledgement doubles its contention window and tries again, up to the retry
limit. Broadcast frames are sent once and not acknowledged.

Each reception, of a frame or an acknowledgement, is lost with probability `loss`; of what is left,
a share `corrupt` arrives with one to four bits flipped, which the receiver's FCS finds. Receivers
drop what came before (Retry set, same sequence number: 10.3.2.11).

Left out: capture, hidden stations, neighbouring channels, distance. Transmissions begin on slot
boundaries counted from the end of the last one plus DIFS, so that two that begin within a slot
collide, as they do in the air.

Pure: no clock, no sockets. Times are microseconds of the caller's choice. Everything random comes
from one seed: the same frames at the same times have the same fate.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from host.link.espnow import frames
from partitioner.cost.wifi import (
    CW_MAX,
    DIFS_US,
    SHORT_RETRY_LIMIT,
    SLOT_US,
    Rate,
    exchange_us,
)

CHANNELS: Final = range(1, 15)
_MOST_FLIPPED: Final = 4
_NEVER: Final = math.inf


@dataclass(frozen=True)
class Received:
    """A frame that a station's MAC takes."""

    at_us: float
    station: bytes
    frame: bytes


@dataclass(frozen=True)
class Sent:
    """The end of a `submit`: acknowledged, or broadcast and out; or given up.

    `waited_us` is from submission to the end.
    """

    at_us: float
    station: bytes
    token: Any
    acknowledged: bool
    attempts: int
    waited_us: float


Happening = Received | Sent


@dataclass
class Tally:
    """What happened on the medium. `attempts` counts transmissions, `busy_us` airtime with the
    acknowledgements' reservations."""

    frames: int = 0
    attempts: int = 0
    collided: int = 0
    lost: int = 0
    corrupted: int = 0
    acks_lost: int = 0
    repeated: int = 0
    given_up: int = 0
    busy_us: float = 0.0


@dataclass
class _Job:
    token: Any
    frame: bytes
    rate: Rate
    short_preamble: bool
    submitted_us: float
    attempts: int = 0

    @property
    def unicast(self) -> bool:
        return not frames.destination(self.frame)[0] & 1

    @property
    def exchange_us(self) -> float:
        return exchange_us(
            len(self.frame),
            self.rate,
            acknowledged=self.unicast,
            short_preamble=self.short_preamble,
        )


@dataclass
class _Station:
    mac: bytes
    channel: int
    queue: deque[_Job] = field(default_factory=deque)
    ready_us: float = 0.0  # Since when the first job may contend.
    backoff: int = 0  # Slots still to count down.
    window: int = 0  # The contention window; 0: the rate's smallest.
    seen: dict[bytes, int] = field(default_factory=dict)  # Source to sequence control.


@dataclass
class _Channel:
    idle_us: float = -_NEVER  # When the medium fell, or will fall, idle.
    on_air: list[_Station] = field(default_factory=list)
    began_us: float = 0.0


class Medium:
    """Stations and the air between them.

    Call `advance` up to the present before anything that happens at the present.

    Args:
        loss: share of receptions lost, 0 to 1.
        corrupt: share of the others whose bits are flipped.
        seed: of every random choice.
        retry_limit: transmissions of a unicast frame at most.
    """

    def __init__(
        self,
        *,
        loss: float = 0.0,
        corrupt: float = 0.0,
        seed: int = 0,
        retry_limit: int = SHORT_RETRY_LIMIT,
    ) -> None:
        self._loss = loss
        self._corrupt = corrupt
        self._random = random.Random(seed)  # noqa: S311  # A model, not a secret.
        self._retry_limit = retry_limit
        self._stations: dict[bytes, _Station] = {}
        self._channels: dict[int, _Channel] = {}
        self.tally = Tally()

    def join(self, mac: bytes, channel: int) -> None:
        """A station appears, or changes its channel and forgets what it had to send."""
        self.leave(mac)
        self._stations[mac] = _Station(mac, channel)
        self._channels.setdefault(channel, _Channel())

    def leave(self, mac: bytes) -> None:
        """A station vanishes; what it is transmitting is not received."""
        station = self._stations.pop(mac, None)
        if station is not None:
            on_air = self._channels[station.channel].on_air
            if station in on_air:
                on_air.remove(station)

    def queued(self, mac: bytes) -> int:
        """Frames of this station that are not over."""
        return len(self._stations[mac].queue)

    def submit(
        self,
        mac: bytes,
        frame: bytes,
        rate: Rate,
        now_us: float,
        token: Any = None,
        *,
        short_preamble: bool = False,
    ) -> None:
        """Queue a frame with FCS at a station; a `Sent` with the token follows."""
        station = self._stations[mac]
        job = _Job(token, frame, rate, short_preamble, now_us)
        station.queue.append(job)
        self.tally.frames += 1
        if len(station.queue) == 1:
            station.ready_us = now_us
            channel = self._channels[station.channel]
            if channel.idle_us == -_NEVER:  # The first frame ever: the medium was idle.
                channel.idle_us = now_us - DIFS_US
            if station.backoff == 0 and now_us < channel.idle_us + DIFS_US:
                self._draw(station, job)  # 10.3.4.3: it found the medium busy.

    def next_us(self) -> float:
        """When something happens next if nothing is submitted; infinity: never."""
        return min((self._next(c)[0] for c in self._channels.values()), default=_NEVER)

    def advance(self, until_us: float) -> list[Happening]:
        """Everything that happens up to and including `until_us`, in order.

        A `Received` is told with the end of its exchange, and says when the frame itself ended.
        """
        found: list[Happening] = []
        while True:
            when, channel = min(
                ((self._next(c)[0], n) for n, c in self._channels.items()), default=(_NEVER, 0)
            )
            if when > until_us or when == _NEVER:
                return found
            chosen = self._channels[channel]
            if chosen.on_air:
                found += self._end(chosen)
            else:
                self._begin(chosen, *self._next(chosen))

    def _contenders(self, channel: _Channel) -> list[_Station]:
        return [
            s for s in self._stations.values() if s.queue and self._channels[s.channel] is channel
        ]

    def _slot(self, station: _Station, channel: _Channel) -> int:
        """In which slot after idle + DIFS a station with a frame transmits."""
        late = station.ready_us - (channel.idle_us + DIFS_US)
        return max(station.backoff, math.ceil(late / SLOT_US) if late > 0 else 0)

    def _next(self, channel: _Channel) -> tuple[float, int]:
        """When this channel's next event is, and in which slot if it is a transmission."""
        if channel.on_air:
            return channel.idle_us, 0
        slots = [self._slot(s, channel) for s in self._contenders(channel)]
        if not slots:
            return _NEVER, 0
        slot = min(slots)
        return channel.idle_us + DIFS_US + slot * SLOT_US, slot

    def _draw(self, station: _Station, job: _Job) -> None:
        station.window = station.window or job.rate.cw_min
        station.backoff = self._random.randint(0, station.window)

    def _begin(self, channel: _Channel, now_us: float, slot: int) -> None:
        channel.on_air = [s for s in self._contenders(channel) if self._slot(s, channel) == slot]
        for station in self._stations.values():
            if self._channels[station.channel] is channel:
                station.backoff = max(station.backoff - slot, 0)
        channel.began_us = now_us
        channel.idle_us = now_us + max(s.queue[0].exchange_us for s in channel.on_air)
        self.tally.busy_us += channel.idle_us - now_us

    def _end(self, channel: _Channel) -> list[Happening]:
        now_us = channel.idle_us
        senders, channel.on_air = channel.on_air, []
        found: list[Happening] = []
        self.tally.attempts += len(senders)
        if len(senders) > 1:
            self.tally.collided += len(senders)
        for station in senders:
            job = station.queue[0]
            job.attempts += 1
            acknowledged = False
            if len(senders) == 1:
                acknowledged, received = self._receptions(station, job, channel, now_us)
                found += received
            if job.unicast and not acknowledged and job.attempts < self._retry_limit:
                job.frame = frames.as_retry(job.frame)
                station.window = min(2 * (station.window or job.rate.cw_min) + 1, CW_MAX)
                self._draw(station, job)
                station.ready_us = now_us
                continue
            self.tally.given_up += job.unicast and not acknowledged
            station.queue.popleft()
            station.window = 0
            self._draw(station, job)  # The backoff after every frame (10.3.4.3).
            station.ready_us = now_us
            good = acknowledged or not job.unicast
            waited = now_us - job.submitted_us
            found.append(Sent(now_us, station.mac, job.token, good, job.attempts, waited))
        return found

    def _receptions(
        self, sender: _Station, job: _Job, channel: _Channel, now_us: float
    ) -> tuple[bool, list[Happening]]:
        """Who gets a frame that did not collide, and whether its acknowledgement came back."""
        found: list[Happening] = []
        to = frames.destination(job.frame)
        acknowledged = False
        # Receivers have it before its acknowledgement is over.
        arrived_us = channel.began_us + job.rate.airtime_us(
            len(job.frame), short_preamble=job.short_preamble
        )
        for station in self._stations.values():
            hears = self._channels[station.channel] is channel and station is not sender
            if not hears or (job.unicast and station.mac != to):
                continue
            if self._random.random() < self._loss:
                self.tally.lost += 1
                continue
            frame = job.frame
            if self._random.random() < self._corrupt:
                self.tally.corrupted += 1
                frame = self._flip(frame)
                if not frames.fcs_holds(frame):
                    continue
            if job.unicast:
                if self._random.random() < self._loss:
                    self.tally.acks_lost += 1
                else:
                    acknowledged = True
            control = int.from_bytes(frame[22:24], "little")
            origin = frames.source(frame)
            if frame[1] & 0x08 and station.seen.get(origin) == control:
                self.tally.repeated += 1
                continue
            station.seen[origin] = control
            found.append(Received(arrived_us, station.mac, frame))
        return acknowledged, found

    def _flip(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        count = self._random.randint(1, _MOST_FLIPPED)
        for bit in self._random.sample(range(8 * len(frame)), count):
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
