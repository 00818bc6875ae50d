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


def run(testbed: Testbed, bundle: Bundle, image_set: ImageSet) -> Iterator[LinkInference]:
    """Send every image through the chain, one after another.

    Raises:
        BoardError: an inference failed, by the name of what went wrong.
    """
    manifest = bundle.manifest
    uncut = kernels.exact().load(bundle.full, arena_bytes=manifest.full["arena_bytes"])
    truths = evaluate.class_indices(image_set, manifest)
    for number, (name, truth) in enumerate(zip(image_set.names, truths, strict=True)):
        started = time.perf_counter_ns()
        pixels = image_set.images[number : number + 1]
        floats = preprocess.to_float(pixels, manifest.model["preprocessing"])
        (row,) = inputs.quantized([floats], manifest.inputs)
        prepared_us = (time.perf_counter_ns() - started) // 1000
        found = testbed.infer(row)
        wanted = uncut.run(row)
        yield LinkInference(
            name=name,
            predicted=int(np.argmax(found.outputs[0])),
            truth=truth,
            exact=all(
                a.tobytes() == b.tobytes() for a, b in zip(wanted, found.outputs, strict=True)
            ),
            preprocess_us=prepared_us,
            round=found,
        )
