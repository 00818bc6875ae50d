"""Radiotap headers, and interfaces that cannot be used; the rest runs in `make test-radio`."""

from __future__ import annotations

import asyncio
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.boards.address import parse as place_of
from host.boards.virtual.espnow import EspNowRadio
from host.boards.virtual.radio import RadioSetup
from host.link.espnow import frames, monitor
from host.link.espnow.frames import Packet
from host.link.espnow.monitor import Heard, MonitorStation
from host.link.transport import UnreachableError
from partitioner.cost.wifi import RATES, RateError

A, B = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
FRAME = frames.encode(Packet(B, A, b"boundary"))
BARE = FRAME[: -frames.FCS_BYTES]


def header(present: list[int], fields: bytes) -> bytes:
    """A radiotap header with these words of present bits."""
    words = b"".join(struct.pack("<I", word) for word in present)
    return struct.pack("<BBH", 0, 0, 4 + len(words) + len(fields)) + words + fields


@pytest.mark.parametrize(
    ("rate", "units"), [("1M", 2), ("2M", 4), ("5.5M", 11), ("11M", 22), ("6M", 12), ("54M", 108)]
)
def test_what_is_written_has_its_rate_in_units_of_500_kbits_and_no_fcs(
    rate: str, units: int
) -> None:
    assert monitor.with_header(FRAME, RATES[rate]) == header([1 << 2], bytes([units])) + BARE


@pytest.mark.parametrize("rate", ["250K", "500K"])
def test_long_range_is_refused_before_anything_starts(rate: str) -> None:
    places = [place_of(f"espnow://{mac.hex(':')}") for mac in (A, B)]
    with pytest.raises(RateError, match="Espressif's chips alone"):
        EspNowRadio(RadioSetup(*places, "monitor://mon0", settings={"espnow_rate": rate}))


def test_a_frame_heard_without_fcs_gets_one() -> None:
    assert monitor.parse(header([0], b"") + BARE) == Heard(FRAME, is_copy=False)


def test_a_frame_heard_with_fcs_keeps_it() -> None:
    # TSFT (8, aligned to 8), FLAGS with FCS, RATE, CHANNEL (aligned to 2), signal; two words.
    fields = bytes(4) + bytes(8) + bytes([0x10, 2]) + struct.pack("<HHb", 2412, 0xA0, -40)
    packet = header([0b101111 | 1 << 31, 0], fields) + FRAME
    assert monitor.parse(packet) == Heard(FRAME, is_copy=False)


def test_a_frame_with_a_wrong_fcs_is_dropped() -> None:
    assert monitor.parse(header([1 << 1], bytes([0x50])) + FRAME) is None


@pytest.mark.parametrize(("flags", "acknowledged"), [(0, True), (1, False)])
def test_a_copy_says_what_became_of_the_frame(flags: int, acknowledged: bool) -> None:
    # RATE, then TX_FLAGS aligned to 2, then DATA_RETRIES: as net/mac80211/status.c writes it.
    fields = bytes([2, 0]) + struct.pack("<HB", flags, 6)
    packet = header([1 << 2 | 1 << 15 | 1 << 17], fields) + BARE
    assert monitor.parse(packet) == Heard(FRAME, True, acknowledged, attempts=7)


@given(st.binary(max_size=64), st.integers(0, 64))
def test_no_packet_is_read_beyond_its_end(noise: bytes, cut: int) -> None:
    monitor.parse(noise)
    monitor.parse((header([0xFFFFFFFF, 0x7FFFFFFF], noise) + FRAME)[:cut])
    monitor.parse(b"\0\0" + struct.pack("<H", cut) + noise)


def test_headers_cut_short_are_no_packets() -> None:
    whole = header([1 << 0 | 1 << 15], bytes(9)) + FRAME
    assert monitor.parse(whole) is None  # TSFT ends at 16, TX_FLAGS at 18.
    assert monitor.parse(header([1 << 31], b"")[:8] + FRAME[:20]) is None
    assert monitor.parse(b"\1" + whole[1:]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces as on Linux")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no-such-if", "there is no network interface 'no-such-if'"),
        ("", "there is no network interface ''"),
        ("../net/lo", "there is no network interface"),
        ("lo", "lo is not in monitor mode"),
    ],
)
def test_interfaces_that_are_none_are_named(name: str, why: str) -> None:
    async def join() -> None:
        station = MonitorStation(lambda _: None, lambda *_: None, lambda _: None)
        await station.join(f"monitor://{name}", A, 1)

    with pytest.raises(UnreachableError, match=why):
        asyncio.run(join())
