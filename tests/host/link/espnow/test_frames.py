"""ESP-NOW's bytes: against frames written out by hand, and CCM put together from AES alone."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from host.link.espnow import frames
from host.link.espnow.frames import BROADCAST, DataLengthError, KeyLengthError, Packet

HEAD = bytes.fromhex("020000000001")
TAIL = bytes.fromhex("020000000002")
KEY = bytes(range(16))


def packet(data: bytes = b"boundary", **changes: object) -> Packet:
    made = Packet(TAIL, HEAD, data, sequence=0x123, random=bytes.fromhex("a1b2c3d4"))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_version_1_frame_byte_by_byte() -> None:
    wanted = bytes.fromhex(
        "d000"  # Management, action.
        "3a01"  # Duration 314 us.
        "020000000002" "020000000001" "ffffffffffff"
        "3012"  # Sequence number 0x123, fragment 0.
        "7f" "18fe34" "a1b2c3d4"
        "dd" "0d" "18fe34" "04" "01"
    )  # fmt: skip
    wanted += b"boundary"
    wanted += zlib.crc32(wanted).to_bytes(4, "little")
    assert frames.encode(packet(duration_us=314)) == wanted
    assert frames.decode(wanted) == packet(duration_us=314)


def test_a_version_2_frame_has_elements_of_250_bytes_and_says_that_more_follow() -> None:
    data = bytes(i % 251 for i in range(600))
    frame = frames.encode(packet(data, version=2))
    elements = frame[24 + 8 : -4]
    assert elements[:7] == bytes.fromhex("ddff18fe340412")
    assert elements[7:257] == data[:250]
    assert elements[257:264] == bytes.fromhex("ddff18fe340412")
    assert elements[514:521] == bytes.fromhex("dd6918fe340402")
    assert elements[521:] == data[500:]
    assert frames.decode(frame) == packet(data, version=2)


@pytest.mark.parametrize(("version", "most", "length"), [(1, 250, 293), (2, 1470, 1548)])
def test_the_longest_packet_of_a_version(version: int, most: int, length: int) -> None:
    assert len(frames.encode(packet(bytes(most), version=version))) == length
    assert frames.frame_bytes(most) == length
    for wrong in (0, most + 1):
        with pytest.raises(DataLengthError, match=f"1 to {most} bytes, not {wrong}"):
            frames.encode(packet(bytes(wrong), version=version))


@given(data=st.binary(min_size=1, max_size=1470), encrypted=st.booleans())
def test_what_goes_in_comes_out(data: bytes, encrypted: bool) -> None:
    key = KEY if encrypted else None
    frame = frames.encode(packet(data, version=2), key=key, packet_number=9)
    assert len(frame) == frames.frame_bytes(len(data), encrypted=encrypted)
    assert frames.decode(frame, key=key) == packet(data, version=2)


@given(bits=st.lists(st.integers(0, 8 * 100 - 1), min_size=1, max_size=3, unique=True))
def test_a_damaged_frame_is_no_packet(bits: list[int]) -> None:
    frame = bytearray(frames.encode(packet(bytes(57))))
    assert len(frame) == 100
    for bit in bits:
        frame[bit // 8] ^= 1 << bit % 8
    assert frames.decode(bytes(frame)) is None


@given(body=st.binary(max_size=80))
def test_any_vendor_content_is_read_without_harm(body: bytes) -> None:
    whole = frames.encode(packet())[:32] + body
    found = frames.decode(frames.with_fcs(whole))
    assert found is None or (found.data in body and found.source == HEAD)


def test_a_retry_is_the_same_frame_with_one_bit_set() -> None:
    frame = frames.encode(packet(), key=KEY, packet_number=3)
    again = frames.as_retry(frame)
    assert again[1] == frame[1] | 0x08
    assert again[2:-4] == frame[2:-4]
    assert frames.decode(again, key=KEY) == packet(retry=True)


def by_hand_ccm(key: bytes, nonce: bytes, associated: bytes, text: bytes) -> bytes:
    """CCM of RFC 3610 with M = 8 and L = 2, from AES of single blocks."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def xor(a: bytes, b: bytes) -> bytes:
        return bytes(x ^ y for x, y in zip(a, b, strict=False))

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    first = bytes([0x40 | 3 << 3 | 1]) + nonce + len(text).to_bytes(2, "big")
    blocks = first + padded(len(associated).to_bytes(2, "big") + associated) + padded(text)
    mac = bytes(16)
    for at in range(0, len(blocks), 16):
        mac = cipher.update(xor(mac, blocks[at : at + 16]))
    streams = [
        cipher.update(b"\x01" + nonce + i.to_bytes(2, "big")) for i in range(2 + len(text) // 16)
    ]
    return xor(text, b"".join(streams[1:])) + xor(mac[:8], streams[0])


def test_an_encrypted_frame_is_ccmp_as_802_11_writes_it() -> None:
    plain = frames.encode(packet(sequence=0x456))
    frame = frames.encode(packet(sequence=0x456), key=KEY, packet_number=0x0605_0403_0201)
    assert frame[:2] == b"\xd0\x40"
    assert frame[2:24] == plain[2:24]
    assert frame[24:32] == bytes.fromhex("0102002003040506")
    assert frames.packet_number(frame) == 0x0605_0403_0201
    nonce = bytes.fromhex("10" "020000000001" "060504030201")  # fmt: skip
    associated = b"\xd0\x40" + TAIL + HEAD + b"\xff" * 6 + bytes(2)
    assert frame[32:-4] == by_hand_ccm(KEY, nonce, associated, plain[24:-4])
    assert b"boundary" not in frame


def test_without_the_key_there_is_no_packet() -> None:
    frame = frames.encode(packet(), key=KEY, packet_number=1)
    assert frames.decode(frame) is None
    assert frames.decode(frame, key=bytes(16)) is None


def test_the_pairs_key_is_the_lmk_encrypted_with_the_pmk() -> None:
    # FIPS-197, appendix B.
    pmk = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    lmk = bytes.fromhex("3243f6a8885a308d313198a2e0370734")
    assert frames.temporal_key(pmk, lmk) == bytes.fromhex("3925841d02dc09fbdc118597196a0b32")


@pytest.mark.parametrize(("pmk", "lmk", "name"), [(15, 16, "PMK"), (16, 17, "LMK"), (0, 16, "PMK")])
def test_a_key_of_another_length_is_named_and_not_shown(pmk: int, lmk: int, name: str) -> None:
    with pytest.raises(KeyLengthError, match=rf"{name} has \d+ bytes, not 16") as error:
        frames.temporal_key(b"k" * pmk, b"k" * lmk)
    assert "kk" not in str(error.value)


def test_broadcast_is_an_address_like_others() -> None:
    frame = frames.encode(packet(destination=BROADCAST))
    assert frames.destination(frame) == BROADCAST
    assert frames.source(frame) == HEAD
