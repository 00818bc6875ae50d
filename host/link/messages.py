"""What an application sends: the envelope and the bodies of SPEC sections 5 and 6.

Theory of operation. A message is an envelope of 16 bytes and a body. The envelope's CRC-32
starts from the session id, so a message of another session never passes. Encoders raise
`InvalidError` when the caller's values do not fit the format; decoders of bodies raise
`MalformedError` when the peer's bytes do not. Tensors stay views into the message they came
in: nothing is copied twice.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from host.link.errors import InvalidError, MalformedError, TooLargeError
from partitioner import codec as codecs
from partitioner.codec import CodecError

ENVELOPE: Final = 16
MAX_TENSORS: Final = 8
MAX_PHASES: Final = 32
MAX_ERROR_TEXT: Final = 64
U32_MAX: Final = 0xFFFF_FFFF
HOST_STAGE: Final = 255  # The stage of whoever has none.
RAW_CODEC: Final = codecs.RAW
RAW_ONLY: Final = 1 << codecs.RAW  # Masks of HELLO.
EVERY_CODEC: Final = RAW_ONLY | 1 << codecs.RANGE

Buffer = bytes | bytearray | memoryview


class MessageKind(enum.IntEnum):
    """Byte 0 of the envelope. 128 to 255 are private to applications."""

    TENSOR = 1
    RESULT = 2
    CONTROL = 3
    BLOB = 4
    ERROR = 5


FIRST_PRIVATE: Final = 128


class Phase(enum.IntEnum):
    """What a duration measures; from and to are in SPEC 6.2."""

    PREPROCESS = 0
    INVOKE = 1
    ENCODE = 2
    SEND = 3
    RECEIVE = 4
    DECODE = 5
    QUEUE = 6
    DOWNSTREAM = 7


_ENVELOPE_HEAD = Struct("<BBHII")
_U32 = Struct("<I")
_TENSOR = Struct("<IBBBB")
_PHASE = Struct("<BBI")
_BLOB = Struct("<III")
BLOB_HEADER_BYTES = _BLOB.size
_ERROR = Struct("<IHBB")


class Envelope(NamedTuple):
    """`ttl_ms`: how long the sender will wait from now; 0: not said. `length`: of the body."""

    kind: int
    flags: int
    ttl_ms: int
    message_id: int
    length: int
    crc: int


def encode_message(sid: int, kind: int, message_id: int, body: Buffer, ttl_ms: int = 0) -> bytes:
    """Envelope and body in one piece, sealed for the session."""
    head = _ENVELOPE_HEAD.pack(kind, 0, ttl_ms, message_id, len(body))
    crc = crc32(body, crc32(head, crc32(_U32.pack(sid))))
    return b"".join((head, _U32.pack(crc), body))


def decode_envelope(start: bytes) -> Envelope:
    """The envelope in the first 16 bytes, unjudged."""
    kind, flags, ttl_ms, message_id, length = _ENVELOPE_HEAD.unpack_from(start)
    return Envelope(kind, flags, ttl_ms, message_id, length, _U32.unpack_from(start, 12)[0])


def message_crc(sid: int, message: Buffer) -> int:
    """The CRC-32 that the envelope of this message must carry."""
    view = memoryview(message)
    return crc32(view[16:], crc32(view[:12], crc32(_U32.pack(sid))))


class Tensors(NamedTuple):
    """The body of TENSOR: one boundary. `stage` is the one that made it.

    The tensors are as they travel: in their coded form if `codec` is 1, see `decode_boundary`.
    """

    inference_id: int
    stage: int
    codec: int
    tensors: tuple[memoryview, ...]


class PhaseRecord(NamedTuple):
    """How long one phase took at one stage, by that stage's clock."""

    stage: int
    phase: int
    duration_us: int


class Results(NamedTuple):
    """The body of RESULT. `stage` is the one that made the tensors."""

    inference_id: int
    stage: int
    tensors: tuple[memoryview, ...]
    phases: tuple[PhaseRecord, ...]


class Blob(NamedTuple):
    """The body of BLOB: `piece` belongs at `offset` of something of `total` bytes."""

    blob_id: int
    offset: int
    total: int
    piece: memoryview


class Failure(NamedTuple):
    """The body of ERROR: an inference that failed; id 0 is none in particular."""

    inference_id: int
    code: int
    stage: int
    text: str


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidError(f"{name} is {value}, must be {low} to {high}")


def _sizes(tensors: Sequence[Buffer]) -> list[memoryview]:
    _check("the count of tensors", len(tensors), 1, MAX_TENSORS)
    return [memoryview(tensor).cast("B") for tensor in tensors]


def encode_tensors(
    inference_id: int,
    tensors: Sequence[Buffer],
    *,
    stage: int = HOST_STAGE,
    codec: int = RAW_CODEC,
) -> bytes:
    """TENSOR's body. Tensors are C-contiguous buffers in manifest order."""
    _check("the inference id", inference_id, 0, U32_MAX)
    _check("the stage", stage, 0, 255)
    views = _sizes(tensors)
    head = _TENSOR.pack(inference_id, len(views), codec, stage, 0)
    return b"".join((head, *(_U32.pack(len(view)) for view in views), *views))


def _split(body: memoryview, count: int, tail_bytes: int) -> tuple[memoryview, ...]:
    """The tensors after an 8-byte head when they and `tail_bytes` fill the body exactly."""
    start = 8 + 4 * count
    if not 1 <= count <= MAX_TENSORS or len(body) < start + tail_bytes:
        raise MalformedError("a boundary has 1 to 8 tensors")
    sizes = [_U32.unpack_from(body, 8 + 4 * index)[0] for index in range(count)]
    if start + sum(sizes) + tail_bytes != len(body):
        raise MalformedError("the tensors do not fill the message")
    tensors = []
    for size in sizes:
        tensors.append(body[start : start + size])
        start += size
    return tuple(tensors)


def decode_tensors(body: Buffer) -> Tensors:
    """Read a TENSOR body. Raises MalformedError."""
    view = memoryview(body)
    if len(view) < _TENSOR.size:
        raise MalformedError("a TENSOR body has at least 8 bytes")
    inference_id, count, codec, stage, flags = _TENSOR.unpack_from(view)
    if flags:
        raise MalformedError("TENSOR has no flags")
    return Tensors(inference_id, stage, codec, _split(view, count, 0))


def encode_boundary(tensors: Sequence[Buffer], codec: int) -> list[Buffer]:
    """Tensors as they travel under a codec; shapes are those of the buffers."""
    if codec == RAW_CODEC:
        return list(tensors)
    views = [memoryview(tensor) for tensor in tensors]
    return [
        codecs.encode(view.cast("B"), codecs.near_of(view.shape or (), view.itemsize))
        for view in views
    ]


def decode_boundary(
    tensors: Sequence[memoryview], codec: int, limit: int
) -> tuple[memoryview, ...]:
    """The tensors of a TENSOR body; at most `limit` bytes of them.

    Raises:
        MalformedError: bytes that are no coded tensor.
        TooLargeError: of more than `limit` bytes.
    """
    if codec == RAW_CODEC:
        return tuple(tensors)
    decoded = []
    for tensor in tensors:
        try:
            decoded.append(memoryview(codecs.decode(tensor, limit)))
        except CodecError as error:
            raise (TooLargeError if error.too_large else MalformedError)(str(error)) from error
        limit -= len(decoded[-1])
    return tuple(decoded)


def encode_results(
    inference_id: int,
    tensors: Sequence[Buffer],
    phases: Sequence[PhaseRecord] = (),
    *,
    stage: int,
) -> bytes:
    """RESULT's body. Durations saturate at 2**32 - 1 us, phases beyond 32 are left out."""
    _check("the inference id", inference_id, 0, U32_MAX)
    _check("the stage", stage, 0, 255)
    views = _sizes(tensors)
    kept = phases[:MAX_PHASES]
    head = _TENSOR.pack(inference_id, len(views), len(kept), stage, 0)
    return b"".join(
        (
            head,
            *(_U32.pack(len(view)) for view in views),
            *views,
            *(_PHASE.pack(p.stage, p.phase, min(max(p.duration_us, 0), U32_MAX)) for p in kept),
        )
    )


def decode_results(body: Buffer) -> Results:
    """Read a RESULT body. Raises MalformedError."""
    view = memoryview(body)
    if len(view) < _TENSOR.size:
        raise MalformedError("a RESULT body has at least 8 bytes")
    inference_id, count, phase_count, stage, flags = _TENSOR.unpack_from(view)
    if flags or phase_count > MAX_PHASES:
        raise MalformedError("RESULT has no flags and at most 32 phases")
    record_bytes = _PHASE.size * phase_count
    tensors = _split(view, count, record_bytes)
    phases = tuple(map(PhaseRecord._make, _PHASE.iter_unpack(view[len(view) - record_bytes :])))
    return Results(inference_id, stage, tensors, phases)


def encode_blob(blob_id: int, offset: int, total: int, piece: Buffer) -> bytes:
    """BLOB's body."""
    for name, value in (("blob id", blob_id), ("offset", offset), ("total", total)):
        _check(name, value, 0, U32_MAX)
    if offset + len(piece) > total:
        raise InvalidError("a BLOB's piece must end within its total")
    return _BLOB.pack(blob_id, offset, total) + piece


def decode_blob(body: Buffer) -> Blob:
    """Read a BLOB body. Raises MalformedError."""
    view = memoryview(body)
    if len(view) < _BLOB.size:
        raise MalformedError("a BLOB body has at least 12 bytes")
    blob_id, offset, total = _BLOB.unpack_from(view)
    if offset + len(view) - _BLOB.size > total:
        raise MalformedError("a BLOB's piece ends beyond its total")
    return Blob(blob_id, offset, total, view[_BLOB.size :])


def encode_failure(inference_id: int, code: int, stage: int, text: str = "") -> bytes:
    """ERROR's body. The text is cut to 64 bytes at a character's edge."""
    _check("the inference id", inference_id, 0, U32_MAX)
    _check("the error code", code, 1, 0xFFFF)
    _check("the stage", stage, 0, 255)
    raw = text.encode()[:MAX_ERROR_TEXT].decode(errors="ignore").encode()
    return _ERROR.pack(inference_id, code, stage, len(raw)) + raw


def decode_failure(body: Buffer) -> Failure:
    """Read an ERROR body. Raises MalformedError."""
    view = memoryview(body)
    if len(view) < _ERROR.size:
        raise MalformedError("an ERROR body has at least 8 bytes")
    inference_id, code, stage, size = _ERROR.unpack_from(view)
    if code == 0 or size > MAX_ERROR_TEXT or len(view) != _ERROR.size + size:
        raise MalformedError("an ERROR carries a code and at most 64 bytes of text")
    try:
        text = bytes(view[_ERROR.size :]).decode()
    except UnicodeDecodeError as broken:
        raise MalformedError("the text of an ERROR is UTF-8") from broken
    return Failure(inference_id, code, stage, text)


def encode_control(value: Any) -> bytes:
    """CONTROL's body: any JSON value."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as broken:
        raise InvalidError(f"not JSON: {broken}") from broken


def decode_control(body: Buffer) -> Any:
    """The JSON value of a CONTROL body. Raises MalformedError."""
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as broken:
        raise MalformedError("a CONTROL message is UTF-8 JSON") from broken
