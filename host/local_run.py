"""Split inference in this process: real images through the stages of a bundle, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models import preprocess
from models.images import ImageSet
from partitioner import evaluate, inputs, kernels
from partitioner.bundle import Bundle
from partitioner.graph import Graph
from partitioner.kernels import Array


@dataclass(frozen=True)
class Inference:
    """One image's way through the stages.

    `predicted` and `truth` are indices of the first output; `truth` is None if unknown.
    `boundaries[k]` are the tensors of boundary k as they were sent. `stage_us` is measured by this
    machine's clock. `compared_values` and `differing_values` count boundaries and outputs against
    the uncut model on the exact kernels; `exact_predicted` is what that one says.
    """

    name: str
    predicted: int
    exact_predicted: int
    truth: int | None
    boundaries: tuple[tuple[Array, ...], ...]
    stage_us: tuple[float, ...]
    compared_values: int
    differing_values: int


def run(bundle: Bundle, image_set: ImageSet, chosen: kernels.Kernels) -> Iterator[Inference]:
    """Run every image through the stages on `chosen` kernels and the uncut model on exact ones.

    Raises:
        KernelError: a stage does not load.
        EvaluateError: the bundle does not take images.
    """
    manifest = bundle.manifest
    graph = Graph(bundle.full)
    exact = kernels.exact().load(bundle.full, keep_tensors=True)
    chain = bundle.chain(chosen)
    crossing = [graph.crossing(position) for position in manifest.cut_positions]
    floats = preprocess.to_float(image_set.images, manifest.model["preprocessing"])
    rows = inputs.quantized([floats], manifest.inputs)
    truths = evaluate.class_indices(image_set, manifest)
    for name, truth, row in zip(image_set.names, truths, rows, strict=True):
        expected = exact.run(row)
        passage = chain.run(row)
        pairs = list(zip(expected, passage.outputs, strict=True))
        for indices, message in zip(crossing, passage.messages, strict=True):
            pairs += [(exact.tensor(i), value) for i, value in zip(indices, message, strict=True)]
        yield Inference(
            name=name,
            predicted=int(np.argmax(passage.outputs[0])),
            exact_predicted=int(np.argmax(expected[0])),
            truth=truth,
            boundaries=passage.messages,
            stage_us=passage.stage_us,
            compared_values=sum(a.size for a, _ in pairs),
            differing_values=sum(int((a.reshape(-1) != b.reshape(-1)).sum()) for a, b in pairs),
        )
