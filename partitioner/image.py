"""Images: one stage packed for a board's flash slot, byte by byte as in firmware/core/IMAGE.md.

Bytes in, values out and back; keys, files and boards are somebody else's. `encode` and `decode`
hold an image to the same rules as the firmware does, so what `encode` makes a board can read.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models.errors import TinysplitError
from partitioner.bundle import Bundle
from partitioner.chain import Stage
from partitioner.graph import DTYPES, Graph
from partitioner.kernels import Kernels
from partitioner.manifest import Route, StageSpec, TensorSpec

HEADER_BYTES = 64
SIGNATURE_BYTES = 64
DIGEST_BYTES = 32
MAX_MANIFEST_BYTES = 4096
FORMAT = 1
STAGE, FIRMWARE = 1, 2
CHIPS = {"any": 0xFFFF, "esp32": 0, "esp32s2": 2, "esp32s3": 9, "esp32c3": 5, "esp32p4": 18}
NO_STAGE = 255

_HEADER = struct.Struct("<4sHBBIIIIHBBIIIII12x")
_MAGIC = b"tsIM"
SIGNED = 1
_ALIGN = 16
_MAX_TENSORS = 8
_MAX_OPERATORS = 1024
_MAX_NAME_BYTES = 64
_MAX_DEPTH = 4
_MAX_U32 = 0xFFFFFFFF
_DTYPES = {np.dtype(dtype): code for code, dtype in DTYPES.items() if dtype.kind != "f"}

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]


class ImageError(TinysplitError):
    """Not an image, a damaged one, or a stage that does not go into one.

    `code` is the error's name in IMAGE.md section 9.
    """

    def __init__(self, message: str, code: str = "image_malformed") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tensor:
    """A tensor of the image's manifest; `scale` is a binary32, 0.0 if it is not quantized."""

    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Operator:
    """TensorFlow Lite's BuiltinOperator, and the CRC-32 of each of its outputs in the self-test."""

    code: int
    crc32: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What a board has to know to run the stage.

    `inputs[i]` is which received tensor is input i of the model; `sent[j]` is n >= 0 for output n
    of the model, n < 0 for received tensor -1 - n. `result` is what the last stage answers.
    """

    bundle: bytes
    name: str
    received: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    sent: tuple[int, ...]
    operators: tuple[Operator, ...]
    result: tuple[Tensor, ...]


@dataclass(frozen=True)
class Image:
    """An image apart from its signature; `manifest` is None for firmware."""

    kind: int
    version: int
    downgrade_from: int
    firmware: int
    chip: int
    stage: int
    stage_count: int
    arena_bytes: int
    manifest: Manifest | None
    model: bytes
    input: bytes
    output: bytes


def of_stage(
    bundle: Bundle,
    number: int,
    *,
    version: int,
    downgrade_from: int = 0,
    firmware: int = 0,
    chip: int = CHIPS["any"],
) -> Image:
    """Stage `number` of `bundle` as an image, with golden input 0 as its self-test.

    Args:
        version: 1 to 2**32 - 1, IMAGE.md section 6; downgrade_from likewise or 0.
        firmware: the lowest that can run it, major << 16 | minor << 8 | patch.
        chip: one of the values of CHIPS.

    Raises:
        ImageError: the bundle has no such stage, or it does not go into an image.
    """
    m = bundle.manifest
    if not 0 <= number < len(m.stages):
        raise ImageError(f"the bundle has stages 0 to {len(m.stages) - 1}, not {number}")
    stage, received = m.stages[number], m.received(number)
    arrays = bundle.selftest()
    last = number == len(m.boundaries)
    wanted = m.outputs if last else m.boundaries[number].tensors
    before = f"boundary_{number - 1}" if number else "input"
    after = "output" if last else f"boundary_{number}"

    def section(name: str, count: int) -> bytes:
        return b"".join(
            np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes()
            for a in (arrays[f"{name}_{i}"][0] for i in range(count))
        )

    crcs = arrays["crc32"][0]
    manifest = Manifest(
        bundle=bytes.fromhex(m.id),
        name=_shortened(m.model["name"]),
        received=tuple(map(_tensor, received)),
        outputs=tuple(map(_tensor, stage.outputs)),
        inputs=stage.inputs,
        sent=tuple(r.index if r.source == "output" else -1 - r.index for r in stage.sent),
        operators=tuple(
            Operator(
                getattr(schema.BuiltinOperator, op.kind, schema.BuiltinOperator.CUSTOM),
                tuple(int(c) for c in crcs[op.crc_index : op.crc_index + len(op.output_shapes)]),
            )
            for op in stage.operators
        ),
        result=tuple(map(_tensor, m.outputs)),
    )
    return Image(
        kind=STAGE,
        version=version,
        downgrade_from=downgrade_from,
        firmware=firmware,
        chip=chip,
        stage=number,
        stage_count=len(m.stages),
        arena_bytes=stage.arena_bytes or 0,
        manifest=manifest,
        model=bundle.stages[number],
        input=section(before, len(received)),
        output=section(after, len(wanted)),
    )


def of_firmware(app: bytes, *, version: int, downgrade_from: int = 0) -> Image:
    """An application of ESP-IDF (`app.bin`) as an image, for the chip it was built for.

    Raises:
        ImageError: it is none.
    """
    # esp_image_header_t of ESP-IDF's esp_app_format.h: magic 0xE9 at 0, chip id at 12, 24 bytes.
    if len(app) < 24 or app[0] != 0xE9:
        raise ImageError("not an application of ESP-IDF (no 0xE9 at its start)")
    return Image(
        kind=FIRMWARE,
        version=version,
        downgrade_from=downgrade_from,
        firmware=0,
        chip=int.from_bytes(app[12:14], "little"),
        stage=NO_STAGE,
        stage_count=0,
        arena_bytes=0,
        manifest=None,
        model=app,
        input=b"",
        output=b"",
    )


def encode(image: Image, sign: Sign | None) -> bytes:
    """The bytes of `image`, signed by `sign` (digest to r and s, 64 bytes); None: unsigned.

    Raises:
        ImageError: a field does not fit, or the image contradicts itself.
    """
    manifest = b"" if image.manifest is None else _encode_manifest(image.manifest)
    parts = (manifest, image.model, image.input, image.output)
    total = HEADER_BYTES + sum(map(_padded, map(len, parts))) + SIGNATURE_BYTES
    numbers = (image.version, image.downgrade_from, image.firmware, image.arena_bytes, total)
    if not all(0 <= n <= _MAX_U32 for n in numbers):
        raise ImageError(f"versions and sizes are numbers below 2**32, not {max(numbers)}")
    if not (
        0 <= image.stage <= 255 and 0 <= image.stage_count <= 255 and 0 <= image.chip <= 0xFFFF
    ):
        raise ImageError(
            f"no image has stage {image.stage} of {image.stage_count}, chip {image.chip}"
        )
    header = _HEADER.pack(
        _MAGIC,
        FORMAT,
        image.kind,
        0 if sign is None else SIGNED,
        total,
        image.version,
        image.downgrade_from,
        image.firmware,
        image.chip,
        image.stage,
        image.stage_count,
        image.arena_bytes,
        *map(len, parts),
    )
    body = header + zlib.crc32(header).to_bytes(4, "little")
    body += b"".join(part.ljust(_padded(len(part)), b"\0") for part in parts)
    digest = hashlib.sha256(body).digest()
    signature = digest + bytes(32) if sign is None else sign(digest)
    if len(signature) != SIGNATURE_BYTES:
        raise ImageError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    _check(image, len(manifest))
    return body + signature


def digest_of(data: bytes) -> bytes:
    """SHA-256 over everything before the signature: the name of the image."""
    return hashlib.sha256(data[:-SIGNATURE_BYTES]).digest()


def decode(data: bytes, verify: Verify | None) -> Image:
    """The image in `data`, held to IMAGE.md sections 2 to 4.

    Args:
        verify: whether digest and signature belong together; None: only unsigned images pass.

    Raises:
        ImageError: anything wrong with it, named by `code`.
    """
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise ImageError("not an image (no tsIM mark at its start)")
    _, found, *fields = _HEADER.unpack_from(data)
    if found != FORMAT:
        raise ImageError(f"the image has format {found}, not {FORMAT}", "image_format")
    kind, flags, total, version, downgrade_from, firmware, chip, stage, count, arena = fields[:10]
    lengths = fields[10:]
    if zlib.crc32(data[: _HEADER.size]) != int.from_bytes(
        data[_HEADER.size : HEADER_BYTES], "little"
    ):
        raise ImageError("the image's header is damaged")
    if any(data[_HEADER.size - 12 : _HEADER.size]) or flags & ~SIGNED:
        raise ImageError("the image's header has bits set that mean nothing")
    if total != HEADER_BYTES + sum(map(_padded, lengths)) + SIGNATURE_BYTES:
        raise ImageError("the lengths in the image's header contradict each other")
    if len(data) != total:
        raise ImageError(f"the image is {total:,} bytes long, and {len(data):,} are here")
    if flags & SIGNED and verify is None:
        raise ImageError("the image is signed, and there is no key to check it", "image_no_key")
    if not flags & SIGNED and verify is not None:
        raise ImageError("the image is not signed", "image_unsigned")
    digest, signature = digest_of(data), data[-SIGNATURE_BYTES:]
    right = signature == digest + bytes(32) if verify is None else verify(digest, signature)
    if not right:
        raise ImageError(
            "the image is not signed with this key, or changed since", "image_signature"
        )
    parts, at = [], HEADER_BYTES
    for length in lengths:
        parts.append(data[at : at + length])
        at += _padded(length)
    image = Image(
        kind=kind,
        version=version,
        downgrade_from=downgrade_from,
        firmware=firmware,
        chip=chip,
        stage=stage,
        stage_count=count,
        arena_bytes=arena,
        manifest=_decode_manifest(parts[0]) if kind == STAGE else None,
        model=parts[1],
        input=parts[2],
        output=parts[3],
    )
    _check(image, lengths[0])
    return image


def open_stage(image: Image, kernels: Kernels) -> Stage:
    """The stage in an image that `decode` returned, loaded.

    Raises:
        ImageError: firmware, or a model with other inputs and outputs than the manifest's.
        TfliteError, KernelError: its model is none, or does not load.
    """
    m = image.manifest
    if m is None:
        raise ImageError("the image is a firmware, not a stage", "image_chip")
    graph = Graph(image.model)
    received, outputs = _specs(m.received), _specs(m.outputs)

    def shapes(indices: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        return [(graph.tensors[i].dtype.name, graph.tensors[i].shape) for i in indices]

    wired = [(received[i].dtype, received[i].shape) for i in m.inputs]
    made = [(t.dtype, t.shape) for t in outputs]
    counts = [len(op.outputs) for op in graph.operators]
    if (shapes(graph.inputs), shapes(graph.outputs)) != (wired, made) or counts != [
        len(op.crc32) for op in m.operators
    ]:
        raise ImageError("the image's manifest describes another model than the one in it")
    routes = tuple(Route("output", n) if n >= 0 else Route("received", -1 - n) for n in m.sent)
    origin = {"output": outputs, "received": received}
    spec = StageSpec(
        file="",
        flash_bytes=len(image.model),
        arena_bytes=image.arena_bytes or None,
        macs=graph.macs(),
        operator_kinds=graph.kinds(),
        operators=(),
        inputs=m.inputs,
        outputs=outputs,
        sent=routes,
    )
    sent = tuple(origin[route.source][route.index] for route in routes)
    return Stage.of(image.stage, spec, received, sent, image.model, kernels)


def _specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec("", t.shape, t.dtype, t.scale or None, t.zero_point if t.scale else None)
        for t in tensors
    )


def _check(image: Image, manifest_bytes: int) -> None:
    """Sections 2 and 3: what the fields owe each other."""

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise ImageError(f"not an image a board could take: {what}")

    demand(image.kind in (STAGE, FIRMWARE), f"kind {image.kind}")
    demand(image.version > 0, "version 0")
    demand(len(image.model) > 0, "no model")
    demand(manifest_bytes <= MAX_MANIFEST_BYTES, f"a manifest of {manifest_bytes} bytes")
    m = image.manifest
    if image.kind == FIRMWARE or m is None:
        demand(
            image.kind == FIRMWARE and m is None,
            "a manifest belongs to stages, and to each of them",
        )
        demand((image.stage, image.stage_count) == (NO_STAGE, 0), "firmware has no stage")
        demand(not image.input and not image.output, "firmware has no self-test")
        return
    demand(
        image.stage < image.stage_count < NO_STAGE, f"stage {image.stage} of {image.stage_count}"
    )
    demand(len(m.bundle) == DIGEST_BYTES, "the bundle's id")
    demand(1 <= len(m.name) <= _MAX_NAME_BYTES and _printable(m.name), "the model's name")
    for what, rows in (
        ("received", m.received),
        ("outputs", m.outputs),
        ("inputs", m.inputs),
        ("sent", m.sent),
        ("result", m.result),
    ):
        demand(
            1 <= len(rows) <= _MAX_TENSORS, f"{len(rows)} {what}; there can be 1 to {_MAX_TENSORS}"
        )
    for tensor in (*m.received, *m.outputs, *m.result):
        demand(len(tensor.shape) <= 8 and all(0 < n <= _MAX_U32 for n in tensor.shape), "a shape")
        demand(tensor.bytes <= _MAX_U32, "a tensor's size")
        demand(-(2**31) <= tensor.zero_point < 2**31, "a zero point")
    demand(all(0 <= i < len(m.received) for i in m.inputs), "an input that is not received")
    demand(all(-len(m.received) <= n < len(m.outputs) for n in m.sent), "a route from nowhere")
    demand(1 <= len(m.operators) <= _MAX_OPERATORS, f"{len(m.operators)} operators")
    demand(all(len(op.crc32) <= 8 for op in m.operators), "an operator with more than 8 outputs")
    demand(sum(t.bytes for t in m.received) == len(image.input), "the self-test's input")
    sent = [m.outputs[n] if n >= 0 else m.received[-1 - n] for n in m.sent]
    demand(sum(t.bytes for t in sent) == len(image.output), "the self-test's output")


def _padded(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _shortened(name: str) -> str:
    return "".join(c if _printable(c) else "?" for c in name[:_MAX_NAME_BYTES])


def _tensor(spec: TensorSpec) -> Tensor:
    scale = 0.0 if spec.scale is None else float(np.float32(spec.scale))
    return Tensor(spec.dtype, spec.shape, scale, spec.zero_point or 0)


def _encode_manifest(m: Manifest) -> bytes:
    def row(tensor: Tensor) -> list[Any]:
        (bits,) = struct.unpack("<I", struct.pack("<f", tensor.scale))
        return [_DTYPES[np.dtype(tensor.dtype)], list(tensor.shape), bits, tensor.zero_point]

    content = {
        1: m.bundle,
        2: m.name,
        3: [row(t) for t in m.received],
        4: [row(t) for t in m.outputs],
        5: list(m.inputs),
        6: list(m.sent),
        7: [[op.code, *op.crc32] for op in m.operators],
        8: [row(t) for t in m.result],
    }
    return cbor2.dumps(content)


def _decode_manifest(data: bytes) -> Manifest:
    def typed(value: Any, kind: type) -> Any:
        if type(value) is not kind:
            raise ImageError(f"the image's manifest has {type(value).__name__} for {kind.__name__}")
        return value

    try:
        content = typed(cbor2.loads(data), dict)
        manifest = Manifest(
            bundle=typed(content[1], bytes),
            name=typed(content[2], str),
            received=tuple(map(_decode_tensor, content[3])),
            outputs=tuple(map(_decode_tensor, content[4])),
            inputs=_integers(content[5]),
            sent=_integers(content[6]),
            operators=tuple(Operator(row[0], row[1:]) for row in map(_integers, content[7])),
            result=tuple(map(_decode_tensor, content[8])),
        )
        canonical = (
            list(content) == sorted(content)
            and cbor2.dumps(content) == data
            and all(_allowed(value) for value in content.values())
        )
    except ImageError:
        raise
    except Exception as error:  # cbor2, and the wrong types within, raise many kinds.
        raise ImageError(f"the image's manifest cannot be read ({type(error).__name__})") from error
    if not canonical:
        raise ImageError("the image's manifest is not encoded as IMAGE.md section 3 says")
    return manifest


def _allowed(value: Any, depth: int = 0) -> bool:
    """Whether a value is made of what section 3 allows, nested at most 4 deep."""
    if type(value) is int:
        return -_MAX_U32 - 1 <= value <= _MAX_U32
    if type(value) is list:
        return depth < _MAX_DEPTH and all(_allowed(v, depth + 1) for v in value)
    if type(value) is dict:
        both = (*value, *value.values())
        return depth < _MAX_DEPTH and all(_allowed(v, depth + 1) for v in both)
    return type(value) in (bytes, str)


def _decode_tensor(row: Sequence[Any]) -> Tensor:
    code, shape, bits, zero_point = row
    if code not in _DTYPES.values():
        raise ImageError(f"the image's manifest has a tensor of type {code}")
    (scale,) = struct.unpack("<f", struct.pack("<I", bits))
    return Tensor(DTYPES[code].name, _integers(shape), scale, *_integers([zero_point]))


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise ImageError("the image's manifest has something else where integers belong")
    return tuple(values)
