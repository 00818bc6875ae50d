"""What passes between the gateway and its engines: the bytes, pure.

Theory of operation. An engine is a process of its own at the other end of a socket pair. Each piece
begins with the same head of 24 bytes; a boundary's or a result's tensors follow as their lengths
and then their bytes, as in SPEC.md's TENSOR body, so nothing is copied more often than it is read.

    LOAD    key, a JSON head (its length is `code`), then files        gateway to engine
    UNLOAD  key                                                         gateway to engine
    RUN     key, job, `code` is the codec, `count` tensors              gateway to engine
    LOADED  key, JSON: what it found on the golden inputs               engine to gateway
    REFUSED key, text: why it cannot be loaded                          engine to gateway
    DONE    job, three times, `count` tensors                           engine to gateway
    FAILED  job, `code` is SPEC.md's error code, text                   engine to gateway

The socket has no other reader or writer, and both ends are of one version, so what does not parse
is a defect and ends the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

HEAD = Struct("<BBHIQII")  # kind, unused, count, key, job, code, bytes that follow
TIMES = Struct("<qII")  # start by the monotonic clock, decoding and invoking, microseconds
_U32 = Struct("<I")


class Kind(enum.IntEnum):
    """Byte 0."""

    LOAD = 1
    UNLOAD = 2
    RUN = 3
    LOADED = 4
    REFUSED = 5
    DONE = 6
    FAILED = 7


class Head(NamedTuple):
    """The head of a piece; `size` bytes follow."""

    kind: int
    parts: int
    key: int
    job: int
    code: int
    size: int


def pack(
    kind: Kind, body: Buffer = b"", *, count: int = 0, key: int = 0, job: int = 0, code: int = 0
) -> bytes:
    """A whole piece."""
    return HEAD.pack(kind, 0, count, key, job, code, len(body)) + body


def unpack(head: Buffer) -> Head:
    """The head in the first 24 bytes."""
    kind, _, parts, key, job, code, size = HEAD.unpack_from(head)
    return Head(kind, parts, key, job, code, size)


def join(tensors: Sequence[Buffer]) -> bytes:
    """Tensors behind their lengths."""
    return b"".join((*(_U32.pack(len(tensor)) for tensor in tensors), *tensors))


def split(body: memoryview, count: int) -> tuple[list[int], memoryview]:
    """The lengths of `count` tensors, and the bytes of all of them one behind the other."""
    return [_U32.unpack_from(body, 4 * i)[0] for i in range(count)], body[4 * count :]


def pieces(lengths: Sequence[int], data: memoryview) -> list[memoryview]:
    """`data` cut into tensors."""
    found, at = [], 0
    for length in lengths:
        found.append(data[at : at + length])
        at += length
    return found
