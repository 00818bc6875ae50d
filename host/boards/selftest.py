"""The self-test of a stage: golden inputs in, every byte compared, the culprit named."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partitioner.bundle import Bundle
from partitioner.chain import Stage
from partitioner.graph import Graph
from partitioner.image import Image
from partitioner.kernels import Array, Interpreter, Kernels


@dataclass(frozen=True)
class SelfTest:
    """How the golden inputs went: `passed` of `vectors` gave the expected bytes.

    `first_wrong` names the first operator whose output disagrees, None if all agree.
    """

    vectors: int
    passed: int
    first_wrong: str | None


def golden(bundle: Bundle, stage: Stage, vector: int = 0) -> tuple[Array, ...]:
    """What the stage receives in the self-test."""
    arrays = bundle.selftest()
    name = f"boundary_{stage.number - 1}" if stage.number else "input"
    return tuple(arrays[f"{name}_{i}"][vector] for i in range(len(stage.received)))


def selftest(bundle: Bundle, stage: Stage, kernels: Kernels) -> SelfTest:
    """Run every golden input and compare the bytes of what is sent on."""
    arrays = bundle.selftest()
    last = stage.number == len(bundle.manifest.boundaries)
    name = "output" if last else f"boundary_{stage.number}"
    vectors = bundle.manifest.selftest["vectors"]
    passed = 0
    for vector in range(vectors):
        stage.reset()
        done = stage.run(golden(bundle, stage, vector))
        expected = [arrays[f"{name}_{i}"][vector] for i in range(len(stage.sent))]
        if all(a.tobytes() == b.tobytes() for a, b in zip(expected, done.tensors, strict=True)):
            passed += 1
    wrong = None if passed == vectors else _first_wrong(bundle, stage, kernels, arrays["crc32"])
    return SelfTest(vectors, passed, wrong)


def image_selftest(image: Image, stage: Stage, kernels: Kernels) -> tuple[SelfTest, int]:
    """Run the golden input of an image; also the number of the first operator that is wrong.

    Args:
        stage: the image's, as `partitioner.image.open_stage` opens it.
    """
    received = stage.decode(image.input, [tensor.bytes for tensor in stage.received])
    stage.reset()
    made = b"".join(np.ascontiguousarray(t).tobytes() for t in stage.run(received).tensors)
    if made == image.output:
        return SelfTest(1, 1, None), 0
    assert image.manifest is not None
    crcs = [op.crc32 for op in image.manifest.operators]
    graph = Graph(image.model)
    number, wrong = _compare(graph, _keep(graph, stage, received, kernels), crcs)
    return SelfTest(1, 0, wrong or _NONE_WRONG), number


_NONE_WRONG = "the outputs differ although every operator agrees"


def _first_wrong(bundle: Bundle, stage: Stage, kernels: Kernels, crcs: Array) -> str:
    """The first operator whose output has another CRC-32 than the bundle says."""
    graph = Graph(bundle.stages[stage.number])
    columns = [
        [spec.crc_index + offset for offset in range(len(op.outputs))]
        for op, spec in zip(graph.operators, stage.spec.operators, strict=True)
    ]
    for vector in range(len(crcs)):
        keeping = _keep(graph, stage, golden(bundle, stage, vector), kernels)
        expected = [[int(crcs[vector, column]) for column in row] for row in columns]
        _, wrong = _compare(graph, keeping, expected)
        if wrong is not None:
            return wrong
    return _NONE_WRONG


def _keep(graph: Graph, stage: Stage, received: Sequence[Array], kernels: Kernels) -> Interpreter:
    """An interpreter after a run that kept every tensor."""
    keeping = kernels.load(graph.data, keep_tensors=True)
    keeping.reset()
    keeping.run([received[i] for i in stage.spec.inputs])
    return keeping


def _compare(
    graph: Graph, keeping: Interpreter, expected: Sequence[Sequence[int]]
) -> tuple[int, str | None]:
    """The first operator with other CRC-32s than expected: its number, and its name."""
    for op, crcs in zip(graph.operators, expected, strict=True):
        for tensor, crc in zip(op.outputs, crcs, strict=True):
            value = np.ascontiguousarray(keeping.tensor(tensor))
            if zlib.crc32(value.tobytes()) != crc:
                shape = "x".join(str(n) for n in value.shape)
                return op.index, f"operator {op.index} of the stage, {op.kind} to {shape}"
    return len(graph.operators), None
