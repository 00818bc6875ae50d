"""Images of two bundles for the boards of a simulation: signed, and small enough for its flash.

Theory of operation. Version v of a stage belongs to bundle v % 2; the models of a bundle stay the
same from version to version, so that only the version is newer. A model is bytes that stand for
weights: what a stage computes depends on all of them. Key and signatures are the same everywhere
(RFC 6979), as everything is that enters a simulation; the key protects nothing.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from host.packing import keys
from host.sim import _sim
from partitioner import image

SLOT_BYTES = 32768  # FLASH_SLOT of flash.h
CUTS = 2
_SECRET = 1507_16594
_INT8 = "int8"


@dataclass(frozen=True)
class Packed:
    """An image's bytes; `word` is the CRC-32 of its model, `digest` its SHA-256."""

    data: bytes
    word: int
    digest: bytes


@cache
def _key() -> keys.PrivateKey:
    return keys.from_key(ec.derive_private_key(_SECRET, ec.SECP256R1()))


@cache
def verify(digest: bytes, signature: bytes) -> bool:
    """Whether the simulation's key made this signature. Asked a few times for every boot."""
    return _key().public.verify(digest, signature)


@cache
def pack(
    cuts: tuple[tuple[int, ...], tuple[int, ...]], input_bytes: int, model_bytes: int, versions: int
) -> tuple[Packed, ...]:
    """Every stage of version 1, then of version 2 and so on.

    Args:
        cuts: bytes that each stage makes, in even versions and in odd ones.

    Raises:
        ImageError: it does not fit into a slot.
    """
    return tuple(
        _pack(version, stage, (input_bytes, *cuts[version % CUTS]), model_bytes)
        for version in range(1, versions + 1)
        for stage in range(len(cuts[0]))
    )


def _pack(version: int, stage: int, sizes: tuple[int, ...], model_bytes: int) -> Packed:
    bundle = version % CUTS
    model = hashlib.shake_128(f"model {bundle} {stage}".encode()).digest(model_bytes)
    golden = hashlib.shake_128(f"input {bundle} {stage}".encode()).digest(sizes[stage])
    word = zlib.crc32(model)
    made = _sim.ffi.new("uint8_t[]", sizes[stage + 1])
    _sim.lib.sim_compute(word, stage, golden, len(golden), made, sizes[stage + 1])
    received, sent, result = (
        image.Tensor(_INT8, (size,), 0.0, 0) for size in (*sizes[stage : stage + 2], sizes[-1])
    )
    output = bytes(_sim.ffi.buffer(made))
    data = image.encode(
        image.Image(
            kind=image.STAGE,
            version=version,
            downgrade_from=0,
            firmware=0,
            chip=image.CHIPS["esp32s3"],
            stage=stage,
            stage_count=len(sizes) - 1,
            arena_bytes=0,
            manifest=image.Manifest(
                bundle=bytes([bundle + 1]) * image.DIGEST_BYTES,
                name="simulated",
                received=(received,),
                outputs=(sent,),
                inputs=(0,),
                sent=(0,),
                operators=(image.Operator(32, (zlib.crc32(output),)),),
                result=(result,),
            ),
            model=model,
            input=golden,
            output=output,
        ),
        _key().sign,
    )
    if len(data) > SLOT_BYTES:
        raise image.ImageError(
            f"update: stage {stage} makes an image of {len(data):,} bytes, and a simulated "
            f"slot has {SLOT_BYTES:,}; lower input_bytes, stages or model_bytes",
            "image_too_large",
        )
    return Packed(data, word, image.digest_of(data))
