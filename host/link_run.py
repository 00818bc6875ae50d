"""Split inference over a link: real images through a chain of nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from host.testbed import Round, Testbed
from models import preprocess
from models.images import ImageSet
from partitioner import evaluate, inputs, kernels
from partitioner.bundle import Bundle
from partitioner.kernels import Array
from partitioner.manifest import Manifest


@dataclass(frozen=True)
class Example:
    """Something to infer on, and what must come out.

    `pixels` is uint8 (1, height, width, channels), or None where `quantized` are the network's
    inputs as they are. `truth` is the index of the right class, None if unknown; `wanted` the
    uncut model's outputs on the exact kernels.
    """

    name: str
    pixels: Array | None
    quantized: tuple[Array, ...]
    truth: int | None
    wanted: tuple[Array, ...]


@dataclass(frozen=True)
class LinkInference:
    """One image's way through the chain.

    `predicted` and `truth` are indices of the first output, `truth` None if unknown. `exact`
    says whether every byte of the result equals the uncut model's on the exact kernels.
    """

    name: str
    predicted: int
    truth: int | None
    exact: bool
    preprocess_us: int
    round: Round


def examples(bundle: Bundle, image_set: ImageSet) -> Iterator[Example]:
    """Each image with what the uncut model makes of it.

    Raises:
        KernelError: the model does not load.
        EvaluateError: the bundle does not take images.
    """
    manifest = bundle.manifest
    uncut = kernels.exact().load(bundle.full, arena_bytes=manifest.full["arena_bytes"])
    truths = evaluate.class_indices(image_set, manifest)
    for number, (name, truth) in enumerate(zip(image_set.names, truths, strict=True)):
        pixels = image_set.images[number : number + 1]
        row = quantized(pixels, manifest)
        yield Example(name, pixels, row, truth, tuple(uncut.run(row)))


def golden_examples(bundle: Bundle) -> list[Example]:
    """The bundle's own golden inputs; they need no images."""
    arrays, manifest = bundle.selftest(), bundle.manifest
    return [
        Example(
            f"golden input {vector}",
            None,
            tuple(arrays[f"input_{i}"][vector] for i in range(len(manifest.inputs))),
            None,
            tuple(arrays[f"output_{i}"][vector] for i in range(len(manifest.outputs))),
        )
        for vector in range(manifest.selftest["vectors"])
    ]


def quantized(pixels: Array, manifest: Manifest) -> tuple[Array, ...]:
    """The network's inputs for an image, uint8 (1, height, width, channels)."""
    floats = preprocess.to_float(pixels, manifest.model["preprocessing"])
    (row,) = inputs.quantized([floats], manifest.inputs)
    return tuple(row)


def infer(testbed: Testbed, bundle: Bundle, example: Example) -> LinkInference:
    """Send one example through the chain.

    Raises:
        BoardError: it failed, by the name of what went wrong.
    """
    started = time.perf_counter_ns()
    row = example.quantized
    if example.pixels is not None:
        row = quantized(example.pixels, bundle.manifest)
    prepared_us = (time.perf_counter_ns() - started) // 1000
    found = testbed.infer(row)
    return LinkInference(
        name=example.name,
        predicted=int(np.argmax(found.outputs[0])),
        truth=example.truth,
        exact=all(
            a.tobytes() == b.tobytes() for a, b in zip(example.wanted, found.outputs, strict=True)
        ),
        preprocess_us=prepared_us,
        round=found,
    )


def run(testbed: Testbed, bundle: Bundle, image_set: ImageSet) -> Iterator[LinkInference]:
    """Send every image through the chain, one after another.

    Raises:
        BoardError: an inference failed, by the name of what went wrong.
    """
    for example in examples(bundle, image_set):
        yield infer(testbed, bundle, example)
