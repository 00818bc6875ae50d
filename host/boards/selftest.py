"""The self-test of a stage: golden inputs in, every byte compared, the culprit named."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from partitioner.bundle import Bundle
from partitioner.chain import Stage
from partitioner.graph import Graph
from partitioner.kernels import Array, Kernels


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


def _first_wrong(bundle: Bundle, stage: Stage, kernels: Kernels, crcs: Array) -> str:
    """The first operator whose output has another CRC-32 than the bundle says."""
    graph = Graph(bundle.stages[stage.number])
    keeping = kernels.load(graph.data, keep_tensors=True)
    for vector in range(len(crcs)):
        received = golden(bundle, stage, vector)
        keeping.reset()
        keeping.run([received[i] for i in stage.spec.inputs])
        for op, spec in zip(graph.operators, stage.spec.operators, strict=True):
            for offset, tensor in enumerate(op.outputs):
                value = np.ascontiguousarray(keeping.tensor(tensor))
                if zlib.crc32(value.tobytes()) != crcs[vector, spec.crc_index + offset]:
                    shape = "x".join(str(n) for n in value.shape)
                    return f"operator {op.index} of the stage, {op.kind} to {shape}"
    return "the outputs differ although every operator agrees"
