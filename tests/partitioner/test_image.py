"""Images: the vectors of IMAGE.md; what goes in comes out, and all else is refused by name."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from host.packing.keys import PrivateKey, PublicKey, from_key
from partitioner import image
from partitioner.bundle import Bundle
from partitioner.image import Image, ImageError, Manifest, Operator, Tensor

VECTORS = Path(__file__).parents[1] / "vectors" / "image.txt"
KEY = from_key(ec.derive_private_key(1234567, ec.SECP256R1()))
OTHER = from_key(ec.derive_private_key(7654321, ec.SECP256R1()))

SMALL = Image(
    kind=image.STAGE,
    version=1,
    downgrade_from=0,
    firmware=0,
    chip=9,
    stage=0,
    stage_count=2,
    arena_bytes=1000,
    manifest=Manifest(
        bundle=bytes(32),
        name="tiny",
        received=(Tensor("int8", (1, 4), 0.5, -3),),
        outputs=(Tensor("int8", (1, 3), 0.0, 0),),
        inputs=(0,),
        sent=(0,),
        operators=(Operator(3, (0x11223344,)),),
        result=(Tensor("uint8", (10,), 0.0, 0),),
    ),
    model=bytes(range(50)),
    input=b"abcd",
    output=b"xyz",
)


def vectors() -> Iterator[dict[str, str]]:
    for block in VECTORS.read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE))
        if fields.get("type") == "image":
            yield fields


@pytest.mark.parametrize("vector", list(vectors()), ids=lambda v: v["vector"])
def test_vectors(vector: dict[str, str]) -> None:
    data = bytes.fromhex(vector["hex"])
    verify = PublicKey(bytes.fromhex(vector["key"])).verify if "key" in vector else None
    found = image.decode(data, verify)
    assert image.digest_of(data).hex() == vector["digest"]
    assert len(data) == int(vector["bytes"])
    for field in ("version", "downgrade_from", "firmware", "chip", "stage", "arena_bytes"):
        assert getattr(found, field) == int(vector[field])
    for field in ("model", "input", "output"):
        assert len(getattr(found, field)) == int(vector[f"{field}_bytes"])
    if found.manifest is not None:
        for field in ("received", "outputs", "inputs", "sent", "operators", "result"):
            assert len(getattr(found.manifest, field)) == int(vector[field])
    assert image.encode(found, lambda _: data[-64:]) == data or verify is None
    if verify is None:
        assert image.encode(found, None) == data


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
def test_every_stage_of_a_bundle_comes_back(
    stranger_bundle: Bundle, key: PrivateKey | None
) -> None:
    arrays = stranger_bundle.selftest()
    for number, model in enumerate(stranger_bundle.stages):
        made = image.of_stage(stranger_bundle, number, version=7, chip=9)
        data = image.encode(made, None if key is None else key.sign)
        found = image.decode(data, None if key is None else key.public.verify)
        assert found == made
        assert found.model == model
        at = data.index(model)
        assert at % 16 == 0
        before = f"boundary_{number - 1}" if number else "input"
        count = len(stranger_bundle.manifest.received(number))
        assert found.input == b"".join(arrays[f"{before}_{i}"][0].tobytes() for i in range(count))
        assert found.manifest is not None
        assert found.manifest.bundle.hex() == stranger_bundle.manifest.id
        crcs = [c for op in found.manifest.operators for c in op.crc32]
        first = stranger_bundle.manifest.stages[number].operators[0].crc_index
        assert crcs == [int(c) for c in arrays["crc32"][0][first : first + len(crcs)]]


def test_the_output_is_what_the_next_stage_receives(stranger_bundle: Bundle) -> None:
    images = [image.of_stage(stranger_bundle, n, version=1) for n in range(3)]
    assert images[0].output == images[1].input
    assert images[1].output == images[2].input


def test_passed_on_tensors_are_routed(stranger_bundle: Bundle) -> None:
    stages = stranger_bundle.manifest.stages
    for number, stage in enumerate(stages):
        made = image.of_stage(stranger_bundle, number, version=1).manifest
        assert made is not None
        wanted = [r.index if r.source == "output" else -1 - r.index for r in stage.sent]
        assert list(made.sent) == wanted


def test_the_same_image_has_the_same_bytes() -> None:
    assert image.encode(SMALL, KEY.sign) == image.encode(SMALL, KEY.sign)


def test_no_bit_can_flip_in_a_small_image() -> None:
    data = image.encode(SMALL, KEY.sign)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImageError):
            image.decode(bytes(changed), KEY.public.verify)


def test_no_bit_can_flip_in_a_real_one(stranger_bundle: Bundle) -> None:
    data = image.encode(image.of_stage(stranger_bundle, 0, version=1), KEY.sign)
    for bit in np.random.default_rng(3).integers(0, 8 * len(data), 500):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << int(bit) % 8
        with pytest.raises(ImageError):
            image.decode(bytes(changed), KEY.public.verify)


def test_no_byte_can_be_missing_or_added(stranger_bundle: Bundle) -> None:
    data = image.encode(image.of_stage(stranger_bundle, 0, version=1), KEY.sign)
    for length in [*range(0, len(data), 4096), len(data) - 1, len(data) - 16]:
        with pytest.raises(ImageError):
            image.decode(data[:length], KEY.public.verify)
    with pytest.raises(ImageError, match="bytes long"):
        image.decode(data + bytes(16), KEY.public.verify)


def code_of(data: bytes, verify: image.Verify | None) -> str:
    with pytest.raises(ImageError) as caught:
        image.decode(data, verify)
    return caught.value.code


def test_each_refusal_of_a_key_has_its_name() -> None:
    signed, unsigned = image.encode(SMALL, KEY.sign), image.encode(SMALL, None)
    assert code_of(signed, OTHER.public.verify) == "image_signature"
    assert code_of(signed, None) == "image_no_key"
    assert code_of(unsigned, KEY.public.verify) == "image_unsigned"
    assert code_of(unsigned[:-1] + b"\1", None) == "image_signature"
    assert code_of(unsigned[:4] + b"\2" + unsigned[5:], None) == "image_format"


def sealed(data: bytes) -> bytes:
    """Header CRC and signature made to fit again."""
    body = data[:60] + zlib.crc32(data[:60]).to_bytes(4, "little") + data[64:-64]
    return body + KEY.sign(hashlib.sha256(body).digest())


@pytest.mark.parametrize("field", [8, 32, 36, 40, 44])
@pytest.mark.parametrize("lie", [0, 1, 17, 160, 4097, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_lengths_that_lie(field: int, lie: int) -> None:
    data = image.encode(SMALL, KEY.sign)
    if int.from_bytes(data[field : field + 4], "little") == lie:
        pytest.skip("the truth")
    changed = data[:field] + struct.pack("<I", lie) + data[field + 4 :]
    assert code_of(sealed(changed), KEY.public.verify) == "image_malformed"


def with_manifest(content: Any) -> bytes:
    """SMALL, signed, with these bytes or this content for a manifest."""
    manifest = content if isinstance(content, bytes) else cbor2.dumps(content)
    parts = (manifest, SMALL.model, SMALL.input, SMALL.output)
    padded = [p + bytes(-len(p) % 16) for p in parts]
    head = bytearray(image.encode(SMALL, KEY.sign)[:64])
    head[8:12] = struct.pack("<I", 128 + sum(map(len, padded)))
    head[32:36] = struct.pack("<I", len(manifest))
    return sealed(bytes(head) + b"".join(padded) + bytes(64))


def good() -> dict[int, Any]:
    received, outputs = [[9, [1, 4], 0x3F000000, -3]], [[9, [1, 3], 0, 0]]
    wiring = {3: received, 4: outputs, 5: [0], 6: [0]}
    return {1: bytes(32), 2: "tiny", **wiring, 7: [[3, 1]], 8: [[3, [10], 0, 0]]}


def test_the_good_manifest_is_taken() -> None:
    assert image.decode(with_manifest(good()), KEY.public.verify).manifest is not None
    later = {**good(), 9: [1, {2: "for later readers"}, [[[]]]]}
    assert image.decode(with_manifest(later), KEY.public.verify).manifest is not None


LIES: list[Callable[[dict[int, Any]], Any]] = [
    lambda m: b"",
    lambda m: b"\xff",
    lambda m: [m],
    lambda m: cbor2.dumps(m) + b"\0",
    lambda m: dict(reversed(m.items())),
    lambda m: {k: v for k, v in m.items() if k != 7},
    lambda m: {**m, 1: bytes(31)},
    lambda m: {**m, 1: 10**9},
    lambda m: {**m, 2: ""},
    lambda m: {**m, 2: "x" * 65},
    lambda m: {**m, 2: b"tiny"},
    lambda m: {**m, 2: "t\u00efny"},
    lambda m: {**m, 2: "tiny\n"},
    lambda m: {**m, 3: []},
    lambda m: {**m, 3: m[3] * 9},
    lambda m: {**m, 3: [[9, [1, 5], 0, 0]]},
    lambda m: {**m, 3: [[9, [1, 0], 0, 0]]},
    lambda m: {**m, 3: [[0, [1, 1], 0, 0]]},
    lambda m: {**m, 3: [[9, [2**16, 2**16, 4], 0, 0]]},
    lambda m: {**m, 3: [[9, [1, 4], 0.5, 0]]},
    lambda m: {**m, 3: [[9, [1, 4], 0, None]]},
    lambda m: {**m, 4: [[9, [1, 4], 0, 0]]},
    lambda m: {**m, 5: [1]},
    lambda m: {**m, 5: [-1]},
    lambda m: {**m, 5: [True]},
    lambda m: {**m, 6: [1]},
    lambda m: {**m, 6: [-1]},
    lambda m: {**m, 6: [-2]},
    lambda m: {**m, 6: [0, 0]},
    lambda m: {**m, 7: []},
    lambda m: {**m, 7: [[]]},
    lambda m: {**m, 7: [[3, *range(9)]]},
    lambda m: {**m, 7: [[3]] * 1025},
    lambda m: {**m, 7: [[3]] * 4000},
    lambda m: {k: v for k, v in m.items() if k != 8},
    lambda m: {**m, 8: []},
    lambda m: {**m, 7: [[2**32]]},
    lambda m: {**m, 3: [[9, [1, 4], 0, 2**31]]},
    lambda m: {**m, 9: 0.5},
    lambda m: {**m, 9: None},
    lambda m: {**m, 9: 2**32},
    lambda m: {**m, 9: [[[[[]]]]]},
    lambda m: {**m, 8: [[3, [0], 0, 0]]},
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_manifests_that_lie(lie: Callable[[dict[int, Any]], Any]) -> None:
    assert code_of(with_manifest(lie(good())), KEY.public.verify) == "image_malformed"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_manifest_is_read_or_refused(data: bytes) -> None:
    try:
        image.decode(with_manifest(data), KEY.public.verify)
    except ImageError as error:
        assert error.code == "image_malformed"  # noqa: PT017  # Most are refused, a few may be good.


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        image.decode(data, None)
    with pytest.raises(ImageError):
        image.decode(b"tsIM\1\0" + data, None)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 2**32},
        {"stage": 2},
        {"stage": 256},
        {"stage_count": 255},
        {"chip": 65536},
        {"model": b""},
        {"input": b"abc"},
        {"output": b"xyzz"},
        {"kind": 3},
        {"manifest": None},
    ],
    ids=str,
)
def test_nothing_is_packed_that_a_board_would_refuse(change: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        image.encode(replace(SMALL, **change), KEY.sign)


def test_a_stage_that_is_not_there(stranger_bundle: Bundle) -> None:
    for number in (-1, 3):
        with pytest.raises(ImageError, match=f"stages 0 to 2, not {number}"):
            image.of_stage(stranger_bundle, number, version=1)


def test_names_are_cut_and_made_printable(stranger_bundle: Bundle) -> None:
    model = {**stranger_bundle.manifest.model, "name": "n\u00e4me\n" + "x" * 70}
    renamed = replace(stranger_bundle, manifest=replace(stranger_bundle.manifest, model=model))
    manifest = image.of_stage(renamed, 0, version=1).manifest
    assert manifest is not None
    assert manifest.name == "n?me?" + "x" * 59
