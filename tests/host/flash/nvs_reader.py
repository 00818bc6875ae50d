"""What an NVS partition holds, read by ESP-IDF's description of the format ("NVS Library",
Structure of a page and of an entry); nothing of the generator's is used."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PAGE, ENTRY = 4096, 32
ACTIVE, FULL, EMPTY = 0xFFFFFFFE, 0xFFFFFFFC, 0xFFFFFFFF
WRITTEN = 0b10
U8, U32, STRING, BLOB_DATA, BLOB_INDEX = 0x01, 0x04, 0x21, 0x42, 0x48


def _crc(data: bytes) -> int:
    return zlib.crc32(data, 0xFFFFFFFF)


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every written entry, and the entries of data behind it."""
    pages = []
    for start in range(0, len(data), PAGE):
        page = data[start : start + PAGE]
        (state,) = struct.unpack_from("<I", page)
        if state == EMPTY:
            assert page == b"\xff" * PAGE
            continue
        assert state in (ACTIVE, FULL)
        sequence, version = struct.unpack_from("<IB", page, 4)
        assert version == 0xFE  # Blobs over several pages.
        assert struct.unpack_from("<I", page, 28)[0] == _crc(page[4:28])
        pages.append((sequence, page))
    for _, page in sorted(pages):
        bitmap = int.from_bytes(page[32:64], "little")
        index = 0
        while index < 126:
            if bitmap >> (2 * index) & 3 != WRITTEN:
                index += 1
                continue
            at = 64 + index * ENTRY
            entry = page[at : at + ENTRY]
            assert struct.unpack_from("<I", entry, 4)[0] == _crc(entry[:4] + entry[8:])
            span = entry[2]
            yield entry, page[at + ENTRY : at + span * ENTRY]
            index += span


def read(data: bytes, namespace: str) -> dict[str, int | str | bytes]:
    """The values in `namespace`: numbers (u32), strings and blobs."""
    spaces: dict[str, int] = {}
    found: dict[str, int | str | bytes] = {}
    blobs: dict[str, int] = {}
    for entry, rest in _entries(data):
        space, kind, _, chunk = entry[:4]
        key = entry[8:24].partition(b"\0")[0].decode()
        if space == 0:
            assert kind == U8
            spaces[key] = entry[24]
        elif space != spaces.get(namespace):
            continue
        elif kind == U32:
            (found[key],) = struct.unpack_from("<I", entry, 24)
        elif kind in (STRING, BLOB_DATA):
            size, check = struct.unpack_from("<HxxI", entry, 24)
            value = rest[:size]
            assert _crc(value) == check
            if kind == STRING:
                assert value[-1:] == b"\0"
                found[key] = value[:-1].decode()
            else:
                assert chunk == 0
                found[key] = value
        else:
            assert kind == BLOB_INDEX
            (blobs[key],) = struct.unpack_from("<I", entry, 24)
    assert all(len(found[key]) == size for key, size in blobs.items())  # type: ignore[arg-type]
    return found
