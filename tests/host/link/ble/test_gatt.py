"""What both ends of a BLE link agree on, against the specification's text."""

from __future__ import annotations

import re

import pytest
from ble_nodes import SPEC
from hypothesis import given
from hypothesis import strategies as st

from host.link.ble import gatt
from host.link.ble.gatt import Granted, Identity, Status, Values
from host.link.errors import MalformedError

TAIL = Identity(3, 1, 2, bytes(range(32)), "0.1.0", "tail")
GRANTED = Granted(247, 12, 0, 200, 2, 2, 251, 251)
section = SPEC[SPEC.index("## 13. BLE") :]


def test_uuids_are_the_specifications() -> None:
    base = re.search(r"`952bXXXX(-[0-9a-f-]+)`", section)
    assert base is not None
    uuids = [gatt.SERVICE, gatt.UP, gatt.DOWN, gatt.STATUS, gatt.CONTROL]
    assert uuids == [f"952b{number:04x}{base[1]}" for number in range(1, 6)]
    assert section.index("| 0002 | `up`") < section.index("| 0003 | `down`")


def test_the_specifications_service_data() -> None:
    example = re.search(r"firmware 0\.1\.0: `([0-9a-f ]+)`", section)
    assert example is not None
    assert TAIL.service_data() == bytes.fromhex(example[1])
    read = gatt.parse_service_data(bytes.fromhex(example[1]) + b"more")
    assert read is not None
    assert (read.role_name, read.stage, read.stage_count) == ("tail", 1, 2)
    assert (read.bundle_prefix, read.version) == (bytes(range(4)), (0, 1, 0))


def test_the_specifications_status_record() -> None:
    example = re.search(r"251 both ways\):\n\n((?:    [0-9a-f ]+\n)+)", section)
    assert example is not None
    record = bytes.fromhex(example[1])
    assert Status(TAIL, GRANTED).encode() == record
    assert gatt.parse_status(record + b"\0later") == Status(TAIL, GRANTED)


@pytest.mark.parametrize("data", [b"", b"\x02" + bytes(20), bytes(11), b"\x01" + bytes(9)])
def test_service_data_of_another_layout_is_skipped(data: bytes) -> None:
    assert gatt.parse_service_data(data) is None


@given(st.binary(max_size=120))
def test_a_status_record_is_read_or_malformed(data: bytes) -> None:
    try:
        gatt.parse_status(data)
    except MalformedError:
        return
    assert data[0] == 1


@pytest.mark.parametrize("size", [0, 20, 49, 50, 51, 56, 57])
def test_a_status_record_cut_short_is_malformed(size: int) -> None:
    whole = Status(TAIL, GRANTED).encode()
    with pytest.raises(MalformedError):
        gatt.parse_status(whole[:size])


@pytest.mark.parametrize("att_mtu", [1, 3, 22])
def test_an_att_mtu_that_cannot_be_is_malformed(att_mtu: int) -> None:
    with pytest.raises(MalformedError, match="ATT_MTU"):
        gatt.parse_status(Status(TAIL, Granted(att_mtu)).encode())


def test_a_long_name_is_cut_between_characters() -> None:
    named = Identity(1, 0, 2, bytes(32), "0.1.0", "é" * 20)
    assert gatt.parse_status(Status(named).encode()).identity.name == "é" * 15


FRAMES = st.lists(st.binary(min_size=1, max_size=gatt.FRAME_BYTES), max_size=8)


@given(frames=FRAMES, att_mtu=st.integers(23, 517))
def test_frames_cross_any_att_mtu(frames: list[bytes], att_mtu: int) -> None:
    sender, receiver = Values(att_mtu), Values(att_mtu)
    found = []
    for frame in frames:
        values = sender.outgoing(frame)
        assert all(0 < len(value) <= att_mtu - 3 for value in values)
        found += [f for value in values for f in receiver.incoming(value)]
    assert found == frames
    assert receiver.dropped == 0


@given(frames=st.lists(st.binary(min_size=1, max_size=100), min_size=3, max_size=8), data=st.data())
def test_a_lost_value_costs_no_more_than_two_frames_of_a_stream(
    frames: list[bytes], data: st.DataObject
) -> None:
    sender, receiver = Values(23), Values(23)
    values = [value for frame in frames for value in sender.outgoing(frame)]
    gone = data.draw(st.integers(0, len(values) - 1))
    found = [f for i, value in enumerate(values) if i != gone for f in receiver.incoming(value)]
    assert sum(frame in found for frame in frames) >= len(frames) - 2


@pytest.mark.parametrize("att_mtu", [23, 497])
def test_a_small_att_mtu_carries_a_stream(att_mtu: int) -> None:
    assert not Values(att_mtu).framed
    assert len(Values(att_mtu).outgoing(bytes(range(1, 251)) * 2)) > 1


def test_a_value_longer_than_a_frame_is_dropped() -> None:
    values = Values(517)
    assert values.framed
    assert values.incoming(bytes(gatt.FRAME_BYTES + 1)) == []
    assert values.incoming(b"") == []
    assert values.dropped == 2
