"""ESP-NOW's action frames through mac80211: two simulated cards in monitor mode.

head -- mon0 -- mac80211 -- mac80211_hwsim -- mac80211 -- mon1 -- tail
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from host.boards.address import parse
from host.boards.board import BoardError
from host.boards.virtual.process import VirtualBoard
from host.link.espnow.frames import BROADCAST
from host.link.espnow.monitor import MonitorStation
from host.link.espnow.radio import EspNow
from host.link.transport import TransportError, UnreachableError
from partitioner.bundle import Bundle
from tests.radio.guest.namespaces import ip
from tests.radio.guest.stages import decoded, output

MACS = (bytes.fromhex("020000000000"), bytes.fromhex("020000000100"))  # hwsim's own.
ABSENT = bytes.fromhex("020000000900")
MHZ = "2412"  # Channel 1.
BOOT_S = 90.0
RUN_S = 30.0
HEARD_S = 5.0
pytestmark = pytest.mark.timeout(120)


def iw(*arguments: str) -> None:
    subprocess.run(["iw", *arguments], check=True, timeout=10)


@pytest.fixture(scope="module", autouse=True)
def cards() -> None:
    for number in (0, 1):
        iw("dev", f"wlan{number}", "set", "type", "ocb")
        ip("link", "set", f"wlan{number}", "up")
        iw("dev", f"wlan{number}", "ocb", "join", MHZ, "20MHz")
        iw("dev", f"wlan{number}", "interface", "add", f"mon{number}", "type", "monitor")
        ip("link", "set", f"mon{number}", "mtu", "2304", "up")


@pytest.fixture(scope="module")
def boards(small: Path) -> Iterator[tuple[VirtualBoard, VirtualBoard]]:
    places = [parse(f"espnow://{mac.hex(':')}") for mac in MACS]

    def start(stage: int) -> VirtualBoard:
        following = None if stage else places[1]
        air = {"air": f"monitor://mon{stage}"}
        return VirtualBoard(f"stage{stage}", small, stage, places[stage], following, settings=air)

    with start(1) as tail, start(0) as head:
        for board in (tail, head):
            board.wait_ready(BOOT_S)
        yield head, tail


def run(head: VirtualBoard) -> list[bytes]:
    timeout_ms = round(RUN_S * 1000)
    return decoded(head.ask("run", RUN_S + 5, input="selftest", timeout_ms=timeout_ms))


class Radio:
    """A card with ESP-NOW on it, in this process."""

    def __init__(self, number: int, version: int = 1) -> None:
        self.now = EspNow(MACS[number], version=version)
        self.place = f"monitor://mon{number}"
        self.heard: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self.sent: asyncio.Queue[tuple[int, bool, int, int]] = asyncio.Queue()
        self.lost: list[TransportError] = []
        self.station = MonitorStation(
            self._frame, lambda *what: self.sent.put_nowait(what), self.lost.append
        )

    def _frame(self, frame: bytes) -> None:
        found = self.now.receive(frame)
        if found is not None:
            self.heard.put_nowait(found)

    async def send(self, token: int, to: bytes, data: bytes) -> bool:
        """Send to a peer; returns whether it was acknowledged."""
        frame, rate = self.now.frame_for(to, data)
        self.station.submit(token, rate, frame)
        told, acknowledged, _, _ = await asyncio.wait_for(self.sent.get(), HEARD_S)
        assert told == token
        return acknowledged


def between(story: Callable[[Radio, Radio], Coroutine[Any, Any, None]], version: int = 1) -> None:
    async def work() -> None:
        radios = [Radio(number, version) for number in (0, 1)]
        for radio in radios:
            await radio.station.join(radio.place, radio.now.mac, 1)
        try:
            await story(*radios)
        finally:
            for radio in radios:
                radio.station.close()

    asyncio.run(work())


def test_unicast_is_acknowledged_by_the_card_it_is_for() -> None:
    async def story(left: Radio, right: Radio) -> None:
        left.now.add_peer(MACS[1])
        for token in range(30):
            data = bytes([token]) * 250
            assert await left.send(token, MACS[1], data)
            assert await asyncio.wait_for(right.heard.get(), HEARD_S) == (MACS[0], data)

    between(story)


def test_an_absent_peer_is_reported() -> None:
    async def story(left: Radio, right: Radio) -> None:
        left.now.add_peer(ABSENT)
        for token in range(10):
            assert not await left.send(token, ABSENT, b"anybody there?")
        assert right.heard.empty()

    between(story)


def test_broadcast_reaches_the_other_card() -> None:
    async def story(left: Radio, right: Radio) -> None:
        left.now.add_peer(BROADCAST)
        await left.send(1, BROADCAST, b"to all")
        assert await asyncio.wait_for(right.heard.get(), HEARD_S) == (MACS[0], b"to all")

    between(story)


def test_the_longest_packet_of_version_2_encrypted() -> None:
    async def story(left: Radio, right: Radio) -> None:
        left.now.add_peer(MACS[1], lmk=b"sixteen bytes ok")
        right.now.add_peer(MACS[0], lmk=b"sixteen bytes ok")
        data = bytes(range(245)) * 6
        assert await left.send(1, MACS[1], data)
        assert await asyncio.wait_for(right.heard.get(), HEARD_S) == (MACS[0], data)
        right.now.modify_peer(MACS[0], lmk=b"sixteen bytes no")
        assert await left.send(2, MACS[1], data)
        while right.now.counters.no_key == 0:
            await asyncio.sleep(0.01)
        assert right.heard.empty()

    between(story, version=2)


@pytest.mark.parametrize("version", [1, 2])
def test_a_split_inference_between_two_cards(
    boards: tuple[VirtualBoard, VirtualBoard], small_bundle: Bundle, version: int
) -> None:
    for board in boards:
        board.ask("configure", BOOT_S, set={"espnow_version": version})
        board.ask("reboot", BOOT_S)
        assert board.wait_ready(BOOT_S)["problem"] is None
    head, _ = boards
    for _ in range(5):
        assert run(head) == output(small_bundle, 0)
    radio = head.ask("stats")["radio"]
    assert radio["version"] == version
    assert radio["acknowledged"] == radio["sent"] > 0


def test_an_interface_for_short_frames_is_named() -> None:
    ip("link", "set", "mon0", "mtu", "1500")
    try:
        with pytest.raises(UnreachableError, match="ip link set mon0 mtu 2304"):
            asyncio.run(Radio(0).station.join("monitor://mon0", MACS[0], 1))
    finally:
        ip("link", "set", "mon0", "mtu", "2304")


def test_a_card_that_goes_down_for_a_second_is_survived(
    boards: tuple[VirtualBoard, VirtualBoard], small_bundle: Bundle
) -> None:
    head, _ = boards
    assert run(head) == output(small_bundle, 0)
    ip("link", "set", "mon0", "down")
    command = head.begin("run", input="selftest", timeout_ms=round(RUN_S * 1000))
    with pytest.raises(BoardError, match="does not answer"):
        head.finish(command, 1.0)
    ip("link", "set", "mon0", "up")
    assert decoded(head.finish(command, RUN_S + 5)) == output(small_bundle, 0)


@pytest.mark.parametrize(
    ("place", "mac", "why"),
    [
        ("mon7", MACS[0], "there is no network interface 'mon7'"),
        ("wlan0", MACS[0], "wlan0 is not in monitor mode"),
        ("mon0", MACS[1], "acknowledges nothing sent to 02:00:00:00:01:00"),
    ],
    ids=["missing", "not monitor", "not its address"],
)
def test_a_card_that_cannot_do_it_is_named(place: str, mac: bytes, why: str) -> None:
    async def work() -> None:
        await Radio(0).station.join(f"monitor://{place}", mac, 1)

    with pytest.raises(UnreachableError, match=why):
        asyncio.run(work())
