"""The medium in real time, between real sockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from host.background import Background
from host.link.espnow import ether, frames
from host.link.espnow.ether import Ether, Station
from host.link.espnow.frames import Packet
from host.link.espnow.medium import Medium, Sent
from host.link.streams import length_prefixed
from host.link.transport import TransportError
from partitioner.cost.wifi import RATES

A, B = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
SLOW = RATES["1M"]


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with Background(precise=True) as background:
        background.run(story(), 30)


def frame(number: int) -> bytes:
    return frames.encode(Packet(B, A, bytes(250), sequence=number))


class Radio:
    """A station that keeps what it hears."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.sent: list[tuple[int, bool, int, int]] = []
        self.lost: list[TransportError] = []
        self.changed = asyncio.Event()
        self.station = Station(self._frame, self._done, self._gone)

    def _frame(self, got: bytes) -> None:
        self.frames.append(got)
        self.changed.set()

    def _done(self, *what: Any) -> None:
        self.sent.append(what)
        self.changed.set()

    def _gone(self, error: TransportError) -> None:
        self.lost.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


def test_frames_cross_and_their_times_are_the_models_whatever_the_load() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with Ether(Medium(seed=4)) as air:
            a, b = Radio(), Radio()
            await a.station.join(air.place, A, 1)
            await b.station.join(air.place, B, 1)
            began = loop.time()
            for number in range(40):
                a.station.submit(number, SLOW, frame(number))
            while air.tally.frames < 40:
                await asyncio.sleep(0)
            queued_us = (loop.time() - began) * 1e6
            await b.until(lambda: len(b.frames) >= 20)
            busy_until = loop.time() + 0.03
            while loop.time() < busy_until:  # The loop is held up, the air is not.
                pass
            await a.until(lambda: len(a.sent) == 40)
            took_us = (loop.time() - began) * 1e6
            assert b.frames == [frame(number) for number in range(40)]
            assert [s[0] for s in a.sent] == list(range(40))
            same = Medium(seed=4)
            same.join(A, 1)
            same.join(B, 1)
            for number in range(40):
                same.submit(A, frame(number), SLOW, 0.0)
            ends = [one.at_us for one in same.advance(math.inf) if isinstance(one, Sent)]
            # The last one waited as long as in the model, less what it came later than the first.
            assert ends[-1] - queued_us - 1_000 < a.sent[-1][3] < ends[-1] + 1_000
            assert ends[-1] < took_us < ends[-1] + 500_000
            a.station.close()
            b.station.close()

    run(story)


def test_a_radio_that_leaves_is_absent_at_once() -> None:
    async def story() -> None:
        async with Ether(Medium()) as air:
            a, b = Radio(), Radio()
            await a.station.join(air.place, A, 1)
            await b.station.join(air.place, B, 1)
            b.station.close()
            await asyncio.sleep(0.05)
            a.station.submit(1, SLOW, frame(1))
            await a.until(lambda: bool(a.sent))
            assert a.sent[0][:3] == (1, False, 7)
            again = Radio()
            await again.station.join(air.place, B, 1)
            a.station.submit(2, SLOW, frame(2))
            await a.until(lambda: len(a.sent) == 2)
            assert a.sent[1][1]
            a.station.close()
            again.station.close()

    run(story)


def test_an_address_in_use_no_ether_and_an_ether_that_ends_are_named() -> None:
    async def story() -> None:
        async with Ether(Medium()) as air:
            a = Radio()
            await a.station.join(air.place, A, 1)
            with pytest.raises(TransportError, match="another radio has the address 02:00"):
                await Radio().station.join(air.place, A, 1)
            place = air.place
        await a.until(lambda: bool(a.lost))
        assert "is gone" in str(a.lost[0])
        with pytest.raises(TransportError, match="is gone"):
            a.station.submit(1, SLOW, frame(1))
        with pytest.raises(TransportError, match="refused the connection"):
            await Radio().station.join(place, A, 1)
        with pytest.raises(TransportError, match="is no ether"):
            await Radio().station.join("nowhere", A, 1)

    run(story)


@pytest.mark.parametrize(
    "message",
    [
        b"\x63",
        bytes([ether.JOIN]) + A,
        bytes([ether.JOIN]) + A + b"\x0f",
        bytes([ether.SUBMIT]) + bytes(5) + frame(1),
    ],
    ids=["unknown", "short", "channel", "not joined"],
)
def test_a_client_that_talks_nonsense_is_refused_and_harms_nobody(message: bytes) -> None:
    async def story() -> None:
        async with Ether(Medium()) as air:
            a, b = Radio(), Radio()
            await a.station.join(air.place, A, 1)
            await b.station.join(air.place, B, 1)
            host, port = air.place.removeprefix("ether://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(length_prefixed(message))
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer[2] == ether.REFUSED
            writer.close()
            await writer.wait_closed()
            a.station.submit(1, SLOW, frame(1))
            await b.until(lambda: bool(b.frames))
            a.station.close()
            b.station.close()

    run(story)


def test_a_radio_cannot_send_for_another_nor_without_end() -> None:
    async def story() -> None:
        async with Ether(Medium()) as air:
            b = Radio()
            await b.station.join(air.place, B, 1)
            b.station.submit(1, SLOW, frame(1))
            await b.until(lambda: bool(b.lost))
            assert "not a frame of this radio" in str(b.lost[0])
            a = Radio()
            await a.station.join(air.place, A, 1)
            for number in range(ether.MAX_QUEUED + 2):
                a.station.submit(number, SLOW, frame(number))
            await a.until(lambda: bool(a.lost))
            assert "too many frames" in str(a.lost[0])

    run(story)


def test_a_machine_that_stalls_between_two_looks_at_the_clock_loses_no_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frame behind another one was over before it was submitted, which no u32 can say."""
    stalled_us = 0.0
    now_us, queued = Ether._now_us, Medium.queued

    def stalls(medium: Medium, mac: bytes) -> int:
        nonlocal stalled_us
        found = queued(medium, mac)
        stalled_us += 50_000.0 if found == 3 else 0.0
        return found

    monkeypatch.setattr(Ether, "_now_us", staticmethod(lambda: now_us() + stalled_us))
    monkeypatch.setattr(Medium, "queued", stalls)

    async def story() -> None:
        async with Ether(Medium(seed=4)) as air:
            a, b = Radio(), Radio()
            await a.station.join(air.place, A, 1)
            await b.station.join(air.place, B, 1)
            for number in range(10):
                a.station.submit(number, SLOW, frame(number))
            await a.until(lambda: len(a.sent) == 10)
            assert all(0 < took_us < 10_000_000 for _, _, _, took_us in a.sent)

    run(story)
